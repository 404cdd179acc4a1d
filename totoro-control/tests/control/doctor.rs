//! `doctor` on installations in every state, and a damaged store.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Control, binary};

fn run(arguments: &[&str], at: &Path) -> Output {
    Command::new(binary())
        .args(arguments)
        .arg("--config")
        .arg(at.join("control.toml"))
        .env_remove("TOTORO_TOKEN")
        .output()
        .unwrap()
}

/// The findings and the exit code.
fn doctor(control: &Control) -> (Vec<Value>, Option<i32>) {
    let api = ["doctor", "--json", "--api", &control.api];
    let output = run(&api, &control.at());
    let lines = serde_json::from_slice(&output.stdout).unwrap();
    (lines, output.status.code())
}

/// `status` and `detail` of the first finding of a component.
#[track_caller]
fn about<'a>(lines: &'a [Value], component: &str) -> (&'a str, &'a str) {
    let found = lines.iter().find(|line| line["component"] == component);
    let found = found.unwrap_or_else(|| panic!("no {component} in {lines:?}"));
    (
        found["status"].as_str().unwrap(),
        found["detail"].as_str().unwrap(),
    )
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The store's files with their bytes.
fn files(data: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(data).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap_or_default();
            (path, bytes)
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn running_stopped_and_killed() {
    let mut control = Control::start();
    chmod(&control.at().join("data"), 0o700);
    control.node("n1").await;
    let (lines, code) = doctor(&control);
    assert_eq!(code, Some(0), "{lines:?}");
    assert_eq!(about(&lines, "store").1, "the running server has it");
    assert_eq!(about(&lines, "port").0, "ok");
    let (status, detail) = about(&lines, "backup");
    assert!(status == "warn" && detail.contains("--out"), "{detail}");
    control
        .call("POST", "/admin/backup", &control.admin, None)
        .await;
    assert_eq!(about(&doctor(&control).0, "backup").0, "ok");
    for component in [
        "settings", "modes", "disk", "audit", "keys", "clock", "exposure",
    ] {
        assert_eq!(about(&lines, component).0, "ok", "{component}");
    }

    assert!(control.terminate().success());
    let before = files(&control.at().join("data"));
    let (lines, code) = doctor(&control);
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(about(&lines, "store").1.contains("closed in order"));
    assert_eq!(about(&lines, "schema").0, "ok");
    assert_eq!(about(&lines, "port").0, "warn");
    assert_eq!(files(&control.at().join("data")), before, "it only looks");

    control.restart();
    control.node("n2").await;
    control.kill();
    let before = files(&control.at().join("data"));
    let (lines, code) = doctor(&control);
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(about(&lines, "store").1.contains("was not closed"));
    assert_eq!(files(&control.at().join("data")), before, "it only looks");
    let shown = run(&["doctor"], &control.at());
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.starts_with("COMPONENT"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_told_and_left_as_it_is() {
    let mut control = Control::start();
    control.node("n1").await;
    let data = control.at().join("data");
    for killed in [false, true] {
        match killed {
            true => control.kill(),
            false => assert!(control.terminate().success()),
        }
        let whole = std::fs::read(data.join("db")).unwrap();
        let used = whole.iter().rposition(|&byte| byte != 0).unwrap();
        let mut flipped = whole.clone();
        flipped[used / 3] ^= 1;
        for damaged in [flipped, whole[..used / 2].to_vec(), Vec::new()] {
            std::fs::write(data.join("db"), damaged).unwrap();
            let before = files(&data);
            let output = run(&["serve"], &control.at());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains("totoro-control restore") && said.contains("Nothing was changed"),
                "{said}"
            );
            assert_eq!(files(&data), before, "killed: {killed}");
            let (lines, code) = doctor(&control);
            assert_eq!((about(&lines, "store").0, code), ("fail", Some(1)));
            assert_eq!(files(&data), before, "killed: {killed}");
        }
        std::fs::write(data.join("db"), whole).unwrap();
        control.restart();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_what_to_do() {
    let mut control = Control::start();
    assert!(control.terminate().success());
    let at = control.at();
    chmod(&at.join("data"), 0o750);
    chmod(&at.join("secrets/server.key"), 0o644);
    let (lines, code) = doctor(&control);
    assert_eq!(code, Some(1));
    let failed: Vec<&str> = lines
        .iter()
        .filter(|line| line["status"] == "fail")
        .map(|line| line["detail"].as_str().unwrap())
        .collect();
    assert!(failed.iter().any(|detail| detail.contains("chmod 700")));
    assert!(failed.iter().any(|detail| detail.contains("chmod 600")));

    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap();
    let file = at.join("control.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("127.0.0.1:0", &port.to_string())).unwrap();
    let output = run(&["doctor", "--json"], &at);
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(about(&lines, "port").0, "fail", "{lines:?}");
    drop(holder);

    std::fs::write(&file, "listen = 1").unwrap();
    let output = run(&["doctor", "--json"], &at);
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((lines.len(), output.status.code()), (1, Some(1)));
    assert_eq!(about(&lines, "settings").0, "fail");
}
