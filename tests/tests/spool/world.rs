//! A control plane, a node's key, and a spool in a process of its own: this test, started again as
//! [`the_spools_process`].

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use totoro_api::wire::event::{AuditEvent, Subject};
use totoro_node::control::Control;
use totoro_node::spool::{self, Spool};
use totoro_node::store::{Changes, META, Store};
use totoro_tests::lab::Tools;

/// The kind of the events that are counted.
pub(crate) const NUMBERED: &str = "test.numbered";
/// Key in `META`: the next number.
const NEXT: &str = "test_next";
/// Longer than anything here takes, backoff included.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that dies with its test.
pub(crate) struct Dies(Child);

impl Drop for Dies {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A control plane on loopback, a node that is enrolled with it, and the node's spool.
pub(crate) struct World {
    tools: Tools,
    pub(crate) dir: tempfile::TempDir,
    base: String,
    pub(crate) control: Option<Dies>,
    pub(crate) spool: Option<Dies>,
    node: String,
}

impl World {
    pub(crate) fn new() -> World {
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

    pub(crate) fn control_dir(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `totoro-control ARGS`, as its admin; what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.tools.control);
        command.args(args).env("TOTORO_API", &self.base);
        command.env("TOTORO_TOKEN_FILE", self.control_dir().join("admin.token"));
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{args:?}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Starts the control plane, and waits until it answers.
    pub(crate) fn serve(&mut self) {
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

    /// Starts the spool's process; it appends so many more, delivers what there is, and ends.
    pub(crate) fn run(&mut self, appends: u64) {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "world::the_spools_process", "--ignored"])
            .env("TEST_SPOOL_BASE", &self.base)
            .env("TEST_SPOOL_STATE", self.state())
            .env("TEST_SPOOL_KEY", self.dir.path().join("node/node.key"))
            .env("TEST_SPOOL_APPENDS", appends.to_string())
            .stdout(Stdio::null())
            .spawn();
        self.spool = Some(Dies(run.unwrap()));
    }

    /// Has so many more appended and everything delivered; how many were numbered so far.
    pub(crate) fn deliver(&mut self, more: u64) -> u64 {
        self.spool = None;
        self.run(more);
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
    pub(crate) fn trail(&self) -> Vec<AuditEvent> {
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
    // The daemon has it forgotten beside what it decides; here that is a commit of nothing.
    let settling = Arc::clone(&store);
    let settle = move || std::future::ready(settling.commit(&Changes::default()));
    runtime.spawn(spool::run(spool.clone(), Arc::new(control), wakes, settle));
    let appends: u64 = var("TEST_SPOOL_APPENDS").parse().unwrap();
    let mut next: u64 = store.get(META, NEXT).unwrap().unwrap_or(0);
    let upto = next.saturating_add(appends);
    while next < upto || spool.size().unwrap().events > 0 {
        // Not so many that whoever waits for all of them waits for long.
        if next >= upto || spool.size().unwrap().events > 2000 {
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
            changes.tell(i64::try_from(number).unwrap(), &subject);
        }
        next += 20;
        changes.put(META, NEXT, &next);
        store.commit(&changes).unwrap();
        wake.notify_one();
    }
}
