//! Stock frps and stock frpc against the control plane over TLS, with `tlsVerify`; nothing of ours
//! beside them.
//!
//! The binaries are those of `cargo xtask setup`; without them a test says so and passes, unless
//! `TOTORO_REQUIRE_KERNEL=1` says that nothing may be missing.

mod ends;
mod program;
mod refusals;
mod trust;
mod tunnel;
mod versions;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::commands::enrolled;
use crate::support::ca::{Authority, trusting};
use crate::support::{Control, PATIENCE, change};
use program::{Program, missing};

/// The newest frpc.
const FRPC: &str = "frpc";
/// What the node lends, for TCP and UDP.
const PORTS: std::ops::Range<u16> = 20_000..20_050;

/// A control plane that serves TLS by a certificate of an authority of our own, and a stock frps
/// that trusts it. They have a loopback address to themselves, so that their ports are free.
struct World {
    // Before the control plane, whose directory its log is in.
    frps: Program,
    control: Control,
    address: Ipv4Addr,
    /// The authority's certificate, in a file.
    ca: PathBuf,
}

/// An invite.
struct Invite {
    id: String,
    code: String,
    /// Its file, as it was answered.
    file: String,
}

impl World {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With some settings otherwise.
    async fn with(changes: &[(&str, &str)]) -> Self {
        let dir = Control::init(&["--ticket-ttl", "1h"]);
        let (address, at) = (loopback(), dir.path().join("control"));
        let (authority, ca) = (Authority::new(), dir.path().join("ca.pem"));
        std::fs::write(&ca, authority.pem()).unwrap();
        authority.sign(address.into(), &at);
        let listen = format!("\"{address}:8443\"");
        let public = format!("https://{address}:8443");
        let tls = "insecure_http = false\ntls = { cert = \"cert.pem\", key = \"key.pem\" }";
        change(
            &at,
            &[
                ("\"127.0.0.1:0\"", listen.as_str()),
                ("http://127.0.0.1:1", public.as_str()),
                ("insecure_http = false", tls),
                ("callback_ping = \"30s\"", "callback_ping = \"1s\""),
            ],
        );
        change(&at, changes);
        let mut control = Control::over(dir, &[]);
        control.http = trusting(&authority.pem());
        assert_eq!(control.api, public);

        let ports = format!("{}-{}", PORTS.start, PORTS.end - 1);
        let new = json!({
            "name": "n1", "server_addr": [format!("{address}:7000")], "visibility": "public",
            "pool": { "tcp": [ports], "udp": [ports] },
        });
        let made = control.post("/admin/nodes", &control.admin, new).await;
        made.with(201);
        let blocks = enrolled(&control, "n1", &control.dir.path().join("n1.key"));
        assert_eq!(blocks.matches("tlsVerify = true").count(), 2, "{blocks}");
        assert_eq!(blocks.matches("addr = \"https://").count(), 2, "{blocks}");
        let text = format!(
            "bindAddr = \"{address}\"\nproxyBindAddr = \"{address}\"\nbindPort = 7000\n\
             auth.token = \"\"\ntransport.tls.force = true\ntransport.heartbeatTimeout = 90\n\
             log.disablePrintColor = true\n{blocks}"
        );
        let frps = Program::start(control.dir.path(), "frps", "frps", &text, &ca);
        frps.wait_for("frps started successfully");
        World {
            frps,
            control,
            address,
            ca,
        }
    }

    fn dir(&self) -> &Path {
        self.control.dir.path()
    }

    async fn invite(&self, body: Value) -> Invite {
        let mut body = body;
        body["node"] = json!("n1");
        let control = &self.control;
        let made = control.post("/admin/invites", &control.admin, body).await;
        let made = made.with(201);
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        let (id, code) = (text("id"), text("code"));
        let resolved = control.post("/invites/resolve", "", json!({ "code": code }));
        let resolved = resolved.await.with(200);
        let file = resolved["frpc_toml"].as_str().unwrap().to_owned();
        Invite { id, code, file }
    }

    /// Starts the newest frpc on a file.
    fn frpc(&self, name: &str, file: &str) -> Program {
        Program::start(self.dir(), FRPC, name, file, &self.ca)
    }

    /// What a code's holder sees.
    async fn usage(&self, invite: &Invite) -> Value {
        let code = json!({ "code": invite.code });
        let answer = self.control.post("/invites/usage", "", code).await;
        answer.with(200)
    }

    /// Waits until the holder has so many leases.
    async fn leases(&self, invite: &Invite, count: usize) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let leases = self.usage(invite).await["leases"].clone();
            let leases = leases.as_array().unwrap();
            if leases.len() == count {
                return leases.clone();
            }
            assert!(began.elapsed() < PATIENCE, "not {count} but {leases:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn set_state(&self, invite: &Invite, state: &str) {
        let (path, admin) = (format!("/admin/invites/{}", invite.id), &self.control.admin);
        let body = json!({ "state": state });
        self.control.patch(&path, admin, body).await.with(200);
    }

    /// What a user reads at a public port; nothing where the connection is closed.
    fn visit(&self, port: u16) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect((self.address, port)) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.read_to_string(&mut text);
        }
        text
    }
}

/// One `[[proxies]]` block.
#[derive(Clone, Copy)]
struct Proxy {
    name: &'static str,
    kind: &'static str,
    local: u16,
    remote: u16,
}

/// A tcp proxy to this service.
const fn tcp(name: &'static str, local: u16, remote: u16) -> Proxy {
    Proxy {
        name,
        kind: "tcp",
        local,
        remote,
    }
}

/// The generated file, as it is, with these proxies at its end.
fn pasted(generated: &str, proxies: &[Proxy]) -> String {
    let mut text = generated.to_owned();
    for proxy in proxies {
        let Proxy {
            name,
            kind,
            local,
            remote,
        } = proxy;
        let _ = write!(
            text,
            "\n[[proxies]]\nname = \"{name}\"\ntype = \"{kind}\"\nlocalIP = \"127.0.0.1\"\n\
             localPort = {local}\nremotePort = {remote}\n"
        );
    }
    text
}

/// A loopback address that nobody else has taken, but by bad luck.
fn loopback() -> Ipv4Addr {
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes).unwrap();
    Ipv4Addr::new(127, bytes[0] | 64, bytes[1], bytes[2].clamp(1, 254))
}

/// Answers each connection with a line.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"hello\n"));
        }
    });
    port
}

/// Sends each datagram back.
fn echo() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    port
}
