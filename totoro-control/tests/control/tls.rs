//! TLS by file, and the admins' own address, with the real binary.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::ca::{Authority, trusting};
use crate::support::{Control, PATIENCE, binary};

/// A certificate and its key, in this directory, of an authority made for it; a client that trusts
/// that one alone.
fn certificate(dir: &Path) -> reqwest::Client {
    let authority = Authority::new();
    authority.sign([127, 0, 0, 1].into(), dir);
    trusting(&authority.pem())
}

/// A server whose address speaks TLS, and a client that trusts it.
fn start() -> Control {
    let mut control = Control::start();
    let http = certificate(&control.at());
    control.reconfigure(&[(
        "insecure_http = false",
        "insecure_http = false\ntls = { cert = \"cert.pem\", key = \"key.pem\" }",
    )]);
    control.http = http;
    control
}

fn run(arguments: &[&str], control: &Control) -> Output {
    Command::new(binary())
        .args(arguments)
        .arg("--config")
        .arg(control.at().join("control.toml"))
        .output()
        .unwrap()
}

/// Waits until the log holds this so many times.
async fn logged(control: &Control, text: &str, times: usize) {
    let began = Instant::now();
    while control.log().matches(text).count() < times {
        assert!(began.elapsed() < PATIENCE, "{text} is not logged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_cuts_nobody_and_a_bad_one_changes_nothing() {
    let control = start();
    assert!(
        control.api.starts_with("https://127.0.0.1:"),
        "{}",
        control.api
    );
    let node = control.node("n1").await;
    let before = control.http.clone();
    let ask = |http: &reqwest::Client| http.get(format!("{}/healthz", control.api)).send();

    // A poll that is open while the files change.
    let state = node.come_up(&control).await;
    let poll = crate::support::Node::watch_from(&state, "3s");
    let (open, fresh) = tokio::join!(control.get(&poll, &node.key), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let renewed = certificate(&control.at());
        control.signal(Signal::SIGHUP);
        logged(&control, "loaded again", 1).await;
        renewed
    });
    assert_eq!(open.status.as_u16(), 204, "{}", open.text);
    assert!(
        ask(&fresh).await.is_ok(),
        "new connections have the new one"
    );
    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(ask(&stranger).await.is_err(), "nobody else trusts it");
    assert!(ask(&before).await.is_ok(), "its connection goes on");

    let key = control.at().join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    control.signal(Signal::SIGHUP);
    logged(&control, "stay as they were", 1).await;
    let doctor = run(&["doctor", "--json"], &control);
    let lines: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    let line = lines.iter().find(|line| line["component"] == "certificate");
    let detail = line.unwrap()["detail"].as_str().unwrap();
    assert!(detail.contains("chmod 600"), "{detail}");
    std::fs::write(control.at().join("cert.pem"), "nothing").unwrap();
    control.signal(Signal::SIGHUP);
    logged(&control, "stay as they were", 2).await;
    let again = fresh.get(format!("{}/healthz", control.api));
    let again = again.header("connection", "close").send().await.unwrap();
    assert_eq!(again.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_takes_its_time_is_cut() {
    let control = start();
    let address = control.api.strip_prefix("https://").unwrap();
    let stallers = [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"];
    let ends = stallers.into_iter().cycle().take(90).map(|sent| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(sent).unwrap();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let _ = stream.read_to_end(&mut Vec::new());
            assert!(began.elapsed() < PATIENCE, "it is not cut");
        })
    });
    let ends: Vec<_> = ends.collect();
    // Others are served while they stall.
    let alive = || control.http.get(format!("{}/healthz", control.api));
    let fresh = alive().header("connection", "close").send().await;
    assert_eq!(fresh.unwrap().status().as_u16(), 200);
    for end in ends {
        end.await.unwrap();
    }
    assert!(alive().send().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_not_served_in_the_clear_and_a_readable_key_not_at_all() {
    let mut control = start();
    assert!(control.terminate().success());
    let key = control.at().join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = run(&["serve"], &control);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("key.pem") && said.contains("chmod 600"),
        "{said}"
    );

    let file = control.at().join("control.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (without, _) = text
        .split_once("tls = ")
        .map_or((text.as_str(), ""), |(a, _)| (a, ""));
    let without = format!("{without}\n").replace("127.0.0.1:0", "0.0.0.0:0");
    std::fs::write(&file, without).unwrap();
    let refused = run(&["serve"], &control);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for way in ["[tls]", "loopback", "insecure_http"] {
        assert!(said.contains(way), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_have_an_address_of_their_own() {
    let mut control = Control::start();
    let admin = control.with_admin_address();
    let main = std::mem::replace(&mut control.api, admin.clone());
    control.get("/admin/nodes", &control.admin).await.with(200);
    control
        .get("/public/nodes", "")
        .await
        .refused(404, "not_found");
    control
        .get("/nodes/self", "x")
        .await
        .refused(404, "not_found");
    control.api = main;
    control.get("/public/nodes", "").await.with(200);
    control
        .get("/admin/nodes", &control.admin)
        .await
        .refused(404, "not_found");
    for base in [&control.api, &admin] {
        let ready = control.http.get(format!("{base}/readyz")).send().await;
        assert_eq!(ready.unwrap().status().as_u16(), 200);
    }
}
