//! A full disk: what is delivered makes room, with nobody's help.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::faults::Faults;
use super::tests::{Model, NEXT_SEQ, TINY, cases, dir};
use super::*;

struct World {
    dir: tempfile::TempDir,
    faults: Faults,
    next: u64,
}

impl World {
    fn open(&self) -> Log {
        Log::flaky(self.dir.path(), TINY, &self.faults).unwrap()
    }

    /// Some events and a record of its own.
    fn tell(&mut self, log: &mut Log, count: u64) -> Result<()> {
        let mut ops = Ops::default();
        for seq in self.next..self.next + count {
            ops.push(Kind::Event, 0, &seq.to_le_bytes(), &[b'e'; 90]);
        }
        let next = (self.next + count).to_string();
        ops.push(Kind::Put, META.number, NEXT_SEQ.as_bytes(), next.as_bytes());
        let key = format!("key/{}", self.next % 7);
        ops.push(Kind::Put, 1, key.as_bytes(), next.as_bytes());
        log.commit(&ops)?;
        self.next += count;
        Ok(())
    }

    fn lengths(&self) -> u64 {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    }
}

/// The seqs from the oldest to the newest, of those that wait.
fn seqs(log: &Log) -> (u64, u64) {
    let mut all = log.waiting().from(0).map(|entry| entry.seq);
    let first = all.next().unwrap_or(0);
    (first, all.last().unwrap_or(first))
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn what_is_delivered_makes_room(
        cold in 0..30_usize,
        files in 3..8_u64,
        rounds in prop::collection::vec((1..60_u64, 1..12_u64, any::<bool>()), 1..20),
    ) {
        let mut world = World { dir: dir(), faults: Faults::default(), next: 1 };
        let mut log = world.open();
        // What lives for ever, in between.
        for key in 0..cold {
            let mut ops = Ops::default();
            ops.push(Kind::Put, 2, format!("cold/{key}").as_bytes(), &[b'c'; 200]);
            log.commit(&ops).unwrap();
            world.tell(&mut log, 2).unwrap();
        }
        while u64::from(log.newest.number) < files {
            world.tell(&mut log, 5).unwrap();
        }
        world.faults.full.store(true, Ordering::Relaxed);
        let (room, mut failed) = (world.lengths(), 0);
        for (forgets, tells, dies) in rounds {
            while world.tell(&mut log, tells).is_ok() {}
            failed += 1;
            let before = Model::of(&log);
            prop_assert!(world.tell(&mut log, tells).is_err());
            if dies {
                drop(log);
                log = world.open();
            }
            prop_assert_eq!(&Model::of(&log), &before, "nothing that it took is lost");
            // Delivered, a batch after the other, until there is room for more.
            loop {
                let (first, last) = seqs(&log);
                prop_assert!(first > 0, "all was delivered, and there is no room");
                log.forget((first + forgets).min(last));
                if world.tell(&mut log, tells).is_ok() {
                    break;
                }
            }
        }
        prop_assert!(failed > 0 && world.lengths() <= room);
        let held = Model::of(&log);
        prop_assert_eq!(held.records.keys().filter(|(table, _)| *table == 2).count(), cold);
        drop(log);
        prop_assert_eq!(Model::of(&world.open()), held);
    }
}

#[test]
fn files_go_when_what_they_held_was_delivered() {
    let mut world = World {
        dir: dir(),
        faults: Faults::default(),
        next: 1,
    };
    let mut log = world.open();
    for _ in 0..400 {
        world.tell(&mut log, 5).unwrap();
    }
    let full = world.lengths();
    world.faults.full.store(true, Ordering::Relaxed);
    log.forget(1990);
    world.tell(&mut log, 5).unwrap();
    world.tell(&mut log, 5).unwrap();
    let files = log.disk.list().unwrap().len();
    assert!(files <= 4, "{files}");
    // The spares, the reserve, and what is open.
    let most = (files + SPARES + 1) as u64 * (TINY.file + TINY.slack);
    assert!(world.lengths() <= most, "{} of {full}", world.lengths());
    assert!(most * 3 < full);
}
