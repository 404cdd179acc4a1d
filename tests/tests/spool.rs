//! The real spool and the real control plane, each killed at any moment: every event lands in the
//! trail once, in order.
//!
//! The spool runs in a process of its own: this test, started again as [`the_spools_process`].

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use totoro_api::wire::event::{AuditEvent, Subject, kind};
use totoro_node::control::Control;
use totoro_node::spool::{self, Spool};
use totoro_node::store::{Changes, META, Store};
use totoro_tests::lab::Tools;

/// The kind of the events that are counted.
const NUMBERED: &str = "test.numbered";
/// Key in `META`: the next number.
const NEXT: &str = "test_next";
/// Longer than anything here takes, backoff included.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that dies with its test.
struct Dies(Child);

impl Drop for Dies {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A control plane on loopback, a node that is enrolled with it, and the node's spool.
struct World {
    tools: Tools,
    dir: tempfile::TempDir,
    base: String,
    control: Option<Dies>,
    spool: Option<Dies>,
    node: String,
}

impl World {
    fn new() -> World {
        let tools = Tools::locate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nobody else takes it before the control plane does.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap().to_string();
        drop(free);
        let mut world = World {
            tools,
            dir,
            base: format!("http://{listen}"),
            control: None,
            spool: None,
            node: String::new(),
        };
        let (base, at) = (world.base.clone(), world.control_dir());
        let at = at.to_str().unwrap();
        world.ok(&[
            "init",
            "--dir",
            at,
            "--listen",
            &listen,
            "--public-url",
            &base,
        ]);
        world.serve();
        let added = world.ok(&[
            "node",
            "add",
            "--name",
            "n",
            "--pool-tcp",
            "20000-20009",
            "--server-addr",
            "192.0.2.1:7000",
            "--json",
        ]);
        let added: Value = serde_json::from_str(&added).unwrap();
        world.node = added["id"].as_str().unwrap().to_owned();
        let done = Command::new(&world.tools.node)
            .args(["enroll", "--insecure-http", "--control", &base, "--dir"])
            .arg(world.dir.path().join("node"))
            .env("TOTORO_TOKEN", added["token"].as_str().unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        world
    }

    fn control_dir(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `totoro-control ARGS`, as its admin; what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.tools.control);
        command.args(args).env("TOTORO_API", &self.base);
        command.env("TOTORO_TOKEN_FILE", self.control_dir().join("admin.token"));
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{args:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Starts the control plane, and waits until it answers.
    fn serve(&mut self) {
        let serve = Command::new(&self.tools.control)
            .args(["serve", "--config"])
            .arg(self.control_dir().join("control.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.control = Some(Dies(serve.unwrap()));
        let at = self.base.trim_start_matches("http://");
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(at).is_err() {
            assert!(Instant::now() < deadline, "the control plane does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the spool's process; it appends for ever, or delivers what there is and ends.
    fn run(&mut self, appends: bool) {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_spools_process", "--ignored"])
            .env("TEST_SPOOL_BASE", &self.base)
            .env("TEST_SPOOL_STATE", self.state())
            .env("TEST_SPOOL_KEY", self.dir.path().join("node/node.key"))
            .env("TEST_SPOOL_APPENDS", if appends { "1" } else { "0" })
            .stdout(Stdio::null())
            .spawn();
        self.spool = Some(Dies(run.unwrap()));
    }

    /// Has everything delivered; how many were numbered so far.
    fn drain(&mut self) -> u64 {
        self.spool = None;
        self.run(false);
        let deadline = Instant::now() + PATIENCE;
        let mut spool = self.spool.take().unwrap();
        loop {
            if let Some(status) = spool.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                break;
            }
            assert!(Instant::now() < deadline, "the spool is not delivered");
            std::thread::sleep(Duration::from_millis(5));
        }
        let store = Store::open(&self.state()).unwrap();
        store.get(META, NEXT).unwrap().unwrap_or(0)
    }

    /// The node's events in the trail, in the order of their arrival.
    fn trail(&self) -> Vec<AuditEvent> {
        let text = self.ok(&["audit", "--node", &self.node, "--ndjson"]);
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        events
            .filter(|event: &AuditEvent| event.seq.is_some())
            .collect()
    }
}

/// Not a test: what [`World::run`] starts.
#[test]
#[ignore = "a part of the others"]
fn the_spools_process() {
    let var = |name: &str| std::env::var(name).expect(name);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Arc::new(Store::open(Path::new(&var("TEST_SPOOL_STATE"))).unwrap());
    let key = PathBuf::from(var("TEST_SPOOL_KEY"));
    let control = Control::with_key_file(&var("TEST_SPOOL_BASE"), &key).unwrap();
    let (spool, wake) = (Spool::of(Arc::clone(&store)), Arc::default());
    let wakes = Arc::clone(&wake);
    runtime.spawn(spool::run(spool.clone(), Arc::new(control), wakes));
    let appends = var("TEST_SPOOL_APPENDS") == "1";
    let mut next: u64 = store.get(META, NEXT).unwrap().unwrap_or(0);
    while appends || spool.size().unwrap().events > 0 {
        if !appends {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        // Some at once, with the record that tells how far it is.
        let mut changes = Changes::default();
        for number in next..next + 20 {
            let subject = Subject {
                kind: NUMBERED.to_owned(),
                detail: json!({ "number": number }),
                ..Subject::default()
            };
            changes.tell(i64::try_from(number).unwrap(), subject);
        }
        next += 20;
        changes.put(META, NEXT, &next);
        store.commit(&changes).unwrap();
        wake.notify_one();
    }
}

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
    asked.map_or(24, |rounds| rounds.parse().expect("a number"))
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
        world.run(true);
        for _ in 0..rounds() / 2 {
            std::thread::sleep(Duration::from_millis(dice.u64(1..150)));
            if dice.bool() {
                world.spool = None;
                kills[0] += 1;
                world.run(true);
            } else {
                world.control = None;
                kills[1] += 1;
                std::thread::sleep(Duration::from_millis(dice.u64(0..100)));
                world.serve();
            }
        }
        let numbered = world.drain();
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
    world.run(true);
    std::thread::sleep(Duration::from_millis(300));
    world.drain();
    let backup = world.dir.path().join("backup");
    let backup = backup.to_str().unwrap();
    world.ok(&["backup", "--out", backup]);
    let kept = world.trail();
    // More is delivered, and forgotten by the spool.
    world.run(true);
    std::thread::sleep(Duration::from_millis(300));
    let delivered = world.drain();

    world.control = None;
    std::fs::remove_dir_all(world.control_dir().join("data")).unwrap();
    let config = world.control_dir().join("control.toml");
    let config = config.to_str().unwrap();
    world.ok(&["restore", "--from", backup, "--config", config]);
    world.serve();
    world.run(true);
    std::thread::sleep(Duration::from_millis(300));
    let numbered = world.drain();

    let trail = world.trail();
    let (old, new): (Vec<_>, Vec<_>) = trail.iter().partition(|event| event.spool == kept[0].spool);
    assert_eq!(old.len(), kept.len());
    let first = &new[0].subject;
    assert_eq!(first.kind, kind::AUDIT_LOST);
    assert_eq!(first.detail["spool"], json!(kept[0].spool));
    assert_eq!(first.detail["to"], json!(delivered), "all that it had");
    let numbers = new[1..].iter().map(|event| &event.subject.detail["number"]);
    assert!(
        numbers.eq((delivered..numbered)
            .map(Value::from)
            .collect::<Vec<_>>()
            .iter())
    );
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
                changes.tell(0, subject);
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
