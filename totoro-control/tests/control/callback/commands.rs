//! `node enroll-callback` and `node frps-config`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::support::{Control, binary};

pub(super) fn run(control: &Control, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("TOTORO_API", &control.api)
        .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"));
    let ca = control.dir.path().join("ca.pem");
    if ca.exists() {
        command.env("SSL_CERT_FILE", ca);
    }
    command.output().unwrap()
}

#[track_caller]
pub(super) fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Enrols a node without a daemon, as an operator does; answers its frps's blocks.
pub(super) fn enrolled(control: &Control, node: &str, key_file: &Path) -> String {
    let file = key_file.to_str().unwrap();
    text(&run(
        control,
        &["node", "enroll-callback", node, "--key-file", file],
    ));
    text(&run(
        control,
        &["node", "frps-config", node, "--key-file", file],
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_enrols_a_stock_frps() {
    let control = Control::start();
    let new = json!({
        "name": "n1", "server_addr": ["192.0.2.1:7000"],
        "pool": { "tcp": ["20000-20009"], "udp": [] },
    });
    let made = control
        .post("/admin/nodes", &control.admin, new)
        .await
        .with(201);
    let id = made["id"].as_str().unwrap();
    let file = control.dir.path().join("n1.key");
    let blocks = enrolled(&control, "n1", &file);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read_to_string(&file).unwrap();
    let toml: toml::Table = blocks.parse().unwrap();
    let plugins = toml["httpPlugins"].as_array().unwrap();
    let host = control.api.strip_prefix("http://").unwrap();
    let ops = [
        ("handshake", ["Login", "Ping", "NewWorkConn"]),
        ("proxy", ["NewProxy", "CloseProxy", "NewUserConn"]),
    ];
    assert_eq!(plugins.len(), ops.len());
    for (plugin, (door, ops)) in plugins.iter().zip(ops) {
        let addr = format!("http://{id}:{}@{host}", key.trim());
        assert_eq!(plugin["addr"].as_str(), Some(addr.as_str()));
        let path = format!("/api/v1/frps/auth/{door}");
        assert_eq!(plugin["path"].as_str(), Some(path.as_str()));
        assert_eq!(plugin["ops"], toml::Value::try_from(ops).unwrap());
        assert_eq!(
            plugin["tlsVerify"].as_bool(),
            Some(false),
            "plain HTTP here"
        );
    }
    let file = file.to_str().unwrap();
    let https = [
        "node",
        "frps-config",
        id,
        "--key-file",
        file,
        "--control",
        "https://c.example/",
    ];
    let https = text(&run(&control, &https));
    assert!(
        https.contains("tlsVerify = true") && https.contains("@c.example\""),
        "{https}"
    );

    // A key is never overwritten, and only a key is printed.
    let again = run(
        &control,
        &["node", "enroll-callback", "n1", "--key-file", file],
    );
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(file).unwrap(), key);
    let token = control.at().join("admin.token");
    let wrong = [
        "node",
        "frps-config",
        id,
        "--key-file",
        token.to_str().unwrap(),
    ];
    let wrong = run(&control, &wrong);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains("ta1-"));
    let unknown = [
        "node",
        "enroll-callback",
        "n9",
        "--key-file",
        "/nonexistent/x/key",
    ];
    assert_eq!(run(&control, &unknown).status.code(), Some(1));
}
