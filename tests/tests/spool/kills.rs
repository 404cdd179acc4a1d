//! Kills of both sides, and a control plane that comes back from a backup.

use std::time::Duration;

use serde_json::{Value, json};
use totoro_api::wire::event::{AuditEvent, kind};

use crate::world::{NUMBERED, World};

/// Each number of one spool once, in order, and its seqs without a gap.
fn gapless(events: &[&AuditEvent], numbered: u64) {
    let mut seqs = 1..;
    let mut numbers = 0..;
    for event in events {
        assert_eq!(event.seq, seqs.next(), "{event:?}");
        if event.subject.kind == NUMBERED {
            let number = event.subject.detail["number"].as_u64();
            assert_eq!(number, numbers.next(), "{event:?}");
        }
    }
    assert_eq!(numbers.next(), Some(numbered));
}

fn rounds() -> u32 {
    let asked = std::env::var("TOTORO_SPOOL_ROUNDS").ok();
    asked.map_or(16, |rounds| rounds.parse().expect("a number"))
}

#[test]
fn every_event_lands_once_in_order_however_often_both_sides_are_killed() {
    let mut world = World::new();
    let seed = std::env::var("TOTORO_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("a number"),
    );
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut kills, mut total) = ([0, 0], 0);
    // A spool that is made anew within one boot is another spool.
    for spools in 1..=2 {
        world.run(u64::MAX);
        for _ in 0..rounds() / 2 {
            std::thread::sleep(Duration::from_millis(dice.u64(1..150)));
            if dice.bool() {
                world.spool = None;
                kills[0] += 1;
                world.run(u64::MAX);
            } else {
                world.control = None;
                kills[1] += 1;
                std::thread::sleep(Duration::from_millis(dice.u64(0..100)));
                world.serve();
            }
        }
        let numbered = world.deliver(0);
        let trail = world.trail();
        let last = &trail.last().unwrap().spool;
        let (this, before): (Vec<_>, Vec<_>) = trail.iter().partition(|event| event.spool == *last);
        gapless(&this, numbered);
        assert_eq!(before.len() as u64, total, "of spools before");
        total = trail.len() as u64;
        assert!(numbered > 0, "seed {seed}");
        println!("spool {spools}: {numbered} events");
        std::fs::remove_dir_all(world.state()).unwrap();
    }
    println!(
        "seed {seed}: {total} events of 2 spools, each once; {} kills of the spool, {} of the \
         control plane",
        kills[0], kills[1]
    );
}

#[test]
fn a_restored_control_plane_is_told_what_it_misses() {
    let mut world = World::new();
    world.deliver(500);
    let backup = world.dir.path().join("backup");
    let backup = backup.to_str().unwrap();
    world.ok(&["backup", "--out", backup]);
    let kept = world.trail();
    // More is delivered, and forgotten by the spool.
    let delivered = world.deliver(700);

    world.control = None;
    std::fs::remove_dir_all(world.control_dir().join("data")).unwrap();
    let config = world.control_dir().join("control.toml");
    let config = config.to_str().unwrap();
    world.ok(&["restore", "--from", backup, "--config", config]);
    world.serve();
    let numbered = world.deliver(300);

    let trail = world.trail();
    let (old, new): (Vec<_>, Vec<_>) = trail.iter().partition(|event| event.spool == kept[0].spool);
    assert_eq!(old.len(), kept.len());
    let first = &new[0].subject;
    assert_eq!(first.kind, kind::AUDIT_LOST);
    assert_eq!(first.detail["spool"], json!(kept[0].spool));
    assert_eq!(
        new[0].seq,
        Some(delivered),
        "in the place of all that it had"
    );
    let to = first.detail["to"].as_u64().unwrap();
    assert!((delivered..=numbered).contains(&to), "{to}");
    let numbers = new[1..].iter().map(|event| &event.subject.detail["number"]);
    assert!(
        numbers.eq((delivered..numbered)
            .map(Value::from)
            .collect::<Vec<_>>()
            .iter())
    );
}
