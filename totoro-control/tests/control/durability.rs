//! What was acknowledged is there after SIGKILL, and nothing half of it.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Control, Node, binary};

/// Rounds of writing and killing. The soak does more.
const ROUNDS: u32 = 5;
/// Clients that write at once.
const WRITERS: u64 = 8;

/// What one writer knows to be acknowledged.
#[derive(Default)]
struct Acknowledged {
    invites: Vec<(String, String)>,
    seqs: Vec<(String, u64)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_sigkill() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    let mut all = Acknowledged::default();
    for round in 0..ROUNDS {
        let known = Mutex::new(Acknowledged::default());
        let writing = futures_util::future::join_all((0..WRITERS).map(|writer| {
            let (control, node, known) = (&control, &node, &known);
            async move { write_until_refused(control, node, known, round, writer).await }
        }));
        // Each round is cut at another moment, mid-write by all odds.
        let life = Duration::from_millis(150 + u64::from(round) * 37);
        assert!(
            tokio::time::timeout(life, writing).await.is_err(),
            "the writers never end"
        );
        control.kill();
        let known = known.into_inner().unwrap();
        assert!(!known.invites.is_empty(), "round {round} wrote nothing");
        all.invites.extend(known.invites);
        all.seqs.extend(known.seqs);
        control.restart();
        check(&control, &node, &all).await;
    }
    println!(
        "{ROUNDS} kills: {} invites and {} spool positions acknowledged, all there",
        all.invites.len(),
        all.seqs.len()
    );
}

async fn write_until_refused(
    control: &Control,
    node: &Node,
    known: &Mutex<Acknowledged>,
    round: u32,
    writer: u64,
) {
    let spool = format!("{round:016x}{writer:016x}");
    for seq in 1.. {
        let body = json!({ "label": format!("{round}/{writer}/{seq}") });
        let request = control
            .http
            .post(format!("{}/api/v1/nodes/invites", control.api))
            .bearer_auth(&node.key)
            .json(&body);
        let Ok(answer) = request.send().await else {
            std::future::pending().await
        };
        let Ok(made) = answer.json::<Value>().await else {
            std::future::pending().await
        };
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        known
            .lock()
            .unwrap()
            .invites
            .push((text("id"), text("code")));

        let event = json!({ "seq": seq, "at_ms": 0, "boot": "b", "kind": "x.y", "session": spool });
        let request = control
            .http
            .post(format!("{}/api/v1/nodes/events", control.api))
            .bearer_auth(&node.key)
            .json(&json!({ "spool": spool, "events": [event] }));
        let Ok(answer) = request.send().await else {
            std::future::pending().await
        };
        if answer.json::<Value>().await.is_ok() {
            known.lock().unwrap().seqs.push((spool.clone(), seq));
        }
    }
}

async fn check(control: &Control, node: &Node, all: &Acknowledged) {
    let mut listed = std::collections::HashSet::new();
    let mut cursor = String::new();
    loop {
        let page = control
            .get(&format!("/nodes/invites?limit=1000{cursor}"), &node.key)
            .await
            .with(200);
        for invite in page["items"].as_array().unwrap() {
            listed.insert(invite["id"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for (id, _) in &all.invites {
        assert!(listed.contains(id), "acknowledged invite {id} is lost");
    }
    // Whole or not at all: each listed invite has its event, and each event its invite.
    let mut told = std::collections::HashSet::new();
    let mut seqs = std::collections::HashMap::<String, Vec<u64>>::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/nodes/audit?limit=1000{cursor}");
        let page = control.get(&path, &node.key).await.with(200);
        for event in page["items"].as_array().unwrap() {
            if event["kind"] == "invite.created" {
                told.insert(event["invite"].as_str().unwrap().to_owned());
            }
            if event["kind"] == "x.y" {
                let spool = event["spool"].as_str().unwrap().to_owned();
                seqs.entry(spool)
                    .or_default()
                    .push(event["seq"].as_u64().unwrap());
            }
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(told, listed);
    for (spool, got) in &seqs {
        assert_eq!(
            *got,
            (1..=got.len() as u64).collect::<Vec<_>>(),
            "spool {spool} has a gap"
        );
    }
    for (spool, seq) in &all.seqs {
        let last = seqs.get(spool).map_or(0, Vec::len) as u64;
        assert!(last >= *seq, "acknowledged seq {seq} of {spool} is lost");
    }
    // Codes work: their index was written with them.
    for (id, code) in all.invites.iter().rev().take(3) {
        let usage = control
            .post("/invites/usage", "", json!({ "code": code }))
            .await
            .with(200);
        assert_eq!(usage["invite"], id.as_str());
    }
}

#[tokio::test]
async fn sigterm_is_an_orderly_end_and_long_polls_are_answered() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let url = format!("{}/api/v1{}", control.api, Node::watch_from(&state, "30s"));
    let poll = tokio::spawn(control.http.get(url).bearer_auth(&node.key).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = std::time::Instant::now();
    assert!(control.terminate().success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(poll.await.unwrap().unwrap().status().as_u16(), 204);
    control.restart();
    // The node goes on where it stood: same generation, nothing new.
    let again = control
        .get(&Node::watch_from(&state, "100ms"), &node.key)
        .await;
    assert_eq!(again.status.as_u16(), 204, "{}", again.text);
}

#[test]
fn a_second_process_and_a_foreign_store_are_refused() {
    let control = Control::start();
    let second = Command::new(binary())
        .args(["serve", "--config"])
        .arg(control.at().join("control.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.contains("in use by another process"),
        "{said}"
    );

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    for name in ["control.toml", "secrets"] {
        let from = control.at().join(name);
        let copied = Command::new("cp")
            .args(["-a"])
            .arg(from)
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(copied.success());
    }
    let empty = Command::new(binary())
        .args(["serve", "--config"])
        .arg(dir.path().join("control.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&empty.stderr);
    assert!(
        !empty.status.success() && said.contains("totoro-control init"),
        "{said}"
    );
}
