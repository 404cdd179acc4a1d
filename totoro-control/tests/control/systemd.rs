//! What systemd sees: readiness, life and a graceful end.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Control, PATIENCE, binary};

/// Receives until this is told; answers what was told before.
fn until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let (began, mut before) = (Instant::now(), Vec::new());
    loop {
        assert!(began.elapsed() < PATIENCE, "{wanted} after {before:?}");
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.lines().any(|line| line == wanted) {
            return before;
        }
        before.push(text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_of_start_life_and_end() {
    let mut control = Control::start();
    assert!(control.terminate().success());
    let [path, log] = ["notify", "notifying.log"].map(|name| control.dir.path().join(name));
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut child = Command::new(binary())
        .args(["serve", "--config"])
        .arg(control.at().join("control.toml"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(until(&socket, "READY=1").len() < 2);
    for _ in 0..3 {
        until(&socket, "WATCHDOG=1");
    }

    // A long poll that is open when the end comes is answered, and the end does not wait for it.
    let api = line.trim().strip_prefix("listening on ").unwrap();
    control.api = api.to_owned();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let poll = crate::support::Node::watch_from(&state, "30s");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (answer, ()) = tokio::join!(control.get(&poll, &node.key), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        kill(pid, Signal::SIGTERM).unwrap();
    });
    assert_eq!(answer.status.as_u16(), 204, "{}", answer.text);
    until(&socket, "STOPPING=1");
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(status.await.unwrap().success());
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!said.contains("did not end in time"), "{said}");
}

/// With every program there, whatever is installed here, systemd has nothing to say about the units.
#[test]
fn the_units_hold() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let dir = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in std::fs::read_dir(deploy).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.ends_with(".service") && !name.ends_with(".socket") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let there = |line: &str| match line.strip_prefix("ExecStart=") {
            Some(_) => "ExecStart=/bin/true\n".to_owned(),
            None => format!("{line}\n"),
        };
        let text: String = text.lines().map(there).collect();
        let unit = dir.path().join(name);
        std::fs::write(&unit, text).unwrap();
        units.push(unit);
    }
    assert_eq!(units.len(), 4);
    let mut verify = Command::new("systemd-analyze");
    let Ok(said) = verify.args(["verify", "--man=no"]).args(&units).output() else {
        eprintln!("skipped: no systemd-analyze here");
        return;
    };
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.is_empty(), "{text}");
}
