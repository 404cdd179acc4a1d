//! Decisions that take long, and that nobody waits for.

use super::*;

/// Waits until so many were decided to the end.
async fn decided(clerk: &Counting, count: usize) {
    let all = async {
        while clerk.asked.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(30), all).await;
    within.expect("decided to the end");
}

#[tokio::test]
async fn a_decision_that_hangs_is_a_refusal_and_is_decided_all_the_same() {
    for holds in [false, true] {
        let limits = Limits {
            decide: Duration::from_millis(50),
            ..quick()
        };
        let clerk = Counting {
            good: true,
            takes: Duration::from_millis(500),
            holds,
            ..Counting::default()
        };
        let server = start_with(limits, clerk).await;
        let login = request("Login", "s3cret", &ask("Login", LOGIN));
        let answer = exchange(server.at, &login).await;
        assert_eq!(refusal(&answer).as_deref(), Some("internal"), "{answer}");
        decided(&server.clerk, 1).await;
    }
}

#[tokio::test]
async fn who_asks_when_enough_are_being_decided_waits() {
    let limits = Limits {
        requests: 2,
        ..Limits::default()
    };
    let clerk = Counting {
        good: true,
        takes: Duration::from_millis(20),
        ..Counting::default()
    };
    let server = start_with(limits, clerk).await;
    let login = request("Login", "s3cret", &ask("Login", LOGIN));
    let ask = |_| {
        let (at, login) = (server.at, login.clone());
        tokio::spawn(async move { exchange(at, &login).await })
    };
    let asked: Vec<_> = (0..20).map(ask).collect();
    for answer in asked {
        assert_eq!(refusal(&answer.await.unwrap()), None);
    }
    assert_eq!(server.clerk.most.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_was_asked_is_decided_though_who_asked_has_gone() {
    let clerk = Counting {
        takes: Duration::from_millis(300),
        ..Counting::default()
    };
    let server = start_with(quick(), clerk).await;
    let mut stream = TcpStream::connect(server.at).await.unwrap();
    let login = request("Login", "s3cret", &ask("Login", LOGIN));
    stream.write_all(&login).await.unwrap();
    while server.clerk.told.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    decided(&server.clerk, 1).await;
}
