//! What was acknowledged is there after a power cut. A real server is recorded under load; then, for
//! cuts at random moments, its directory is built from what had been synced by then and some of what
//! had not, and a real server starts on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use totoro_power::{Call, Disk, Record, Unsynced, recorder};

use crate::ledger::{Acknowledged, Dice, Ledger, Scale};
use crate::support::{Control, Node, change, quiet};

/// Cuts; `cargo xtask soak power` does more.
const ROUNDS: Scale = Scale {
    variable: "TOTORO_POWER_ROUNDS",
    usual: 100,
};
/// Cuts of one recording.
const CUTS: u64 = 25;
/// How long each of a recording's two servers is written to.
const LIFE: Duration = Duration::from_millis(500);

/// A server's life under load: two processes, one after the other.
struct Recording {
    _dir: tempfile::TempDir,
    base: PathBuf,
    records: Vec<Record>,
    node: Node,
    /// The trace's length when the node had been made.
    ready: u64,
    /// With the trace's length when each acknowledgement had come.
    known: Acknowledged,
}

/// What was seen in all cuts.
#[derive(Default)]
struct Tally {
    cuts: usize,
    invites: usize,
    seqs: usize,
    unsynced: usize,
    kept: usize,
    /// Cuts between a write to the store's log and its sync.
    mid_log: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_writes_survive_a_power_cut() {
    let mut dice = Dice::from_env();
    Recording::make(0).await.needs_its_syncs(&mut dice).await;
    let lanes = ROUNDS
        .lanes()
        .map(|rounds| tokio::spawn(cut_often(rounds, dice.fork())));
    let mut tally = Tally::default();
    for lane in futures_util::future::join_all(lanes).await {
        tally.add(&lane.unwrap_or_else(|error| panic!("{dice}: {error}")));
    }
    println!(
        "{} power cuts ({dice}), {} of them between a write to the log and its sync: {} invites and \
         {} spool positions acknowledged before them, all there; of {} changes that were not synced \
         {} were kept, whole or torn",
        tally.cuts, tally.mid_log, tally.invites, tally.seqs, tally.unsynced, tally.kept
    );
}

/// So many cuts, some of each recording.
async fn cut_often(rounds: u64, mut dice: Dice) -> Tally {
    let (mut tally, mut done) = (Tally::default(), 0);
    while done < rounds {
        let recording = Recording::make(done).await;
        for _ in 0..CUTS.min(rounds - done) {
            recording.cut(&mut dice, &mut tally).await;
            done += 1;
        }
    }
    tally
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.cuts += other.cuts;
        self.invites += other.invites;
        self.seqs += other.seqs;
        self.unsynced += other.unsynced;
        self.kept += other.kept;
        self.mid_log += other.mid_log;
    }
}

impl Recording {
    async fn make(round: u64) -> Self {
        let made = Control::init(&[]);
        let at = made.path().join("control");
        // Events move to segments, and layers to sled, all the time, so that cuts fall into that too.
        let faster = ("move_every = \"1s\"", "move_every = \"20ms\"");
        change(&at, &[faster, ("layer_kib = 32768", "layer_kib = 64")]);

        let dir = tempfile::tempdir().unwrap();
        let (base, to) = (dir.path().join("base"), dir.path().join("trace"));
        std::fs::create_dir(&base).unwrap();
        Disk::of(&at).build(&base);
        let env = [
            quiet(),
            ("LD_PRELOAD", utf8(&recorder())),
            ("TOTORO_RECORD_DIR", utf8(&at)),
            ("TOTORO_RECORD_TO", utf8(&to)),
        ];
        let mut control = Control::over(made, &env);
        let node = control.node("n1").await;
        let clock = || std::fs::metadata(&to).unwrap().len();
        let (ready, ledger) = (clock(), Ledger::default());
        for life in 0..2 {
            let writing = ledger.write(&control, &node, 2 * round + life, clock);
            assert!(tokio::time::timeout(LIFE, writing).await.is_err());
            assert!(control.terminate().success());
            if life == 0 {
                control.restart();
            }
        }
        let recording = Recording {
            _dir: dir,
            base,
            records: totoro_power::read(&to),
            node,
            ready,
            known: ledger.acknowledged(),
        };
        recording.is_complete(&at);
        recording
    }

    /// Whether the trace holds all that was done to the files: done again, it gives the same ones.
    fn is_complete(&self, at: &Path) {
        let mut disk = self.until(u64::MAX, |_| true);
        disk.cut(Unsynced::Kept, &mut |_| 0);
        let (is, told) = (Disk::of(at).contents(), disk.contents());
        let names = |files: &std::collections::BTreeMap<PathBuf, Vec<u8>>| {
            files.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&is), names(&told));
        for (name, bytes) in &is {
            assert!(*bytes == told[name], "{name:?} was changed unrecorded");
        }
    }

    /// Whether a missing sync would be found: without any the whole node is lost.
    async fn needs_its_syncs(&self, dice: &mut Dice) {
        let mut disk = self.until(u64::MAX, |call| !matches!(call, Call::SyncEnded { .. }));
        disk.cut(Unsynced::Lost, &mut |end| dice.below(end));
        let control = start(&disk);
        let answer = control.get("/nodes/invites", &self.node.key).await;
        assert_eq!(answer.status.as_u16(), 401, "{}", answer.text);
    }

    /// Cuts the power somewhere, and looks at what a server makes of the rest.
    async fn cut(&self, dice: &mut Dice, tally: &mut Tally) {
        // Half of the cuts fall right behind an acknowledgement, where a lie would show first.
        let last = self.records.last().unwrap().end;
        let at = match dice.below(2) {
            0 => self.ready + dice.below(last - self.ready + 1),
            _ => self.known.invites[dice.below(self.known.invites.len() as u64) as usize].0,
        };
        let unsynced = match dice.below(4) {
            0 => Unsynced::Lost,
            1 => Unsynced::Kept,
            _ => Unsynced::ByChance,
        };
        let mut disk = self.until(at, |_| true);
        tally.mid_log += usize::from(disk.is_unsynced("data/wal."));
        let (pending, kept) = disk.cut(unsynced, &mut |end| dice.below(end));
        println!("{dice}: cut at {at} of {last}, {unsynced:?}: {kept} of {pending} kept");
        let known = self.known.until(at);
        let control = start(&disk);
        known.check(&control, &self.node).await;
        known.check_code(&control).await;
        tally.cuts += 1;
        tally.invites += known.invites.len();
        tally.seqs += known.seqs.len();
        tally.unsynced += pending;
        tally.kept += kept;
    }

    /// The disk when the trace was so long, with these calls.
    fn until(&self, end: u64, counts: impl Fn(&Call) -> bool) -> Disk {
        let mut disk = Disk::of(&self.base);
        let before = self.records.iter().take_while(|record| record.end <= end);
        for record in before.filter(|record| counts(&record.call)) {
            disk.apply(record);
        }
        disk
    }
}

/// A server on what a disk has kept.
fn start(disk: &Disk) -> Control {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("control");
    std::fs::create_dir(&at).unwrap();
    disk.build(&at);
    Control::over(dir, &[quiet()])
}

fn utf8(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
