//! Full disks.

use serde_json::json;

use super::small_disk::{SmallDisk, with_own_mounts};
use super::{becomes, until_it_ends, waiting};
use crate::ledger::Ledger;
use crate::support::{Control, PATIENCE, binary, quiet};

#[test]
fn a_store_without_space_refuses_and_ends() {
    with_own_mounts(|| async {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("control");
        std::fs::create_dir(&at).unwrap();
        let small = SmallDisk::mount(&at, 16);
        let dir = Control::init_in(dir, &[]);
        let mut control = Control::over(dir, &[quiet()]);
        let (node, ledger) = (control.node("n1").await, Ledger::default());
        // Some writes fit yet.
        small.fill(256 << 10);
        until_it_ends(&mut control, &node, &ledger, 0).await;
        let known = ledger.acknowledged();
        assert!(!known.invites.is_empty(), "not one write has fitted");

        // Without space it does not come up, or it does and refuses; nothing gets lost by trying.
        let mut serve = std::process::Command::new(binary());
        serve
            .arg("serve")
            .arg("--config")
            .arg(at.join("control.toml"));
        serve.stdout(std::process::Stdio::null());
        let mut tried = serve.stderr(std::process::Stdio::null()).spawn().unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let _ = tried.kill();
        tried.wait().unwrap();

        small.free();
        control.restart();
        known.check(&control, &node).await;
        known.check_code(&control).await;
        let (id, _) = control.invite(&node, json!({})).await;
        assert!(!id.is_empty(), "it writes again");
        println!(
            "disk full: {} invites and {} spool positions acknowledged before, all there; {} refused",
            known.invites.len(),
            known.seqs.len(),
            ledger.refused()
        );
        drop(small);
    });
}

#[test]
fn segments_without_space_let_events_wait_and_lose_none() {
    with_own_mounts(|| async {
        let dir = Control::init(&[]);
        let segments = dir.path().join("control/data/audit");
        std::fs::create_dir_all(&segments).unwrap();
        let small = SmallDisk::mount(&segments, 4);
        std::fs::remove_dir(segments.join("lost+found")).unwrap();
        let mut control = Control::over(dir, &[quiet()]);
        let (node, ledger) = (control.node("n1").await, Ledger::default());
        becomes(&control, 200).await;
        small.fill(4 << 10);

        // Changes go on, and so does the trail: what waits is found like what was moved.
        let life = std::time::Duration::from_millis(1500);
        ledger.write_for(&control, &node, life).await;
        let said = becomes(&control, 503).await;
        let detail = said["detail"].as_str().unwrap();
        assert!(detail.contains("audit trail does not write"), "{said}");
        assert!(waiting(&control).await > 0);
        assert_eq!(ledger.refused(), 0);
        let known = ledger.acknowledged();
        known.check(&control, &node).await;
        control.kill();
        control.restart();
        known.check(&control, &node).await;

        small.free();
        becomes(&control, 200).await;
        let began = std::time::Instant::now();
        while waiting(&control).await > 0 {
            assert!(began.elapsed() < PATIENCE, "they wait on");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        known.check(&control, &node).await;
        println!("segments full: {} events and more waited", known.seqs.len());
        drop(small);
    });
}
