//! Clients that mean harm: slow ones, idle ones by the thousand, and requests that are none. Each
//! gets a clear refusal or is cut, memory stays bounded, and others are served meanwhile.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Control, PATIENCE, answer, binary, quiet};

/// Slow clients of each kind.
const SLOW: usize = 16;
/// How long a slow or idle connection may last, with room for a busy machine.
const END: Duration = Duration::from_secs(60);
/// What the server keeps for each connection at most, bytes: its buffer, and as much again.
const PER_CONNECTION: u64 = 64 * 1024;

fn start() -> Control {
    Control::over(Control::init(&[]), &[quiet()])
}

fn address(control: &Control) -> SocketAddr {
    control
        .api
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap()
}

/// What the server's process has resident, bytes.
fn resident(control: &Control) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", control.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// Descriptors that it has open.
fn descriptors(control: &Control) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", control.pid()));
    open.unwrap().count()
}

async fn is_served(control: &Control) {
    let url = format!("{}/healthz", control.api);
    let fresh = control.http.get(url).header("connection", "close");
    assert_eq!(answer(fresh).await.status.as_u16(), 200);
}

/// Says this, then one byte of `drip` five times a second; what it is answered until it is cut.
async fn slowly(to: SocketAddr, begin: &[u8], drip: Option<u8>) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(begin).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut said = Vec::new();
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if let Some(byte) = drip {
                let _ = write.write_all(&[byte]).await;
            }
        }
    };
    tokio::select! {
        // A reset ends it as well.
        _ = read.read_to_end(&mut said) => {}
        () = dripping => {}
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_cut_and_others_are_served_meanwhile() {
    let control = start();
    let to = address(&control);
    let head = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ";
    let body = b"POST /api/v1/invites/resolve HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n{";
    let kinds = [
        (&b""[..], None, ""),
        (head, None, ""),
        (head, Some(b'x'), ""),
        (body, None, "HTTP/1.1 408"),
        (body, Some(b' '), "HTTP/1.1 408"),
    ];
    let all = kinds
        .iter()
        .flat_map(|kind| std::iter::repeat_n(kind, SLOW));
    let slow = futures_util::future::join_all(all.map(async |&(begin, drip, expected)| {
        let said = slowly(to, begin, drip).await;
        assert!(
            said.starts_with(expected),
            "{said:?} for {begin:?} {drip:?}"
        );
    }));
    let serving = async {
        loop {
            is_served(&control).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(END, slow) => assert!(ended.is_ok(), "they live on"),
        () = serving => {}
    }
    is_served(&control).await;
}

/// Idle connections, each a task that ends when it is cut.
#[derive(Default)]
struct Idle {
    opened: AtomicUsize,
    cut: AtomicUsize,
}

impl Idle {
    /// Opens so many from each of these addresses.
    async fn open(self: &Arc<Self>, to: SocketAddr, from: std::ops::Range<u8>, each: usize) {
        let connects = from.flat_map(|last| std::iter::repeat_n(last, each));
        let connects = connects.map(async |last| {
            let socket = TcpSocket::new_v4().unwrap();
            let source = Ipv4Addr::new(127, 9, 0, last);
            socket.bind((source, 0).into()).unwrap();
            let mut stream = socket.connect(to).await.unwrap();
            self.opened.fetch_add(1, Ordering::Relaxed);
            let of = Arc::clone(self);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0]).await;
                of.cut.fetch_add(1, Ordering::Relaxed);
            });
        });
        futures_util::stream::iter(connects)
            .buffer_unordered(200)
            .collect::<()>()
            .await;
    }

    fn held(&self) -> usize {
        self.opened.load(Ordering::Relaxed) - self.cut.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_take_bounded_memory_and_lock_nobody_out() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    assert!(most > 12_000, "ulimit -Hn is {most}: raise it");
    let control = start();
    let (to, idle) = (address(&control), Arc::new(Idle::default()));
    is_served(&control).await;
    let before = resident(&control);

    // 256 of each address may stay, as set up; the rest is refused at once.
    idle.open(to, 1..39, 270).await;
    let refused = 38 * (270 - 256);
    let waiting = async {
        while idle.cut.load(Ordering::Relaxed) < refused {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("one address holds too many");
    is_served(&control).await;
    let (held, grown) = (idle.held(), resident(&control).saturating_sub(before));
    assert!(held > 9_000, "{held} held");

    // Past all that may be open, newcomers wait until idle ones are cut, which all are. (No more
    // than the kernel's queue takes: of those beyond it only the client believes that they are open.)
    idle.open(to, 39..43, 256).await;
    let open = descriptors(&control);
    assert!(open < 10_100, "{open} open");
    let full = resident(&control).saturating_sub(before);
    let patient = reqwest::Client::builder().no_proxy().timeout(END).build();
    let url = format!("{}/healthz", control.api);
    let served = patient.unwrap().get(url).send().await.unwrap();
    assert_eq!(served.status().as_u16(), 200);
    let ending = async {
        while idle.held() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(END, ending)
        .await
        .expect("idle ones live on");
    let most = grown.max(full);
    assert!(most < 10_000 * PER_CONNECTION, "{most} bytes more");
    // As many again take what these have left, and little more.
    idle.open(to, 1..39, 256).await;
    is_served(&control).await;
    let again = resident(&control).saturating_sub(before);
    assert!(
        again < 10_000 * PER_CONNECTION,
        "{again} bytes, {most} before"
    );
    println!(
        "{held} idle connections: {} KiB more resident, {} KiB at {open} descriptors, {} KiB when \
         they come again",
        grown >> 10,
        full >> 10,
        again >> 10
    );
}

#[test]
fn a_shells_small_limit_of_descriptors_is_raised() {
    let dir = Control::init(&[]);
    let mut shell = std::process::Command::new("sh");
    let serve = "ulimit -Sn 300; exec \"$0\" serve --config \"$1\"";
    shell
        .args(["-c", serve, binary()])
        .arg(dir.path().join("control/control.toml"));
    let mut child = shell.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let out = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id()));
    let _ = child.kill();
    child.wait().unwrap();
    let limits = limits.unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut figures = line.unwrap().split_whitespace();
    let (soft, hard) = (figures.next().unwrap(), figures.next().unwrap());
    assert!(soft == hard && soft != "300", "{soft} of {hard}");
}

/// What is no HTTP, or HTTP that nobody should send.
#[tokio::test]
async fn what_is_no_request_is_refused_as_one() {
    let control = start();
    let to = address(&control);
    let get = |path: &[u8], headers: &[u8]| {
        [
            b"GET ",
            path,
            b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n",
            headers,
            b"\r\n",
        ]
        .concat()
    };
    let post = |headers: &[u8], body: &[u8]| {
        let line = b"POST /api/v1/invites/resolve HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        [line, headers, b"\r\n", body].concat()
    };
    let long = [b"x-long: ", &[b'x'; 64 * 1024][..], b"\r\n"].concat();
    let many: Vec<u8> = (0..500)
        .flat_map(|n| format!("x-{n}: y\r\n").into_bytes())
        .collect();
    let requests: Vec<Vec<u8>> = vec![
        b"GARBAGE\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"BREW /api/v1/public/nodes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
        get(b"/\xff\xfe", b""),
        get(b"/api/v1/%ff%fe/%00", b""),
        get(b"/api/v1/nodes/../admin/nodes", b""),
        get(b"/api/v1/public/nodes?limit=%ff", b""),
        get(b"/api/v1/public/nodes?limit=99999999999999999999", b""),
        get(b"/api/v1/public/nodes?limit=-1", b""),
        get(b"/api/v1/public/nodes?cursor=%ff%ff", b""),
        get(b"/api/v1/nodes/self", b"authorization: Bearer \xff\xfe\r\n"),
        get(b"/api/v1/nodes/self", &long),
        get(b"/healthz", &many),
        [
            b"GET /",
            &[b'a'; 100_000][..],
            b" HTTP/1.1\r\nhost: x\r\n\r\n",
        ]
        .concat(),
        post(b"content-length: -1\r\n", b"{}"),
        post(b"content-length: 2\r\ncontent-length: 3\r\n", b"{}"),
        post(b"content-length: 99999999999999999999999\r\n", b"{}"),
        post(b"transfer-encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
        post(b"transfer-encoding: gzip\r\n", b"{}"),
    ];
    for request in requests {
        let mut stream = TcpStream::connect(to).await.unwrap();
        // It may be refused before all of it was sent.
        let _ = stream.write_all(&request).await;
        let mut said = Vec::new();
        let reading = stream.read_to_end(&mut said);
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        assert!(ended.is_ok(), "no end");
        let said = String::from_utf8_lossy(&said);
        let shown = String::from_utf8_lossy(&request[..request.len().min(80)]);
        assert!(said.starts_with("HTTP/1.1 4"), "{said:?} for {shown:?}");
    }
    is_served(&control).await;
}

/// Every endpoint that reads JSON, with bodies that are none, or not what it takes.
#[tokio::test]
async fn no_body_is_too_strange_for_a_clear_refusal() {
    let control = start();
    let node = control.node("n1").await;
    let (invite, _) = control.invite(&node, json!({})).await;
    let (key, admin) = (node.key.as_str(), control.admin.as_str());
    let own = format!("/nodes/invites/{invite}");
    let theirs = format!("/admin/invites/{invite}");
    let its = format!("/admin/nodes/{}", node.id);
    let endpoints = [
        ("POST", "/invites/resolve", ""),
        ("POST", "/invites/usage", ""),
        ("POST", "/oauth/token", ""),
        ("POST", "/nodes/enroll", "te1-x"),
        ("POST", "/nodes/heartbeat", key),
        ("POST", "/nodes/applied", key),
        ("POST", "/nodes/events", key),
        ("POST", "/nodes/invites", key),
        ("POST", "/nodes/bans", key),
        ("POST", "/nodes/self/key", key),
        ("PATCH", "/nodes/self", key),
        ("PATCH", own.as_str(), key),
        ("POST", "/admin/nodes", admin),
        ("POST", "/admin/invites", admin),
        ("POST", "/admin/bans", admin),
        ("POST", "/admin/tokens", admin),
        ("PATCH", its.as_str(), admin),
        ("PATCH", theirs.as_str(), admin),
    ];
    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    let inside = format!(
        "{{\"limits\":{}1{}}}",
        "{\"x\":".repeat(9_000),
        "}".repeat(9_000)
    );
    let bodies: Vec<Vec<u8>> = vec![
        b"\xff\xfe\xfd".to_vec(),
        b"{\"label\": \"\xc3\x28\"}".to_vec(),
        b"{\"code\": \"\\ud800\"}".to_vec(),
        b"{\"instance\": 5, \"code\": [], \"limits\": \"x\", \"name\": {}, \"prefix\": 1}".to_vec(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"\"x\"".to_vec(),
        b"1e999".to_vec(),
        inside.into_bytes(),
        deep,
        vec![b' '; 1_100_000],
    ];
    let before = resident(&control);
    for (method, path, bearer) in endpoints {
        for body in &bodies {
            let url = format!("{}/api/v1{path}", control.api);
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = control.http.request(method, url).bearer_auth(bearer);
            let request = request.header("if-match", "*").body(body.clone());
            let said = answer(request).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
            assert!(
                said.status.is_client_error(),
                "{path} {shown:?}: {}",
                said.text
            );
        }
    }
    is_served(&control).await;
    let grown = resident(&control).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    println!("strange bodies: {} KiB more resident", grown >> 10);
}
