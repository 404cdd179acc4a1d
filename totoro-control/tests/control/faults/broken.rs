//! I/O errors: the recorder, preloaded into the server, has the calls of a moment fail with EIO.

use std::path::PathBuf;
use std::time::Duration;

use totoro_power::recorder;

use super::{becomes, until_it_ends, waiting};
use crate::ledger::Ledger;
use crate::support::{Control, PATIENCE, quiet};

/// A server on a disk that breaks on demand, and the file that has it break.
fn breakable() -> (Control, PathBuf) {
    let dir = Control::init(&[]);
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (at, rule) = (dir.path().join("control"), dir.path().join("break"));
    let env = [
        quiet(),
        ("LD_PRELOAD", text(recorder())),
        ("TOTORO_RECORD_DIR", text(at)),
        ("TOTORO_RECORD_TO", text(dir.path().join("trace"))),
        ("TOTORO_RECORD_FAIL", text(rule.clone())),
    ];
    (Control::over(dir, &env), rule)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_write_or_sync_refuses_and_ends() {
    for call in ["write", "sync"] {
        let (mut control, rule) = breakable();
        let (node, ledger) = (control.node("n1").await, Ledger::default());
        let breaking = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            // All of the store, and not the audit's segments.
            std::fs::write(
                rule.with_extension("new"),
                format!("{call} data data/audit"),
            )
            .unwrap();
            std::fs::rename(rule.with_extension("new"), &rule).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = until_it_ends(&mut control, &node, &ledger, 0) => {}
            () = breaking => {}
        }
        let known = ledger.acknowledged();
        assert!(!known.invites.is_empty());
        control.restart_plainly();
        known.check(&control, &node).await;
        known.check_code(&control).await;
        control.invite(&node, serde_json::json!({})).await;
        println!(
            "EIO from {call}: {} invites and {} spool positions acknowledged before, all there; {} \
             refused",
            known.invites.len(),
            known.seqs.len(),
            ledger.refused()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_cannot_be_synced_let_events_wait_and_lose_none() {
    let (mut control, rule) = breakable();
    let (node, ledger) = (control.node("n1").await, Ledger::default());
    becomes(&control, 200).await;
    std::fs::write(&rule, "sync data/audit").unwrap();
    let life = Duration::from_millis(1500);
    ledger.write_for(&control, &node, life).await;
    becomes(&control, 503).await;
    assert_eq!(ledger.refused(), 0);
    let known = ledger.acknowledged();
    known.check(&control, &node).await;
    std::fs::remove_file(&rule).unwrap();
    becomes(&control, 200).await;
    let began = std::time::Instant::now();
    while waiting(&control).await > 0 {
        assert!(began.elapsed() < PATIENCE, "they wait on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    known.check(&control, &node).await;
    control.kill();
    control.restart_plainly();
    known.check(&control, &node).await;
}
