//! More connections than there are places, by frps and by a local stranger.

use super::*;

/// Few places, and nobody loses one for being silent: only who comes can cost it.
const PLACES: usize = 8;

fn few() -> Limits {
    Limits {
        connections: PLACES,
        read: Duration::from_secs(600),
        ..Limits::default()
    }
}

/// What no rate limits.
fn question(secret: &str) -> Vec<u8> {
    request("CloseProxy", secret, &ask("CloseProxy", "{}"))
}

/// The same on a connection that is kept.
fn one_of_many(secret: &str) -> String {
    let whole = String::from_utf8(question(secret)).unwrap();
    whole.replace("Connection: close\r\n", "")
}

/// Asks on a connection that is kept, with any secret: the status.
async fn kept(stream: &mut TcpStream, secret: &str) -> String {
    let whole = one_of_many(secret);
    stream.write_all(whole.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = patiently(stream.read(&mut buffer)).await.unwrap();
    let answer = String::from_utf8_lossy(&buffer[..read]).into_owned();
    answer.chars().skip("HTTP/1.1 ".len()).take(3).collect()
}

/// A new connection that is kept, whose first question with this secret is answered so.
async fn asked(at: SocketAddr, secret: &str, status: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(kept(&mut stream, secret).await, status);
    stream
}

/// frps asks on a connection of its own.
async fn asked_anew(at: SocketAddr) -> String {
    exchange(at, &question("s3cret")).await
}

/// What a stranger does with a connection.
#[derive(Clone, Copy, PartialEq)]
enum Stranger {
    IsSilent,
    HasAnotherSecret,
}

impl Stranger {
    async fn connect(self, at: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.unwrap();
        if self == Stranger::HasAnotherSecret {
            // One that gave way meanwhile has no answer.
            let _ = stream.write_all(one_of_many("wrong").as_bytes()).await;
            let _ = patiently(stream.read(&mut [0; 1024])).await;
        }
        stream
    }
}

#[tokio::test]
async fn a_stranger_who_takes_all_places_keeps_frps_from_none() {
    for stranger in [Stranger::IsSilent, Stranger::HasAnotherSecret] {
        let server = start(few(), true).await;
        let mut proven = asked(server.at, "s3cret", "200").await;
        let mut held = Vec::new();
        for _ in 0..PLACES {
            held.push(stranger.connect(server.at).await);
        }
        for round in 0..50 {
            // As many beside each of its questions as can't make it the oldest before it is answered: of the
            // places two are `proven` and, maybe, its last question, which is just being closed.
            let flood = async {
                for _ in 0..PLACES - 3 {
                    held.push(stranger.connect(server.at).await);
                }
            };
            let (answer, ()) = tokio::join!(asked_anew(server.at), flood);
            assert_eq!(refusal(&answer), None, "round {round}: {answer}");
            // Never ended for any of them, though it is the oldest of all.
            assert_eq!(kept(&mut proven, "s3cret").await, "200", "round {round}");
        }
        assert_eq!(server.clerk.asked.load(Ordering::Relaxed), 101);
    }
}

#[tokio::test]
async fn the_oldest_without_the_secret_gives_way() {
    let server = start(few(), true).await;
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(asked(server.at, "wrong", "401").await);
    }
    // Shows it after all, and is none of them any more.
    assert_eq!(kept(&mut held[0], "s3cret").await, "200");
    for _ in 0..2 {
        held.push(asked(server.at, "s3cret", "200").await);
    }
    for (nth, mut stream) in held.into_iter().enumerate() {
        if [1, 2].contains(&nth) {
            let ended = patiently(stream.read(&mut [0; 16])).await;
            assert!(matches!(ended, Ok(0) | Err(_)), "{nth}: {ended:?}");
        } else {
            assert_eq!(kept(&mut stream, "s3cret").await, "200", "{nth}");
        }
    }
}

#[tokio::test]
async fn while_all_have_shown_the_secret_one_that_comes_waits() {
    let server = start(few(), true).await;
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(asked(server.at, "s3cret", "200").await);
    }
    let at = server.at;
    let waits = tokio::spawn(async move { asked_anew(at).await });
    for _ in 0..20 {
        for stream in &mut held {
            assert_eq!(kept(stream, "s3cret").await, "200");
        }
    }
    assert!(!waits.is_finished());
    assert_eq!(
        server.clerk.asked.load(Ordering::Relaxed),
        21 * PLACES,
        "it was not heard"
    );
    drop(held.pop());
    let answer = patiently(waits).await.unwrap();
    assert_eq!(refusal(&answer), None, "{answer}");
}
