//! Bad input over real sockets. The clerk only counts what reaches it: nothing bad may.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use totoro_api::decide::client_of;
use totoro_api::wire::plugin::{CloseProxy, Login, NewProxy};

use super::*;

mod deciding;
mod places;

/// Logins that no rate of 5 a second takes, on a busy machine neither.
const MANY: usize = 300;

#[derive(Default)]
struct Counting {
    asked: AtomicUsize,
    dropped: AtomicUsize,
    /// Where each Login came from.
    told: Mutex<Vec<String>>,
    good: bool,
    /// Logins that are being decided, and the most that were at once.
    now: AtomicUsize,
    most: AtomicUsize,
    /// How long a Login takes.
    takes: Duration,
    /// And keeps its thread.
    holds: bool,
}

impl Counting {
    fn ask(&self) -> Answer {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.good {
            Answer::allow()
        } else {
            Answer::refuse(&Reason::TicketMissing.into())
        }
    }
}

impl Clerk for Counting {
    fn client(&self, told: &str) -> Result<Option<SocketAddr>, Refusal> {
        match told.strip_prefix("stamped:").unwrap_or(told) {
            "busy" => Err(Reason::RateLimited.into()),
            address => Ok(client_of(address)),
        }
    }

    async fn login(&self, body: &Login, _: serde_json::Value) -> Answer {
        let told = body.client_address.clone();
        self.told.lock().unwrap().push(told);
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        if self.holds {
            tokio::task::block_in_place(|| std::thread::sleep(self.takes));
        } else {
            tokio::time::sleep(self.takes).await;
        }
        self.now.fetch_sub(1, Ordering::Relaxed);
        self.ask()
    }

    async fn new_proxy(
        &self,
        _: &NewProxy,
        _: impl FnOnce() -> Result<serde_json::Value, Refusal> + Send,
    ) -> Answer {
        self.ask()
    }

    async fn close_proxy(&self, _: &CloseProxy) {
        self.ask();
    }

    fn drop_connection(&self, _: SocketAddr) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

struct Running {
    at: SocketAddr,
    clerk: Arc<Counting>,
    _stop: oneshot::Sender<()>,
    _serving: Serving,
}

async fn start(limits: Limits, good: bool) -> Running {
    let clerk = Counting {
        good,
        ..Counting::default()
    };
    start_with(limits, clerk).await
}

async fn start_with(limits: Limits, clerk: Counting) -> Running {
    let clerk = Arc::new(clerk);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::new(Arc::clone(&clerk), "s3cret", limits);
    let serving = server.start(listener, async {
        let _ = stopped.await;
    });
    Running {
        at,
        clerk,
        _stop: stop,
        _serving: serving.unwrap(),
    }
}

fn quick() -> Limits {
    Limits {
        read: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn request(op: &str, secret: &str, body: &[u8]) -> Vec<u8> {
    let auth = STANDARD.encode(format!("{USER}:{secret}"));
    let head = format!(
        "POST {PATH}?op={op}&version=0.1.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {auth}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Nothing here waits longer. Shorter than an idle connection may be, so what is ended within it was ended
/// for another reason.
async fn patiently<T>(what: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(Duration::from_secs(60), what);
    within.await.expect("an answer or an end")
}

/// Sends bytes, and reads what comes until the other side closes.
async fn exchange(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // The server may have answered and closed before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = patiently(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The refusal's code in a 200 answer.
fn refusal(answer: &str) -> Option<String> {
    let parts = answer.split_once("\r\n\r\n");
    let (head, body) = parts.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let answer: Answer = serde_json::from_str(body).unwrap();
    assert!(
        answer.unchange || answer.content.is_some(),
        "frps would take it for zeros"
    );
    answer.reject.then(|| {
        let code = answer.reject_reason.strip_prefix("totoro[").unwrap();
        code.split_once(']').unwrap().0.to_owned()
    })
}

fn ask(op: &str, content: &str) -> Vec<u8> {
    format!(r#"{{"version":"0.1.0","op":"{op}","content":{content}}}"#).into_bytes()
}

const LOGIN: &str = r#"{"client_address":"192.0.2.1:5","pool_count":1}"#;

#[tokio::test]
async fn whatever_is_wrong_is_a_refusal_that_frps_understands() {
    let server = start(quick(), true).await;
    let deep = "[".repeat(10_000);
    for (what, op, body, code) in [
        (
            "no JSON",
            "Login",
            b"\x00\xff garbage".to_vec(),
            "request_malformed",
        ),
        ("nothing", "Login", vec![], "request_malformed"),
        (
            "truncated JSON",
            "Login",
            ask("Login", LOGIN)[..40].to_vec(),
            "request_malformed",
        ),
        ("null", "Login", b"null".to_vec(), "request_malformed"),
        (
            "a null content",
            "Login",
            ask("Login", "null"),
            "request_malformed",
        ),
        (
            "a list",
            "NewProxy",
            ask("NewProxy", "[1]"),
            "request_malformed",
        ),
        (
            "a wrong type",
            "Login",
            ask("Login", r#"{"pool_count":"x"}"#),
            "request_malformed",
        ),
        (
            "too deep",
            "Login",
            ask("Login", &deep),
            "request_malformed",
        ),
        (
            "another op",
            "Login",
            ask("Ping", "{}"),
            "request_malformed",
        ),
        ("unknown op", "Ping", ask("Ping", "{}"), "unsupported"),
        ("no op", "", ask("", "{}"), "unsupported"),
        (
            "too large",
            "Login",
            vec![b' '; 70_000],
            "request_too_large",
        ),
    ] {
        let answer = exchange(server.at, &request(op, "s3cret", &body)).await;
        assert_eq!(refusal(&answer).as_deref(), Some(code), "{what}: {answer}");
    }
    assert_eq!(
        server.clerk.asked.load(Ordering::Relaxed),
        0,
        "none of it reaches the clerk"
    );

    let answer = exchange(server.at, &request("Login", "s3cret", &ask("Login", LOGIN))).await;
    assert_eq!(refusal(&answer), None, "and then it still works: {answer}");
}

#[tokio::test]
async fn a_wrong_secret_is_told_nothing() {
    let server = start(quick(), true).await;
    let good = ask("Login", LOGIN);
    let bare = |answer: &str| answer.starts_with("HTTP/1.1 401") && answer.ends_with("\r\n\r\n");
    for secret in ["", "s3cre", "s3cret2", "S3CRET"] {
        let answer = exchange(server.at, &request("Login", secret, &good)).await;
        assert!(bare(&answer), "{secret}: {answer}");
    }
    let none = b"POST /frps?op=Login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(bare(&exchange(server.at, none).await));
    assert_eq!(server.clerk.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn other_paths_and_methods_are_not_served() {
    let server = start(quick(), true).await;
    let whole = String::from_utf8(request("Login", "s3cret", b"")).unwrap();
    let other = exchange(server.at, whole.replace("/frps?", "/else?").as_bytes()).await;
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");
    let get = exchange(server.at, whole.replace("POST", "GET").as_bytes()).await;
    assert!(get.starts_with("HTTP/1.1 405"), "{get}");
}

#[tokio::test]
async fn slow_and_broken_requests_end() {
    let server = start(quick(), true).await;
    let whole = request("Login", "s3cret", &ask("Login", LOGIN));
    let body_at = whole.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;

    let headers = exchange(server.at, &whole[..30]).await;
    assert!(
        headers.is_empty() || headers.starts_with("HTTP/1.1 408"),
        "{headers}"
    );
    let body = exchange(server.at, &whole[..body_at + 10]).await;
    assert_eq!(
        refusal(&body).as_deref(),
        Some("request_malformed"),
        "{body}"
    );

    let garbage = exchange(server.at, b"\x16\x03\x01 this is no HTTP\r\n\r\n").await;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"),
        "{garbage}"
    );
    let answer = exchange(server.at, &whole).await;
    assert_eq!(refusal(&answer), None, "{answer}");
}

#[tokio::test]
async fn logins_are_limited_by_source_before_the_clerk_looks() {
    let server = start(quick(), false).await;
    let login = request("Login", "s3cret", &ask("Login", LOGIN));
    let mut codes = Vec::new();
    for _ in 0..MANY {
        codes.push(refusal(&exchange(server.at, &login).await).unwrap());
    }
    assert_eq!(codes[0], "ticket_missing");
    assert!(codes.iter().any(|code| code == "rate_limited"), "{codes:?}");
    assert!(server.clerk.asked.load(Ordering::Relaxed) < MANY);
    assert!(
        server.clerk.dropped.load(Ordering::Relaxed) >= 3,
        "20 failures end a connection"
    );
    let other = LOGIN.replace("192.0.2.1", "192.0.2.2");
    let login = request("Login", "s3cret", &ask("Login", &other));
    let answer = exchange(server.at, &login).await;
    assert_eq!(refusal(&answer).as_deref(), Some("ticket_missing"));
}

#[tokio::test]
async fn logins_that_are_malformed_are_held_to_the_rate_too() {
    let server = start(quick(), true).await;
    let content = r#"{"client_address":"192.0.2.1:5","pool_count":"many"}"#;
    let login = request("Login", "s3cret", &ask("Login", content));
    let mut codes = Vec::new();
    for _ in 0..MANY {
        codes.push(refusal(&exchange(server.at, &login).await).unwrap());
    }
    assert_eq!(codes[0], "request_malformed");
    assert!(codes.iter().any(|code| code == "rate_limited"), "{codes:?}");
    assert_eq!(server.clerk.asked.load(Ordering::Relaxed), 0);
    assert!(server.clerk.dropped.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn logins_that_come_with_no_address_are_one_source() {
    let server = start(quick(), false).await;
    let busy = ask("Login", r#"{"client_address":"busy","pool_count":1}"#);
    let answer = exchange(server.at, &request("Login", "s3cret", &busy)).await;
    assert_eq!(refusal(&answer).as_deref(), Some("rate_limited"));
    let mut codes = Vec::new();
    for nth in 0..MANY {
        // Over websocket frps tells the origin, which the client chooses.
        let content = format!(r#"{{"client_address":"http://{nth}.example/","pool_count":1}}"#);
        let login = request("Login", "s3cret", &ask("Login", &content));
        codes.push(refusal(&exchange(server.at, &login).await).unwrap());
    }
    assert!(codes.iter().any(|code| code == "rate_limited"), "{codes:?}");
    assert!(server.clerk.asked.load(Ordering::Relaxed) < MANY);
    assert_eq!(server.clerk.dropped.load(Ordering::Relaxed), 0);
    let answer = exchange(server.at, &request("Login", "s3cret", &ask("Login", LOGIN))).await;
    assert_eq!(refusal(&answer).as_deref(), Some("ticket_missing"));
}

#[tokio::test]
async fn a_stamped_login_is_its_connections_own() {
    let server = start(quick(), false).await;
    for nth in 0..20 {
        let content = format!(r#"{{"client_address":"stamped:192.0.2.1:{nth}","pool_count":1}}"#);
        let login = request("Login", "s3cret", &ask("Login", &content));
        exchange(server.at, &login).await;
    }
    let told = server.clerk.told.lock().unwrap().clone();
    assert_eq!(told.len(), 20);
    assert_eq!(told[7], "192.0.2.1:7", "what the clerk is told");
    // They spent the share of that address, and no other's.
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(refusal(
            &exchange(server.at, &request("Login", "s3cret", &ask("Login", LOGIN))).await,
        ));
    }
    assert!(
        codes
            .iter()
            .any(|code| code.as_deref() == Some("rate_limited")),
        "{codes:?}"
    );
    let other = LOGIN.replace("192.0.2.1", "http://192.0.2.1");
    let answer = exchange(
        server.at,
        &request("Login", "s3cret", &ask("Login", &other)),
    )
    .await;
    assert_eq!(refusal(&answer).as_deref(), Some("ticket_missing"));
}

#[tokio::test]
async fn a_proven_connection_may_be_idle_and_no_other() {
    let server = start(quick(), true).await;
    let whole = String::from_utf8(request("Login", "s3cret", &ask("Login", LOGIN))).unwrap();
    let kept = whole.replace("Connection: close\r\n", "");
    let mut stream = TcpStream::connect(server.at).await.unwrap();
    let mut buffer = vec![0; 4096];
    for _ in 0..2 {
        stream.write_all(kept.as_bytes()).await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(
            buffer[..read].starts_with(b"HTTP/1.1 200"),
            "answered again"
        );
        tokio::time::sleep(quick().read * 2).await;
    }
    let wrong = kept.replace("Basic ", "Basic x");
    let mut stream = TcpStream::connect(server.at).await.unwrap();
    stream.write_all(wrong.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ = patiently(stream.read_to_end(&mut all)).await;
    assert!(
        all.starts_with(b"HTTP/1.1 401"),
        "closed without waiting for more"
    );
}
