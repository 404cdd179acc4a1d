//! A full spool and a full disk.

use std::path::Path;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use totoro_api::wire::event::{Subject, kind};
use totoro_node::spool::Spool;
use totoro_node::store::{Changes, Store};

use crate::world::{NUMBERED, World};

#[test]
fn what_a_full_spool_lost_is_told_and_the_rest_arrives() {
    let mut world = World::new();
    world.control = None;
    let kinds = [kind::SESSION_OPENED, kind::CONN_CLOSED, kind::PROXY_REFUSED];
    let store = Store::open(&world.state()).unwrap().with_spool(1 << 20);
    for _ in 0..20 {
        let mut changes = Changes::default();
        for number in 0..300 {
            let subject = Subject {
                kind: kinds[number % 3].to_owned(),
                detail: json!({ "text": "x".repeat(200) }),
                ..Subject::default()
            };
            changes.tell(0, &subject);
        }
        store.commit(&changes).unwrap();
    }
    drop(store);
    world.serve();
    world.deliver(0);
    let trail = world.trail();
    assert!(trail.is_sorted_by_key(|event| event.seq));
    let of = |kind: &str| {
        trail
            .iter()
            .filter(|event| event.subject.kind == kind)
            .count() as u64
    };
    assert_eq!(of(kinds[0]), 2000, "no sample, so it stays");
    let lost = trail
        .iter()
        .filter(|event| event.subject.kind == kind::AUDIT_LOST);
    let lost: Vec<_> = lost.map(|event| &event.subject.detail["by_kind"]).collect();
    assert_eq!(lost.len(), 1);
    for sampled in &kinds[1..] {
        let missing = lost[0][*sampled].as_u64().unwrap();
        assert!(missing > 0);
        assert_eq!(of(sampled) + missing, 2000, "{sampled}");
    }
}

/// Runs a test where `dir` is a disk of so many MiB, which nobody else sees and which is gone with
/// it. Without root it says so and passes, unless nothing may be missing.
fn on_small_disk(dir: &Path, mib: u32, test: impl FnOnce() + Send) {
    let run = || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            let required = std::env::var("TOTORO_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
            assert!(!required, "no mounts of our own: {error}");
            eprintln!("skipped: no mounts of our own ({error}): be root");
            return;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let size = format!("size={mib}m");
        let none = MsFlags::empty();
        mount(
            Some("totoro-test"),
            dir,
            Some("tmpfs"),
            none,
            Some(size.as_str()),
        )
        .unwrap();
        test();
    };
    // The mount is this thread's, and goes with it.
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    assert!(ended.is_ok(), "failed; see above");
}

#[test]
fn a_full_disk_takes_nothing_more_and_loses_nothing_that_it_took() {
    let dir = tempfile::tempdir().unwrap();
    on_small_disk(dir.path(), 6, || {
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let spool = Spool::of(Arc::clone(&store));
        let tell = |count: u64| {
            let mut changes = Changes::default();
            for _ in 0..count {
                let subject = Subject {
                    kind: NUMBERED.to_owned(),
                    detail: json!({ "text": "x".repeat(1000) }),
                    ..Subject::default()
                };
                changes.tell(0, &subject);
            }
            store.commit(&changes)
        };
        let mut taken = 0;
        let error = loop {
            match tell(50) {
                Ok(()) => taken += 50,
                Err(error) => break format!("{error:#}"),
            }
        };
        assert!(error.contains("No space left"), "{error}");
        assert!(taken > 1000, "{taken}");
        for _ in 0..20 {
            assert!(tell(50).is_err(), "as long as it is full");
        }
        assert_eq!(spool.size().unwrap().events, taken);
        // What is delivered makes room, with nobody's help.
        let mut seqs = 1..;
        for _ in 0..3 {
            let batch = spool.batch().unwrap().events;
            for event in &batch {
                assert_eq!(Some(event.seq), seqs.next());
            }
            spool.accepted(batch.last().unwrap().seq).unwrap();
        }
        tell(50).unwrap();
        assert_eq!(spool.size().unwrap().events, taken - 1500 + 50);
        drop((spool, store));
        let again = Spool::of(Arc::new(Store::open(dir.path()).unwrap()));
        assert_eq!(again.size().unwrap().events, taken - 1500 + 50);
    });
}
