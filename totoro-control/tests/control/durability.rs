//! What was acknowledged is there after SIGKILL, and nothing half of it.

use std::process::Command;
use std::time::Duration;

use crate::ledger::{Acknowledged, Dice, Ledger, Scale};
use crate::support::{Control, Node, binary, quiet};

/// Rounds of writing and killing; `cargo xtask soak durability` does more.
const ROUNDS: Scale = Scale {
    variable: "TOTORO_DURABILITY_ROUNDS",
    usual: 200,
};
/// How long the writers write before the kill, milliseconds.
const LIFE: std::ops::Range<u64> = 20..150;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_writes_survive_sigkill() {
    let mut dice = Dice::from_env();
    let lanes = ROUNDS
        .lanes()
        .map(|rounds| tokio::spawn(kill_often(rounds, dice.fork())));
    let (mut kills, mut invites, mut seqs) = (0, 0, 0);
    for lane in futures_util::future::join_all(lanes).await {
        let rounds = lane.unwrap_or_else(|error| panic!("{dice}: {error}"));
        kills += rounds.len();
        for (_, known) in &rounds {
            invites += known.invites.len();
            seqs += known.seqs.len();
        }
    }
    assert!(invites > kills, "{invites}: too few writes");
    println!(
        "{kills} kills under load ({dice}): {invites} invites and {seqs} spool positions \
         acknowledged, all there, nothing half of it"
    );
}

/// Layers go to sled all the time, so that kills fall into that too.
fn small_layers() -> [(&'static str, String); 2] {
    [quiet(), ("TOTORO_CONTROL_LAYER_KIB", "32".to_owned())]
}

/// Kills one server so often; what each round's node had acknowledged.
async fn kill_often(rounds: u64, mut dice: Dice) -> Vec<(Node, Acknowledged)> {
    let mut control = Control::over(Control::init(&[]), &small_layers());
    let mut done = Vec::new();
    for round in 0..rounds {
        // Each round has a node of its own, so that looking at a round costs what was written in it.
        let node = control.node(&format!("n{round}")).await;
        let ledger = Ledger::default();
        let life = Duration::from_millis(LIFE.start + dice.below(LIFE.end - LIFE.start));
        let writing = ledger.write(&control, &node, round, || 0);
        assert!(
            tokio::time::timeout(life, writing).await.is_err(),
            "the writers never end"
        );
        control.kill();
        control.restart();
        let known = ledger.acknowledged();
        known.check(&control, &node).await;
        known.check_code(&control).await;
        done.push((node, known));
    }
    // What a later crash may have taken of an earlier round.
    Acknowledged::check_all(&done, &control).await;
    done
}

#[tokio::test]
async fn sigterm_is_an_orderly_end_and_long_polls_are_answered() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let url = format!("{}/api/v1{}", control.api, Node::watch_from(&state, "30s"));
    let poll = tokio::spawn(control.http.get(url).bearer_auth(&node.key).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(control.terminate().success());
    // It gives up on requests that go on, and says so.
    assert!(!control.log().contains("did not end in time"));
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
