//! Power cuts: a process with a log is recorded, and what a disk would have after a cut at any moment
//! holds what was acknowledged by then, and nothing that was not asked for.

use std::path::PathBuf;
use std::process::Command;

use totoro_power::{Call, Disk as Simulated, Record, Unsynced, recorder};

use super::tests::{Change, Model, TINY, dir, ops};
use super::*;

/// Which test of this program the recorded process is.
const RECORDED: &str = "store::log::power_tests::the_process_that_is_recorded";
/// Steps of one recording. An orderly end and a start are in the middle of them.
const STEPS: u64 = 250;
/// Cuts of one recording.
const CUTS: u64 = 200;

/// What is done to the log, one after the other; the same for the same seed.
#[derive(Debug)]
enum Step {
    Commit(Vec<Change>),
    /// The place of an event among those that wait, up to which they are forgotten.
    Forget(usize),
}

fn steps(seed: u64) -> Vec<Step> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let length = |dice: &mut fastrand::Rng| match dice.u8(..10) {
        0 => dice.usize(..6000),
        _ => dice.usize(..300),
    };
    let change = |dice: &mut fastrand::Rng| match dice.u8(..11) {
        0..4 => Change::Put(dice.u8(..3), dice.u8(..12), length(dice)),
        4..6 => Change::Remove(dice.u8(..3), dice.u8(..12)),
        6..10 => Change::Event(length(dice)),
        _ => Change::Drop(vec![dice.usize(..20)]),
    };
    let mut step = |_| match dice.u8(..6) {
        0 => Step::Forget(dice.usize(..20)),
        _ => Step::Commit((0..dice.u8(1..6)).map(|_| change(&mut dice)).collect()),
    };
    (0..STEPS).map(&mut step).collect()
}

/// What is in memory after each step, from before the first.
fn models(steps: &[Step]) -> Vec<Model> {
    let (mut models, mut count) = (vec![Model::default()], 0);
    for step in steps {
        let mut model = models.last().unwrap().clone();
        match step {
            Step::Commit(changes) => model = ops(changes, &model, &mut count).1,
            Step::Forget(at) => {
                if let Some(seq) = model.events.keys().nth(*at).copied() {
                    model.events.retain(|of, _| *of > seq);
                    model.had = seq;
                }
            }
        }
        models.push(model);
    }
    models
}

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).expect("set by who starts it").into()
}

#[test]
#[ignore = "the process that `what_was_acknowledged_survives_a_power_cut` records"]
fn the_process_that_is_recorded() {
    let trace = variable("TOTORO_RECORD_TO");
    let at = variable("TOTORO_RECORD_DIR");
    let seed = std::env::var("TEST_SEED").unwrap().parse().unwrap();
    let steps = steps(seed);
    let models = models(&steps);
    let mut count = 0;
    let mut known = String::new();
    let mut log = Log::open(&at, TINY).unwrap();
    for (number, step) in steps.iter().enumerate() {
        let model = &models[number];
        match step {
            Step::Commit(changes) => log.commit(&ops(changes, model, &mut count).0).unwrap(),
            Step::Forget(at) => {
                if let Some(seq) = model.events.keys().nth(*at) {
                    log.forget(*seq);
                }
            }
        }
        assert_eq!(Model::of(&log), models[number + 1]);
        let on_disk = log.forgotten.is_none();
        if number == steps.len() / 2 {
            drop(log);
            log = Log::open(&at, TINY).unwrap();
            if !on_disk {
                // It came again, was delivered again, and is forgotten again.
                log.forget(models[number + 1].had);
            }
        }
        let length = std::fs::metadata(&trace).unwrap().len();
        known.push_str(&format!("{length} {}\n", u8::from(on_disk)));
    }
    std::fs::write(variable("TEST_KNOWN"), known).unwrap();
}

/// A process that had a log, from its first file to its end.
struct Recording {
    records: Vec<Record>,
    /// Before each step and after the last: how long the trace was, and what the disk has that is durable.
    known: Vec<(u64, Model)>,
}

impl Recording {
    fn make(seed: u64) -> Recording {
        let (place, at) = (tempfile::tempdir().unwrap(), dir());
        let (trace, known) = (place.path().join("trace"), place.path().join("known"));
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", RECORDED, "--ignored"])
            .env("LD_PRELOAD", recorder())
            .env("TOTORO_RECORD_DIR", at.path())
            .env("TOTORO_RECORD_TO", &trace)
            .env("TEST_SEED", seed.to_string())
            .env("TEST_KNOWN", &known)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "seed {seed}: {said}");
        let models = models(&steps(seed));
        let mut durable = vec![(0, models[0].clone())];
        let known = std::fs::read_to_string(known).unwrap();
        for (line, model) in known.lines().zip(&models[1..]) {
            let (length, on_disk) = line.split_once(' ').unwrap();
            let mut is = model.clone();
            if on_disk == "0" {
                // Forgotten in memory alone: the disk has what it had.
                is = durable.last().unwrap().1.clone();
            }
            durable.push((length.parse().unwrap(), is));
        }
        assert_eq!(durable.len() as u64, STEPS + 1);
        let records = totoro_power::read(&trace);
        let recording = Recording {
            records,
            known: durable,
        };
        // Done again, all of it gives the files as they are: nothing goes unrecorded.
        let mut disk = recording.until(u64::MAX, |_| true);
        disk.cut(Unsynced::Kept, &mut |_| 0);
        assert!(disk.contents() == Simulated::of(at.path()).contents());
        recording
    }

    /// The disk when the trace was so long, with these calls.
    fn until(&self, end: u64, counts: impl Fn(&Call) -> bool) -> Simulated {
        let empty = dir();
        let mut disk = Simulated::of(empty.path());
        let before = self.records.iter().take_while(|record| record.end <= end);
        for record in before.filter(|record| counts(&record.call)) {
            disk.apply(record);
        }
        disk
    }

    /// What a log finds on such a disk.
    fn found(disk: &Simulated) -> Result<Model> {
        let at = dir();
        disk.build(at.path());
        let found = Model::of(&Log::open(at.path(), TINY)?);
        // And once more, after what the first start has mended.
        assert_eq!(found, Model::of(&Log::open(at.path(), TINY)?));
        Ok(found)
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let seed = std::env::var("TOTORO_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    let mut dice = fastrand::Rng::with_seed(seed);
    let recordings = std::env::var("TOTORO_CASES").map_or(1, |cases| {
        cases.parse::<u64>().expect("a number").div_ceil(CUTS)
    });
    let (mut unsynced, mut kept) = (0, 0);
    for _ in 0..recordings {
        let recording = Recording::make(dice.u64(..));
        // Without its syncs it has lost everything: a missing one would be found.
        let mut none = recording.until(u64::MAX, |call| !matches!(call, Call::SyncEnded { .. }));
        none.cut(Unsynced::Lost, &mut |_| 0);
        assert_eq!(Recording::found(&none).unwrap(), Model::default());
        let last = recording.records.last().unwrap().end;
        for _ in 0..CUTS {
            // Half of the cuts fall right behind an acknowledgement, where a lie would show first.
            let at = match dice.bool() {
                true => recording.records[dice.usize(..recording.records.len())].end,
                false => recording.known[dice.usize(..recording.known.len())].0,
            };
            let how = match dice.u8(..4) {
                0 => Unsynced::Lost,
                1 => Unsynced::Kept,
                _ => Unsynced::ByChance,
            };
            let mut disk = recording.until(at, |_| true);
            let (of, some) = disk.cut(how, &mut |end| dice.u64(..end));
            (unsynced, kept) = (unsynced + of, kept + some);
            let said = || format!("TOTORO_SEED={seed}: cut at {at} of {last}, {how:?}");
            let found = Recording::found(&disk).unwrap_or_else(|e| panic!("{}: {e:#}", said()));
            let next = recording.known.partition_point(|(length, _)| *length <= at);
            let known = &recording.known[next - 1..(next + 1).min(recording.known.len())];
            let holds = known.iter().any(|(_, model)| *model == found);
            assert!(holds, "{}: {found:?}, not one of {known:?}", said());
        }
    }
    println!(
        "TOTORO_SEED={seed}: {} power cuts; of {unsynced} changes that were not synced {kept} were kept, \
         whole or torn",
        recordings * CUTS
    );
}
