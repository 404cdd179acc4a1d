//! Whatever answers in the control plane's place: the program ends soon, says why, and gives away
//! nothing.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use totoro_api::code::InviteCode;

/// Something on loopback that answers every request by `answer`; its URL, and how many came.
fn serve(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).unwrap_or(0) > 0 {
                counted.fetch_add(1, Ordering::SeqCst);
                answer(&mut stream);
            }
        }
    });
    (url, count)
}

fn answer(status: &str, body: &str) -> impl Fn(&mut TcpStream) + Send + 'static {
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    move |stream| {
        stream.write_all(text.as_bytes()).ok();
    }
}

fn code() -> String {
    InviteCode::from_entropy([5; 16]).to_string()
}

/// `totoro WORDS` against that control plane, with a code and something in frpc's place.
fn totoro(url: &str, words: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let frpc = home.path().join("frpc");
    std::fs::write(&frpc, "#!/bin/sh\necho 0.70.1\n").unwrap();
    std::fs::set_permissions(&frpc, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_totoro"));
    command
        .args(words)
        .env_clear()
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .env("TOTORO_CONTROL", url)
        .env("TOTORO_INVITE", code())
        .env("TOTORO_FRPC", &frpc);
    let output = command.output().unwrap();
    let left = std::fs::read_dir(home.path().join("totoro"));
    assert_eq!(
        left.map_or(0, |left| left.count()),
        0,
        "files are left behind"
    );
    output
}

/// Ends with this exit code, and these words in its errors; never with the code in them.
fn ends(output: &Output, exit: i32, words: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{errors}");
    assert!(errors.contains(words), "{errors}");
    assert!(errors.len() < 2000 && !errors.contains(&code()), "{errors}");
    assert!(!errors.contains('\u{1b}'), "{errors:?}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
    let status = |out: std::process::Stdio| {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_totoro"));
        command.args(["status", "--json"]).stdout(out).env_clear();
        command.env("XDG_RUNTIME_DIR", home.path());
        command.output().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    ends(&status(writer.into()), 0, "");
    let full = std::fs::File::options().write(true).open("/dev/full");
    ends(&status(full.unwrap().into()), 1, "totoro: cannot write: ");
}

#[test]
fn ten_megabytes() {
    let (url, _) = serve(answer("200 OK", &"x".repeat(10 << 20)));
    ends(&totoro(&url, &["tcp", "22"]), 1, "more than 512 KiB");
    ends(&totoro(&url, &["nodes"]), 1, "more than 4096 KiB");
}

#[test]
fn an_answer_without_end() {
    let (url, _) = serve(|stream| {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let mut more = stream.write_all(head.as_bytes());
        while more.is_ok() {
            more = stream.write_all(&[b' '; 65536]);
        }
    });
    ends(&totoro(&url, &["usage"]), 1, "more than 512 KiB");
}

#[test]
fn no_control_plane_at_all() {
    let (url, _) = serve(answer("200 OK", "<html>hello</html>"));
    ends(&totoro(&url, &["tcp", "22"]), 1, "cannot be read");
    let (url, _) = serve(answer("404 Not Found", "nothing here"));
    ends(&totoro(&url, &["tcp", "22"]), 1, "HTTP 404");
    let (url, _) = serve(|stream| {
        stream.write_all(&[0xff; 4096]).ok();
    });
    ends(&totoro(&url, &["nodes"]), 3, "cannot reach");
    ends(&totoro("http://127.0.0.1:1", &["nodes"]), 3, "refused");
}

#[test]
fn a_code_is_not_sent_elsewhere() {
    let (elsewhere, came) = serve(answer("200 OK", "{}"));
    let status = format!("307 Temporary Redirect\r\nlocation: {elsewhere}/api/v1/invites/resolve");
    let (url, _) = serve(answer(&status, ""));
    ends(&totoro(&url, &["tcp", "22"]), 1, "it sends elsewhere");
    assert_eq!(came.load(Ordering::SeqCst), 0);
}

#[test]
fn what_it_says_is_no_order_to_the_terminal() {
    let body = r#"{"code":"max_moons","detail":"\u001b[2Jgone\u202e","next":"look\u0007 up"}"#;
    let (url, _) = serve(answer("409 Conflict", body));
    let output = totoro(&url, &["tcp", "22", "--lang", "en"]);
    ends(&output, 1, "max_moons: [2Jgone\n  next: look  up");
}

#[test]
fn a_way_in_that_would_write_frpcs_file() {
    let limits = serde_json::to_value(totoro_api::limits::Effective::fallback()).unwrap();
    let resolved = serde_json::json!({
        "invite": "a\"\n[[proxies]]\nplugin = \"static_file\"", "node": "n-1", "node_name": "n1",
        "server_addr": ["n1:7000"], "limits": limits, "usage": {}, "ticket": "", "tls_ca": "",
        "ticket_expires_at": "", "renew_after": "", "frpc_toml": "", "command": "",
    });
    let (url, _) = serve(answer("200 OK", &resolved.to_string()));
    ends(&totoro(&url, &["tcp", "22"]), 1, "an id is none");
}
