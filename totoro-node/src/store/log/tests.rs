//! The log against a model, with files so small that they come and go all the time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::faults::Faults;
use super::*;

pub(super) const TINY: Sizes = Sizes {
    file: 4096,
    slack: 1024,
    least: 8192,
};

/// A value, which shows how it begins and how long it is.
#[derive(Clone, PartialEq)]
pub(super) struct Value(Vec<u8>);

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {}", self.0.first(), self.0.len())
    }
}

/// What a log should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) records: BTreeMap<(u8, String), Value>,
    pub(super) events: BTreeMap<u64, Value>,
    pub(super) next: u64,
    pub(super) had: u64,
}

impl Model {
    /// What a log does hold.
    pub(super) fn of(log: &Log) -> Model {
        let mut model = Model::default();
        let mut reader = log.reader();
        for table in 0..8 {
            for spot in log.all(table) {
                let op = reader.op(spot).unwrap();
                let key = String::from_utf8(op.key.to_vec()).unwrap();
                assert_eq!(log.find(table, &key), Some(spot));
                let before = model.records.insert((table, key), Value(op.value.to_vec()));
                assert!(before.is_none());
            }
        }
        for entry in log.waiting().from(0) {
            let value = reader.op(entry.spot).unwrap().value.to_vec();
            model.events.insert(entry.seq, Value(value));
        }
        let bytes: usize = model.events.values().map(|value| value.0.len()).sum();
        assert_eq!(log.waiting().bytes(), bytes as u64);
        let number = |key: &str| {
            let value = model.records.get(&(META.number, key.to_owned()));
            value.map_or(0, |value| serde_json::from_slice(&value.0).unwrap())
        };
        (model.next, model.had) = (number(NEXT_SEQ), number(HAD));
        // What is forgotten in memory alone.
        model.had = model.had.max(log.forgotten.unwrap_or(0));
        for key in [NEXT_SEQ, HAD] {
            model.records.remove(&(META.number, key.to_owned()));
        }
        model
    }
}

pub(super) const NEXT_SEQ: &str = "spool_next";

#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(u8, u8, usize),
    Remove(u8, u8),
    Event(usize),
    /// Drops events of these places among those that wait.
    Drop(Vec<usize>),
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    /// The sync of a commit fails, though the disk has it; and more, for a while.
    Fails(Vec<Change>, bool),
    Forget(usize),
    /// Killed, and started again.
    Crash,
    /// Killed in a commit of which the disk has only so much of 256.
    Tear(Vec<Change>, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let length = prop_oneof![9 => 0..300_usize, 1 => 0..6000_usize];
    prop_oneof![
        4 => (0..3_u8, 0..12_u8, length.clone()).prop_map(|(table, key, length)| Change::Put(table, key, length)),
        2 => (0..3_u8, 0..12_u8).prop_map(|(table, key)| Change::Remove(table, key)),
        4 => length.prop_map(Change::Event),
        1 => prop::collection::vec(0..20_usize, 1..4).prop_map(Change::Drop),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || prop::collection::vec(change(), 1..6);
    prop_oneof![
        12 => changes().prop_map(Step::Commit),
        2 => (changes(), any::<bool>()).prop_map(|(changes, long)| Step::Fails(changes, long)),
        3 => (0..20_usize).prop_map(Step::Forget),
        1 => Just(Step::Crash),
        2 => (changes(), any::<u8>()).prop_map(|(changes, part)| Step::Tear(changes, part)),
    ]
}

/// The ops of some changes, and what a log holds after them.
pub(super) fn ops(changes: &[Change], model: &Model, count: &mut u8) -> (Ops, Model) {
    let (mut ops, mut model) = (Ops::default(), model.clone());
    for change in changes {
        *count = count.wrapping_add(1);
        match change {
            Change::Put(table, key, length) => {
                let (key, value) = (format!("key/{key}"), vec![*count; *length]);
                ops.push(Kind::Put, *table, key.as_bytes(), &value);
                model.records.insert((*table, key), Value(value));
            }
            Change::Remove(table, key) => {
                let key = format!("key/{key}");
                ops.push(Kind::Remove, *table, key.as_bytes(), &[]);
                model.records.remove(&(*table, key));
            }
            Change::Event(length) => {
                model.next += 1;
                let value = vec![*count; *length];
                let (seq, sampled) = (model.next, *count & 1);
                ops.push(Kind::Event, sampled, &seq.to_le_bytes(), &value);
                model.events.insert(seq, Value(value));
            }
            Change::Drop(which) => {
                let seqs: Vec<u64> = model.events.keys().copied().collect();
                let mut gone: Vec<u64> = which
                    .iter()
                    .filter_map(|at| seqs.get(*at).copied())
                    .collect();
                gone.sort_unstable();
                let value: Vec<u8> = gone.iter().flat_map(|seq| seq.to_le_bytes()).collect();
                ops.push(Kind::Drop, 0, &[], &value);
                model.events.retain(|seq, _| !gone.contains(seq));
            }
        }
    }
    let next = model.next.to_string();
    ops.push(Kind::Put, META.number, NEXT_SEQ.as_bytes(), next.as_bytes());
    (ops, model)
}

/// Everything under a directory.
pub(super) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names
        .map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap()))
        .collect()
}

/// Makes of a directory what a crash in a log's last commit may leave, of which so much of 256 was
/// written: what `held` says that it was before, and that. Whether it was all.
fn torn(
    dir: &Path,
    mut held: BTreeMap<String, Vec<u8>>,
    log: &Log,
    (number, end): (u32, u64),
    part: u8,
) -> bool {
    let now = log.newest.number;
    let name = Disk::name(now);
    let from = if now == number { end as usize } else { 0 };
    let written = std::fs::read(dir.join(&name)).unwrap();
    let frame = &written[from..log.newest.end as usize];
    let part = frame.len() * usize::from(part) / 250;
    if now != number {
        // Under its name already, or not yet, or new.
        let spare = (0..SPARES).rev().map(Disk::spare);
        let mut names = std::iter::once(name.clone()).chain(spare);
        let ahead = names.find_map(|name| held.remove(&name));
        let file = ahead.unwrap_or_else(|| vec![0; TINY.file as usize]);
        held.insert(name.clone(), file);
    }
    let file = held.get_mut(&name).unwrap();
    file.resize(file.len().max(written.len()), 0);
    let part = part.min(frame.len());
    file[from..from + part].copy_from_slice(&frame[..part]);
    // What is behind it may be its own: of a try that failed just before.
    let is_whole = file[from..].starts_with(frame);
    for name in contents(dir).keys() {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
    for (name, bytes) in held {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    is_whole
}

/// A directory in memory: what is tried is what is written and in which order.
pub(crate) fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// `TOTORO_CASES` asks for more.
pub(crate) fn cases(of: u32) -> ProptestConfig {
    let asked = std::env::var("TOTORO_CASES").ok();
    ProptestConfig::with_cases(asked.map_or(of, |cases| cases.parse().expect("a number")))
}

/// One record, written again and again, and what the log should hold then.
#[derive(Default)]
struct Puts {
    model: Model,
    count: u8,
}

impl Puts {
    fn commit(&mut self, log: &mut Log) {
        let (ops, after) = ops(&[Change::Put(1, 1, 200)], &self.model, &mut self.count);
        log.commit(&ops).unwrap();
        self.model = after;
        assert_eq!(Model::of(log), self.model);
    }
}

#[test]
fn a_start_goes_on_where_the_last_batch_is_when_the_next_file_has_its_name_already() {
    let dir = dir();
    let mut log = Log::open(dir.path(), TINY).unwrap();
    let mut puts = Puts::default();
    while log.ahead.is_none() {
        puts.commit(&mut log);
    }
    let (number, end) = (log.newest.number, log.newest.end);
    drop(log);
    let next = dir.path().join(Disk::name(number + 1));
    assert!(next.exists(), "it has its name");
    let mut log = Log::open(dir.path(), TINY).unwrap();
    assert_eq!((log.newest.number, log.newest.end), (number, end));
    assert!(log.ahead.is_some());
    let before = std::fs::read(&next).unwrap();
    puts.commit(&mut log);
    assert_eq!(std::fs::read(&next).unwrap(), before, "not its turn yet");
    while log.newest.number == number {
        puts.commit(&mut log);
    }
    assert_ne!(std::fs::read(&next).unwrap(), before, "its turn");
}

#[test]
fn the_next_file_is_made_once_half_of_the_newest_is_written() {
    let dir = dir();
    std::fs::write(dir.path().join(AHEAD), "of a start that a power cut ended").unwrap();
    let mut log = Log::open(dir.path(), TINY).unwrap();
    assert!(!dir.path().join(AHEAD).exists());
    let mut puts = Puts::default();
    let next = dir.path().join(Disk::name(2));
    loop {
        let is_half = log.newest.end > TINY.file / 2;
        assert_eq!(next.exists(), is_half, "at {}", log.newest.end);
        if is_half {
            break;
        }
        puts.commit(&mut log);
    }
    let made = std::fs::read(&next).unwrap();
    assert_eq!(made, vec![0; (TINY.file + TINY.slack) as usize]);
}

#[test]
fn a_next_file_that_could_not_be_made_is_made_by_whoever_needs_it() {
    let dir = dir();
    let faults = Faults::default();
    let mut log = Log::flaky(dir.path(), TINY, &faults).unwrap();
    let mut puts = Puts::default();
    faults.full.store(true, Ordering::Relaxed);
    while log.ahead.is_none() {
        puts.commit(&mut log);
    }
    assert!(
        !dir.path().join(Disk::name(2)).exists(),
        "there was no room"
    );
    faults.full.store(false, Ordering::Relaxed);
    while log.newest.number == 1 {
        puts.commit(&mut log);
    }
    drop(log);
    let log = Log::open(dir.path(), TINY).unwrap();
    assert_eq!((log.newest.number, Model::of(&log)), (2, puts.model));
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn whatever_happens_it_holds_what_was_acknowledged(steps in prop::collection::vec(step(), 1..120)) {
        let dir = dir();
        let faults = Faults { then_fails: true, ..Faults::default() };
        let open = || Log::flaky(dir.path(), TINY, &faults).unwrap();
        let mut log = open();
        // What holds, and what would after a crash.
        let (mut model, mut disk, mut count) = (Model::default(), Model::default(), 0);
        for step in steps {
            match step {
                Step::Commit(changes) => {
                    let (ops, after) = ops(&changes, &model, &mut count);
                    log.commit(&ops).unwrap();
                    (model, disk) = (after.clone(), after);
                }
                Step::Fails(changes, long) => {
                    let (ops, _) = ops(&changes, &model, &mut count);
                    faults.late.store(true, Ordering::Relaxed);
                    prop_assert!(log.commit(&ops).is_err());
                    if long {
                        prop_assert!(log.commit(&ops).is_err());
                    }
                    faults.fails.store(false, Ordering::Relaxed);
                    prop_assert_eq!(&Model::of(&log), &model);
                    // A disk that failed but once has it taken back.
                    log.rewind().unwrap();
                }
                Step::Forget(at) => {
                    if let Some(seq) = model.events.keys().nth(at).copied() {
                        log.forget(seq);
                        model.events.retain(|of, _| *of > seq);
                        model.had = seq;
                        if log.forgotten.is_none() {
                            disk = model.clone();
                        }
                    }
                }
                Step::Crash => {
                    drop(log);
                    log = open();
                    model = disk.clone();
                }
                Step::Tear(changes, part) => {
                    let (ops, after) = ops(&changes, &model, &mut count);
                    let held = contents(dir.path());
                    let (number, end) = (log.newest.number, log.newest.end);
                    log.commit(&ops).unwrap();
                    let whole = torn(dir.path(), held, &log, (number, end), part);
                    drop(log);
                    model = if whole { after } else { disk };
                    disk = model.clone();
                    log = open();
                }
            }
            prop_assert_eq!(&Model::of(&log), &model);
            let space = &log.index.space;
            let most = 4 * space.live() + TINY.least + 8 * TINY.file + 40_000;
            prop_assert!(space.used() <= most, "{} of {} live", space.used(), space.live());
        }
        drop(log);
        prop_assert_eq!(Model::of(&open()), disk);
    }
}
