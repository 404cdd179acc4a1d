//! Stock frps and stock frpc on loopback, nothing of ours beside them.
//!
//! The binaries are those of `cargo xtask setup`; without them the test says so and passes, unless
//! `TOTORO_REQUIRE_KERNEL=1` says that nothing may be missing.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::commands::enrolled;
use super::hasten;
use crate::support::{Control, PATIENCE, binary};

/// A child with its log; killed when dropped.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(dir: &Path, tool: &str, name: &str, config: &str) -> Program {
        let (file, log) = (
            dir.join(format!("{name}.toml")),
            dir.join(format!("{name}.log")),
        );
        std::fs::write(&file, config).unwrap();
        let out = std::fs::File::create(&log).unwrap();
        let child = Command::new(tools().join(tool))
            .arg("-c")
            .arg(file)
            .env("no_proxy", "*")
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Program { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.said().contains(text) {
            assert!(
                began.elapsed() < PATIENCE,
                "no {text:?} in\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.said());
        }
    }
}

/// `target/tools`, beside the profile's directory.
fn tools() -> PathBuf {
    let profile = Path::new(binary()).parent().unwrap();
    profile.parent().unwrap().join("tools")
}

fn missing() -> bool {
    let lacks = ["frps", "frpc"]
        .iter()
        .any(|tool| !tools().join(tool).exists());
    if lacks {
        let required = std::env::var("TOTORO_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
        assert!(!required, "frps and frpc are missing: cargo xtask setup");
        eprintln!("skipped: frps and frpc are missing (cargo xtask setup)");
    }
    lacks
}

/// A free loopback port. Somebody else may take it before it is used; then the test fails loudly.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Answers each connection with a line.
fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"hello\n"));
        }
    });
    port
}

/// What a user reads at a public port; nothing where the connection is closed.
fn visit(port: u16) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// The generated file with these proxies in place of its example, and the oldest fetch address
/// replaced by where the control plane listens.
fn file(generated: &Value, control: &Control, proxies: &[(&str, &str, u16, u16)]) -> String {
    let generated = generated.as_str().unwrap();
    let head = generated.split("\n# A tunnel").next().unwrap();
    let mut text = format!("log.disablePrintColor = true\n{head}\n")
        .replace("http://127.0.0.1:1/", &format!("{}/", control.api));
    for (name, kind, local, remote) in proxies {
        text.push_str(&format!(
            "[[proxies]]\nname = \"{name}\"\ntype = \"{kind}\"\nlocalIP = \"127.0.0.1\"\n\
             localPort = {local}\nremotePort = {remote}\n"
        ));
    }
    text
}

async fn usage(control: &Control, code: &str) -> Value {
    let code = json!({ "code": code });
    control.post("/invites/usage", "", code).await.with(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_through_stock_frps_and_frpc() {
    if missing() {
        return;
    }
    let mut control = Control::start();
    hasten(&mut control, "10m", "10m");
    let dir = control.dir.path().to_owned();
    let (bind, port) = (free_port(), free_port());
    let new = json!({
        "name": "n1", "server_addr": [format!("127.0.0.1:{bind}")],
        "pool": { "tcp": [port.to_string()], "udp": [] },
    });
    control
        .post("/admin/nodes", &control.admin, new)
        .await
        .with(201);
    let blocks = enrolled(&control, "n1", &dir.join("n1.key"));
    let frps = Program::start(
        &dir,
        "frps",
        "frps",
        &format!(
            "bindAddr = \"127.0.0.1\"\nproxyBindAddr = \"127.0.0.1\"\nbindPort = {bind}\n\
             auth.token = \"\"\nlog.disablePrintColor = true\n{blocks}"
        ),
    );
    frps.wait_for("frps started successfully");
    let invites = json!({ "node": "n1", "limits": { "types": ["tcp"], "max_clients": 1 } });
    let made = control
        .post("/admin/invites", &control.admin, invites)
        .await
        .with(201);
    let (id, code) = (made["id"].as_str().unwrap(), made["code"].as_str().unwrap());
    let resolve = json!({ "code": code });
    let resolved = control
        .post("/invites/resolve", "", resolve)
        .await
        .with(200);
    let generated = &resolved["frpc_toml"];

    // A working tunnel; what is refused stands in frpc's own log.
    let local = backend();
    let proxies = [("web", "tcp", local, port), ("bad", "udp", local, 0)];
    let frpc = Program::start(&dir, "frpc", "frpc", &file(generated, &control, &proxies));
    frpc.wait_for("[web] start proxy success");
    frpc.wait_for("[bad] start error: totoro[proxy_type_denied]: ");
    assert_eq!(visit(port), "hello\n");
    let used = usage(&control, code).await;
    assert_eq!(
        (
            &used["leases"][0]["port"],
            &used["leases"].as_array().unwrap().len()
        ),
        (&json!(port), &1)
    );
    assert_eq!(used["grade"], "callback");
    // It pings once a second, and lives beyond three of them.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(visit(port), "hello\n");

    // Another client of the invite is told why not.
    let second = Program::start(&dir, "frpc", "second", &file(generated, &control, &[]));
    second.wait_for("totoro[max_clients]: ");
    second.stop();

    // Paused: the session lives, users are refused; active again, they are not.
    let path = format!("/admin/invites/{id}");
    let set = async |state: &str| {
        let body = json!({ "state": state });
        control.patch(&path, &control.admin, body).await.with(200);
    };
    set("paused").await;
    assert_eq!(visit(port), "");
    frps.wait_for("totoro[invite_paused]");
    set("active").await;
    assert_eq!(visit(port), "hello\n");

    // Gone, its lease is free at once, and its place too.
    frpc.stop();
    let began = Instant::now();
    while !usage(&control, code).await["leases"]
        .as_array()
        .unwrap()
        .is_empty()
    {
        assert!(began.elapsed() < PATIENCE, "the lease stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let any = [("web", "tcp", local, 0)];
    let back = Program::start(&dir, "frpc", "back", &file(generated, &control, &any));
    back.wait_for("[web] start proxy success");
    assert_eq!(visit(port), "hello\n", "the same port again");

    // Revoked, its next ping ends it, and it is told why.
    control.delete(&path, &control.admin).await;
    back.wait_for("totoro[invite_revoked]");
    assert_eq!(visit(port), "");
    let events = control.kinds(&format!("&invite={id}&kind=session.")).await;
    assert_eq!(
        events
            .iter()
            .filter(|kind| *kind != "session.refused")
            .count(),
        4,
        "two sessions, opened and closed: {events:?}"
    );
    for secret in [
        code,
        std::fs::read_to_string(dir.join("n1.key")).unwrap().trim(),
    ] {
        assert!(!control.log().contains(secret), "a secret in the log");
    }
}
