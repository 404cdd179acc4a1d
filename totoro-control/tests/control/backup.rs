//! Backup and restore, as an operator runs them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Control, Node, binary};

/// A command with the control plane's address and token in its environment.
fn run(control: &Control, arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .env("TOTORO_API", &control.api)
        .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"))
        .env("TOTORO_CONTROL_CONFIG", control.at().join("control.toml"))
        .output()
        .unwrap()
}

#[track_caller]
fn good(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: Output, with: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(with), "{with:?} is not in: {said}");
    said
}

#[track_caller]
fn backup(control: &Control, name: &str, more: &[&str]) -> PathBuf {
    let out = control.dir.path().join(name);
    let arguments = [&["backup", "--out", out.to_str().unwrap()], more].concat();
    good(run(control, &arguments));
    out
}

fn restore(from: &Path, at: &Path, more: &[&str]) -> Output {
    Command::new(binary())
        .args(["restore", "--from"])
        .arg(from)
        .arg("--config")
        .arg(at.join("control.toml"))
        .args(more)
        .output()
        .unwrap()
}

/// The same clients go on with another installation; this one ends.
fn over(mut control: Control, at: &Path) -> Control {
    control.kill();
    at.clone_into(&mut control.at);
    let admin = std::fs::read_to_string(at.join("admin.token")).unwrap();
    admin.trim().clone_into(&mut control.admin);
    control.restart();
    control
}

/// Every file under a directory with its bytes.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_machine_comes_back_with_keys_codes_trail_and_a_new_generation() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control
        .invite(&node, json!({ "limits": { "max_conns": 5 } }))
        .await;
    let audit = control.at().join("data/audit");
    std::fs::create_dir_all(&audit).unwrap();
    let segment = vec![7; 200_000];
    std::fs::write(audit.join("day-1.log"), &segment).unwrap();
    let before = control.audit("").await;
    let state = node.come_up(&control).await;

    let out = backup(&control, "all.bak", &["--with-secrets"]);
    let mode = std::fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(control.kinds("&kind=admin.backup").await.len(), 1);
    // What came after the backup is lost with the machine.
    control.invite(&node, json!({})).await;

    let elsewhere = control.dir.path().join("other");
    let said = good(restore(&out, &elsewhere, &[]));
    assert!(
        said.contains("with secrets") && !said.contains("lost"),
        "{said}"
    );
    assert_eq!(
        std::fs::read(elsewhere.join("data/audit/day-1.log")).unwrap(),
        segment
    );
    for secret in ["secrets/server.key", "admin.token"] {
        let mode = std::fs::metadata(elsewhere.join(secret))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{secret}");
    }
    let text = std::fs::read_to_string(elsewhere.join("control.toml")).unwrap();
    let new = over(control, &elsewhere);
    assert!(text.contains("data_dir = \"data\""), "{text}");
    let shown = new.get(&format!("/nodes/invites/{id}"), &node.key).await;
    assert_eq!(shown.with(200)["limits"]["max_conns"], 5);
    let usage = new
        .post("/invites/usage", "", json!({ "code": code }))
        .await;
    assert_eq!(usage.with(200)["invite"], id.as_str());
    let listed = new.get("/nodes/invites", &node.key).await.with(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let after = new.audit("").await;
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after[before.len()]["kind"], "admin.restored");
    // The node is told everything anew, under a newer generation and a revision never given before.
    let told = new
        .get(&Node::watch_from(&state, "0s"), &node.key)
        .await
        .with(200);
    assert_eq!(told["snapshot"], true);
    assert!(told["gen"].as_u64() > state["gen"].as_u64());
    let (newer, _) = new.invite(&node, json!({})).await;
    let made = new.get(&format!("/nodes/invites/{newer}"), &node.key).await;
    let version: u64 = made.etag().trim_matches('"').parse().unwrap();
    assert!(version > state["rev"].as_u64().unwrap() + (1 << 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_it_says_what_is_lost_and_asks() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control.invite(&node, json!({})).await;
    let out = control.dir.path().join("bare.bak");
    let said = good(run(&control, &["backup", "--out", out.to_str().unwrap()]));
    assert!(said.contains("every node must be enrolled"), "{said}");
    let bytes = std::fs::read(&out).unwrap();
    let secret = std::fs::read(control.at().join("secrets/server.key")).unwrap();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    let again = run(&control, &["backup", "--out", out.to_str().unwrap()]);
    refused(again, "exists");
    // The server has it: an offline backup is refused until it has ended.
    let off = control.dir.path().join("off.bak");
    let offline = ["backup", "--offline", "--out", off.to_str().unwrap()];
    refused(run(&control, &offline), "in use by another process");
    assert!(!off.exists());
    assert!(control.terminate().success());
    good(run(&control, &offline));

    // Beside the old secret all goes on; a wrong one, or none, is refused before anything is made.
    let elsewhere = control.dir.path().join("other");
    refused(restore(&off, &elsewhere, &[]), "--new-secret");
    assert!(tree(&elsewhere).is_empty());
    let secrets = elsewhere.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    let put = |bytes: &[u8]| {
        let path = secrets.join("server.key");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(&[1; 32]);
    refused(
        restore(&off, &elsewhere, &[]),
        "not the one it was made under",
    );
    put(&secret);
    good(restore(&off, &elsewhere, &[]));
    let control = over(control, &elsewhere);
    let shown = control
        .get(&format!("/nodes/invites/{id}"), &node.key)
        .await;
    shown.with(200);
    assert_eq!(control.kinds("&kind=admin.backup").await.len(), 1);

    // With a new secret: the invites are there, their codes are not.
    let fresh = control.dir.path().join("fresh");
    let said = good(restore(&off, &fresh, &["--new-secret"]));
    assert!(said.contains("lost"), "{said}");
    let control = over(control, &fresh);
    control
        .get("/nodes/invites", &node.key)
        .await
        .refused(401, "not_authorized");
    let wrong = control
        .post("/invites/resolve", "", json!({ "code": code }))
        .await;
    wrong.refused(404, "invite_unknown");
    let path = format!("/admin/invites/{id}");
    control.get(&path, &control.admin).await.with(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_in_use_is_refused_and_nothing_is_written() {
    let control = Control::start();
    control.node("n1").await;
    let out = backup(&control, "all.bak", &["--with-secrets"]);
    refused(restore(&out, &control.at(), &[]), "empty directory");

    let elsewhere = control.dir.path().join("other");
    let whole = std::fs::read(&out).unwrap();
    let bad = control.dir.path().join("bad.bak");
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 1;
    for (bytes, problem) in [
        (flipped, "take another one"),
        (whole[..whole.len() - 1].to_vec(), "ends early"),
        (b"something else".to_vec(), "not a backup"),
    ] {
        std::fs::write(&bad, bytes).unwrap();
        let said = refused(restore(&bad, &elsewhere, &["--check"]), problem);
        assert!(said.contains("bad.bak"), "{said}");
        refused(restore(&bad, &elsewhere, &[]), problem);
    }
    // Of a schema that is still to come: as the header says, under a right checksum.
    let text = String::from_utf8_lossy(&whole[..200]).into_owned();
    assert!(text.contains("\"schema\":2,"), "{text}");
    std::fs::write(&bad, with_schema_3(&whole)).unwrap();
    refused(restore(&bad, &elsewhere, &[]), "schema 3");
    assert!(tree(&elsewhere).is_empty());
    good(restore(&out, &elsewhere, &["--check"]));
    assert!(tree(&elsewhere).is_empty());
}

/// The same backup with another schema in its header.
fn with_schema_3(whole: &[u8]) -> Vec<u8> {
    use totoro_control::store::dump::{Decoder, Encoder, Frame};
    let (mut decoder, mut out, mut encoder) = (Decoder::default(), Vec::new(), None);
    decoder.feed(whole);
    while let Some(frame) = decoder.next().unwrap() {
        match frame {
            Frame::Header(mut header) => {
                header.schema = 3;
                encoder = Some(Encoder::begin(&header, &mut out));
            }
            Frame::Entry(entry) => encoder.as_mut().unwrap().entry(&entry, &mut out),
            Frame::File(name) => encoder.as_mut().unwrap().file(&name, &mut out),
            Frame::Data(piece) => encoder.as_mut().unwrap().data(&piece, &mut out),
            Frame::End(_) => drop(encoder.take().unwrap().end(&mut out)),
        }
    }
    out
}

/// Killed at random moments, a restore leaves nothing, a mark, or all of it; and is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_says_so_and_is_repeated() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    for round in 0..20 {
        let invites = (0..20).map(|index| {
            let label = format!("{round}/{index}");
            control.invite(&node, json!({ "label": label }))
        });
        futures_util::future::join_all(invites).await;
    }
    let out = backup(&control, "all.bak", &["--with-secrets"]);
    assert!(control.terminate().success());
    let (mut marked, mut untouched, mut whole) = (0, 0, 0);
    let began = std::time::Instant::now();
    good(restore(&out, &control.dir.path().join("timed"), &[]));
    let whole_time = began.elapsed();
    for round in 0..12_u32 {
        let at = control.dir.path().join(format!("k{round}"));
        let mut child = Command::new(binary())
            .args(["restore", "--from"])
            .arg(&out)
            .arg("--config")
            .arg(at.join("control.toml"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole_time * round / 12);
        child.kill().unwrap();
        child.wait().unwrap();
        if at.join("data/restoring").exists() {
            marked += 1;
            std::fs::copy(control.at().join("control.toml"), at.join("control.toml")).unwrap();
            let text = std::fs::read_to_string(at.join("control.toml")).unwrap();
            assert!(text.contains("data_dir = \"data\""));
            if at.join("secrets/server.key").exists() && !ring_is_empty(&at) {
                let serve = Command::new(binary())
                    .args(["serve", "--config"])
                    .arg(at.join("control.toml"))
                    .output()
                    .unwrap();
                refused(serve, "a restore into it was not finished");
            }
        } else if at.join("data/db").exists() {
            whole += 1;
            continue;
        } else {
            untouched += 1;
        }
        good(restore(&out, &at, &[]));
        assert!(at.join("data/db").exists() && !at.join("data/restoring").exists());
    }
    println!("12 kills: {untouched} before it began, {marked} marked, {whole} after its end");
    let control = over(control, &out.with_file_name("k5"));
    let listed = control
        .get("/nodes/invites?limit=1000", &node.key)
        .await
        .with(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 400);
}

fn ring_is_empty(at: &Path) -> bool {
    tree(&at.join("secrets")).len() < 2
}

/// A backup under writes is one state: every invite in it has its event, its code and its index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_one_state() {
    let control = Control::start();
    let node = control.node("n1").await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writing = futures_util::future::join_all((0..8).map(|writer| {
        let (control, node, stop) = (&control, &node, &stop);
        async move {
            let mut made = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let label = format!("{writer}/{made}");
                control.invite(node, json!({ "label": label })).await;
                made += 1;
            }
            made
        }
    }));
    let backing = async {
        let mut outs = Vec::new();
        for round in 0..3 {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let name = format!("{round}.bak");
            let control = &control;
            outs.push(tokio::task::block_in_place(|| {
                backup(control, &name, &["--with-secrets"])
            }));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outs
    };
    let (made, outs) = tokio::join!(writing, backing);
    let total: u64 = made.into_iter().sum();
    let mut control = control;
    let mut counts = Vec::new();
    for (round, out) in outs.iter().enumerate() {
        let at = out.with_file_name(format!("r{round}"));
        good(restore(out, &at, &[]));
        control = over(control, &at);
        let mut invites = all(&control, &node, "invites?", "id").await;
        let mut told = all(&control, &node, "audit?kind=invite.created&", "invite").await;
        invites.sort_unstable();
        told.sort_unstable();
        assert_eq!(invites, told);
        counts.push(invites.len() as u64);
    }
    assert!(
        counts.is_sorted() && *counts.last().unwrap() <= total,
        "{counts:?} of {total}"
    );
    println!("3 backups under 8 writers: {counts:?} of {total} invites, each one state");
}

/// One field of everything in a node's list.
async fn all(control: &Control, node: &Node, list: &str, field: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/nodes/{list}limit=1000{cursor}");
        let page = control.get(&path, &node.key).await.with(200);
        let items = page["items"].as_array().unwrap().iter();
        found.extend(items.map(|item: &Value| item[field].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn only_admins_get_one() {
    let control = Control::start();
    let node = control.node("n1").await;
    for bearer in ["", &node.key, "ta1-x"] {
        let answer = control.call("POST", "/admin/backup", bearer, None).await;
        answer.refused(401, "not_authorized");
    }
    let answer = control
        .call("POST", "/admin/backup?x=1", &control.admin, None)
        .await;
    answer.refused(400, "request_malformed");
}
