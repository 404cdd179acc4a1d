//! `totoro serve` and those who should not get anywhere with it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use totoro_api::code::InviteCode;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running one; it is killed when dropped.
struct Serve {
    child: Child,
    home: tempfile::TempDir,
    at: String,
    token: String,
}

/// What it answered.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Serve {
    /// With that control plane, and something in frpc's place.
    fn start(control: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let frpc = home.path().join("frpc");
        std::fs::write(&frpc, "#!/bin/sh\necho 0.70.1\n").unwrap();
        std::fs::set_permissions(&frpc, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_totoro"))
            .args(["serve", "--json", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path())
            .env("TOTORO_CONTROL", control)
            .env("TOTORO_FRPC", &frpc)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let file = said["token_file"].as_str().unwrap();
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let url = said["url"].as_str().unwrap();
        Serve {
            child,
            home,
            at: url
                .strip_prefix("http://")
                .unwrap()
                .trim_end_matches('/')
                .to_owned(),
            token: std::fs::read_to_string(file).unwrap(),
        }
    }

    /// Asks, with just these headers beside the length.
    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        for header in headers {
            request.push_str(&format!("{header}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        // It may answer and close before it has all of it.
        stream.write_all(request.as_bytes()).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Answer {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn host(&self) -> String {
        format!("host: {}", self.at)
    }

    fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.token)
    }

    /// A form of the page.
    fn form(&self, path: &str, fields: &str) -> Answer {
        let kind = "content-type: application/x-www-form-urlencoded";
        let body = format!("token={}&{fields}", self.token);
        self.ask("POST", path, &[&self.host(), kind], &body)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        let status = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert!(status.success());
            let left = std::fs::read_dir(self.home.path().join("totoro")).unwrap();
            assert_eq!(left.count(), 0, "files are left behind");
        }
    }
}

/// Something on loopback that answers every request with this.
fn control(body: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = body.len();
            if stream.read(&mut request).unwrap_or(0) > 0 {
                let text = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(text.as_bytes()).ok();
            }
        }
    });
    url
}

#[test]
fn another_page_and_another_name_get_nowhere() {
    let serve = Serve::start("http://127.0.0.1:1");
    let (host, bearer) = (serve.host(), serve.bearer());
    let port = serve.at.rsplit(':').next().unwrap();
    let rebound = format!("host: evil.example:{port}");
    for path in [
        "/",
        "/nodes",
        "/api/v1/frp/connections",
        "/api/v1/frp/events",
    ] {
        assert_eq!(
            serve.ask("GET", path, &[&rebound], "").status,
            403,
            "{path}"
        );
        assert_eq!(
            serve.ask("GET", path, &[&rebound, &bearer], "").status,
            403,
            "{path}"
        );
        let framed = ["sec-fetch-site: cross-site", "sec-fetch-dest: iframe"];
        assert_eq!(
            serve
                .ask("GET", path, &[&host, framed[0], framed[1]], "")
                .status,
            403,
            "{path}"
        );
    }
    let evil = "origin: https://evil.example";
    let connect = "/api/v1/frp/connect";
    let body = r#"{"node":"n1","proxies":[{"type":"tcp","local":22}]}"#;
    let json = "content-type: application/json";
    for headers in [
        vec![&*host, json],
        vec![&*host, json, evil, &bearer],
        vec![&*host, json, "origin: null", &bearer],
        vec![&*host, "content-type: text/plain", "x-totoro-token: 0"],
    ] {
        assert_eq!(
            serve.ask("POST", connect, &headers, body).status,
            403,
            "{headers:?}"
        );
    }
    let kind = "content-type: application/x-www-form-urlencoded";
    for path in ["/look", "/connect", "/stop", "/restore"] {
        let answer = serve.ask("POST", path, &[&host, kind], "token=0&code=x&way=x&id=x");
        assert_eq!(answer.status, 403, "{path}");
        let body = format!("token={}&code=x", serve.token);
        assert_eq!(
            serve.ask("POST", path, &[&host, kind, evil], &body).status,
            403,
            "{path}"
        );
    }
    let page = serve.ask("GET", "/", &[&host], "");
    assert_eq!(page.status, 200);
    for policy in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "cache-control: no-store",
    ] {
        assert!(page.head.contains(policy), "{policy}");
    }
    assert!(!page.head.contains("unsafe") && !page.head.contains("access-control"));
}

#[test]
fn what_makes_no_sense_is_told_with_the_next_step() {
    let serve = Serve::start("http://127.0.0.1:1");
    let (host, bearer) = (serve.host(), serve.bearer());
    let json = "content-type: application/json";
    let good = InviteCode::from_entropy([5; 16]).to_string();
    let service = r#""proxies":[{"type":"tcp","local":22}]"#;
    for (body, status, code) in [
        ("".to_owned(), 400, "request_malformed"),
        ("{".to_owned(), 400, "request_malformed"),
        (format!("{{{service}}}"), 400, "request_malformed"),
        (
            format!("{{\"node\":\"n\",\"invite\":\"{good}\",{service}}}"),
            400,
            "request_malformed",
        ),
        (
            format!("{{\"node\":\"n\",\"nodes\":1,{service}}}"),
            422,
            "request_malformed",
        ),
        (
            "{\"node\":\"n\",\"proxies\":[]}".to_owned(),
            400,
            "request_malformed",
        ),
        (
            "{\"node\":\"n\",\"proxies\":[{\"type\":\"stcp\",\"local\":1}]}".to_owned(),
            422,
            "request_malformed",
        ),
        (
            format!("{{\"invite\":\"tn1-x\",{service}}}"),
            400,
            "invite_unknown",
        ),
        (
            format!("{{\"invite\":\"{good}\",{service}}}"),
            502,
            "control_unreachable",
        ),
        (
            format!("{{\"node\":\"n\",\"control\":\"http://192.0.2.1\",{service}}}"),
            400,
            "request_malformed",
        ),
        (
            format!("{{\"node\":\"{}\",{service}}}", "x".repeat(1 << 20)),
            413,
            "request_malformed",
        ),
    ] {
        let answer = serve.ask(
            "POST",
            "/api/v1/frp/connect",
            &[&host, &bearer, json],
            &body,
        );
        let shown = &body[..body.len().min(90)];
        assert_eq!(answer.status, status, "{shown}: {}", answer.body);
        let said: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(said["code"], code, "{shown}");
        assert!(
            said["next"].as_str().is_some_and(|next| !next.is_empty()),
            "{shown}"
        );
        assert!(!answer.body.contains(&good), "the code comes back");
    }
    assert_eq!(
        serve
            .ask("GET", "/api/v1/frp/connections/x", &[&host], "")
            .status,
        404
    );
    let stop = serve.ask("DELETE", "/api/v1/frp/connections/x", &[&host, &bearer], "");
    assert_eq!(stop.status, 404);
    assert_eq!(
        serve
            .ask("DELETE", "/api/v1/frp/connections/x", &[&host], "")
            .status,
        403
    );
    let all = serve.ask("GET", "/api/v1/frp/connections", &[&host], "");
    assert_eq!(all.body, r#"{"items":[]}"#);
}

#[test]
fn a_hostile_control_planes_words_are_words() {
    let evil = "</script><script>alert(1)</script><img src=x>\u{202e}";
    let limits = serde_json::to_value(totoro_api::limits::Effective::fallback()).unwrap();
    let resolved = serde_json::json!({
        "invite": "inv-1", "node": "n-1", "node_name": evil, "server_addr": ["n1:7000"],
        "limits": limits, "usage": {}, "ticket": "", "tls_ca": "", "ticket_expires_at": "",
        "renew_after": "", "frpc_toml": "", "command": "", "unenforced": [evil],
    });
    let serve = Serve::start(&control(resolved.to_string()));
    let code = InviteCode::from_entropy([5; 16]).to_string();
    let page = serve.form("/look", &format!("code={code}"));
    assert_eq!(page.status, 200, "{}", page.body);
    for markup in ["<script>alert", "<img", &code] {
        assert!(!page.body.contains(markup), "{markup}");
    }
    assert!(page.body.contains("&#60;img src=x"), "it is shown");
    let serve = Serve::start(&control("x".repeat(10 << 20)));
    let page = serve.form("/look", &format!("code={code}"));
    assert_eq!(page.status, 400);
    assert!(page.body.contains("more than 512 KiB"), "{}", page.body);
    let nodes = serve.ask("GET", "/nodes?lang=en", &[&serve.host()], "");
    assert!(nodes.body.contains("more than 4096 KiB"), "{}", nodes.body);
    let huge = serve.form("/look", &format!("code={}", "x".repeat(1 << 20)));
    assert_eq!(huge.status, 413);
}
