//! `totoro-control audit`, following and exporting.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::everything;
use crate::support::{Control, PATIENCE, binary};

/// The command, writing to us.
fn follow(control: &Control, arguments: &[&str]) -> (Child, std::sync::mpsc::Receiver<Value>) {
    let mut child = Command::new(binary())
        .args(["audit", "--follow"])
        .args(arguments)
        .env("TOTORO_API", &control.api)
        .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
        }
    });
    (child, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_follows_across_a_restart_and_exports() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    let port = control.api.rsplit(':').next().unwrap().to_owned();
    let listen = format!("listen = \"127.0.0.1:{port}\"");
    control.reconfigure(&[("listen = \"127.0.0.1:0\"", &listen)]);
    let (mut child, lines) = follow(&control, &["--ndjson", "--limit", "1", "--node", "n1"]);
    let next = || lines.recv_timeout(PATIENCE).unwrap();
    let shown = next();
    assert_eq!(shown["kind"], "node.online");
    let (invite, _) = control.invite(&node, json!({})).await;
    assert_eq!(next()["invite"], json!(invite));
    control.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    control.restart();
    let (invite, _) = control.invite(&node, json!({})).await;
    let told = loop {
        // The node may be missed meanwhile, which is told too.
        let told = next();
        if told["kind"] == "invite.created" {
            break told;
        }
    };
    assert_eq!(told["invite"], json!(invite));
    child.kill().unwrap();
    child.wait().unwrap();

    let (mut child, lines) = follow(&control, &["--limit", "1", "--kind", "invite.created"]);
    let line = lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.as_str().unwrap().contains(&invite), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();

    let run = |arguments: &[&str]| {
        let output = Command::new(binary())
            .arg("audit")
            .args(arguments)
            .env("TOTORO_API", &control.api)
            .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let exported: Vec<Value> = run(&["--ndjson"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(exported, everything(&control, 1000).await);
    assert_eq!(run(&["--ndjson", "--limit", "2"]).lines().count(), 2);
    assert_eq!(run(&["--until", "1h", "--ndjson"]), "");
    let table = run(&["--limit", "3"]);
    assert_eq!(table.lines().count(), 4, "{table}");
}
