//! A node's kernel side in a network namespace, cgroup and pin directory of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, MapInfo};
use totoro_api::Reason;
use totoro_api::ports::{Pool, PortRange};
use totoro_ebpf::abi;
use totoro_node::kernel::{Abi, Kernel, KernelOptions, XdpMode};
use totoro_tests::lab;

/// frps's own port in these tests.
pub(crate) const BIND_PORT: u16 = 17_000;

/// What a test has made, removed on drop.
pub(crate) struct Node {
    options: KernelOptions,
    cgroup: PathBuf,
}

/// The kernel object, where kernel tests can run; says why not, and fails where they must.
pub(crate) fn object(test: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/totoro-ebpf.o");
    let path = std::env::var_os("TOTORO_OBJECT").map_or(built, PathBuf::from);
    let mut missing = lab::missing();
    if !path.exists() {
        missing.push("the kernel object (cargo xtask build-ebpf)".to_owned());
    }
    lab::able(test, &missing).then_some(path)
}

/// What a node loads with: ports 20000 to 20009 of both protocols, no interface.
pub(crate) fn options(object: PathBuf, pin_root: PathBuf, cgroup: PathBuf) -> KernelOptions {
    let range = PortRange::new(20_000, 20_009).expect("range");
    KernelOptions {
        object,
        abi: Abi::CURRENT,
        pin_root,
        cgroup,
        interfaces: vec![],
        find_interfaces: None,
        xdp: XdpMode::Off,
        pool: Pool {
            tcp: [range].into_iter().collect(),
            udp: [range].into_iter().collect(),
        },
        bind_port: BIND_PORT,
        control_per_source: 0,
        max_conns_total: 0,
        flow_idle_s: 60,
    }
}

impl Node {
    /// Prepares a node; `None` (said on stderr) where kernel tests can't run.
    pub(crate) fn new(name: &str) -> Option<Node> {
        let object = object(name)?;
        // The run's tag, so that `cargo xtask test` finds what a test left behind.
        let tag = format!("totoro-kt-{name}-{}", lab::run_tag());
        let cgroup = lab::own_cgroup().expect("our cgroup").join(&tag);
        std::fs::create_dir(&cgroup).expect("make a cgroup");
        std::fs::write(cgroup.join("cgroup.type"), "threaded").expect("thread the cgroup");
        let pin_root = Path::new("/sys/fs/bpf").join(&tag);
        let options = options(object, pin_root, cgroup.clone());
        Some(Node { options, cgroup })
    }

    /// The options it loads with.
    pub(crate) fn options(&self) -> KernelOptions {
        self.options.clone()
    }

    /// Changes the options it loads with.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut KernelOptions)) -> Node {
        change(&mut self.options);
        self
    }

    /// UDP flows are idle after a second.
    pub(crate) fn impatient(self) -> Node {
        self.with(|options| options.flow_idle_s = 1)
    }

    /// Filters these interfaces.
    pub(crate) fn on(mut self, interfaces: &[&str], xdp: XdpMode) -> Node {
        self.options.interfaces = interfaces.iter().map(ToString::to_string).collect();
        self.options.xdp = xdp;
        self
    }

    /// Runs a test in the node's namespace and cgroup, on a thread of its own.
    pub(crate) fn run(self, test: impl FnOnce(Kernel) + Send) {
        self.run_after(|| (), |kernel, ()| test(kernel));
    }

    /// The same, with something made in the namespace before the programs are loaded.
    pub(crate) fn run_after<T>(
        self,
        before: impl FnOnce() -> T + Send,
        test: impl FnOnce(Kernel, T) + Send,
    ) {
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
                ip(&["link", "set", "lo", "up"]);
                let made = before();
                let tid = nix::unistd::gettid().to_string();
                std::fs::write(self.cgroup.join("cgroup.threads"), tid).expect("join the cgroup");
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("runtime");
                let mut kernel =
                    Kernel::load(&self.options).unwrap_or_else(|error| panic!("{}", chain(&error)));
                // The events' task destroys surplus connections, as in the daemon.
                let _guard = runtime.enter();
                let _events = kernel.start_events().expect("events");
                test(kernel, made);
            });
            thread.join()
        });
        drop(self);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.options.pin_root);
        // Threads that outlive the test (an echo server's) go back to where they came from; one
        // that has just ended may need a moment until the kernel sees it.
        let threads = std::fs::read_to_string(self.cgroup.join("cgroup.threads"));
        let home = self.cgroup.with_file_name("cgroup.threads");
        for tid in threads.unwrap_or_default().lines() {
            let _ = std::fs::write(&home, tid);
        }
        for _ in 0..100 {
            match std::fs::remove_dir(&self.cgroup) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Runs `ip` in this thread's network namespace.
pub(crate) fn ip(args: &[&str]) {
    run("ip", args);
}

/// The same of `tc`.
pub(crate) fn tc(args: &[&str]) {
    run("tc", args);
}

fn run(program: &str, args: &[&str]) {
    let done = std::process::Command::new(program).args(args).status();
    let well = done.is_ok_and(|status| status.success());
    assert!(well, "{program} {}", args.join(" "));
}

type Job = Box<dyn FnOnce() + Send>;

/// Another machine: a thread in a network namespace of its own, for as long as this lives.
pub(crate) struct Peer {
    tid: i32,
    jobs: std::sync::mpsc::Sender<Job>,
}

impl Peer {
    /// Makes the namespace.
    pub(crate) fn new() -> Peer {
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
            ip(&["link", "set", "lo", "up"]);
            tell.send(nix::unistd::gettid().as_raw()).expect("tell");
            for job in queue {
                job();
            }
        });
        Peer {
            tid: told.recv().expect("the peer's thread"),
            jobs,
        }
    }

    /// The thread's id, by which `ip link set … netns` finds the namespace.
    pub(crate) fn tid(&self) -> String {
        self.tid.to_string()
    }

    /// Runs something there.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = std::sync::mpsc::channel();
        self.jobs
            .send(Box::new(move || drop(tell.send(job()))))
            .expect("the peer lives");
        told.recv().expect("the job did not panic")
    }
}

/// Whether this kernel has TCX (from 6.6 on), where TC programs are links too.
pub(crate) fn has_tcx() -> bool {
    use aya::util::KernelVersion;
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// The number that a variable of the environment asks for.
pub(crate) fn asked(name: &str) -> Option<u64> {
    let asked = std::env::var(name).ok()?;
    let number = asked.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {asked:?}")))
}

/// Key of a port.
pub(crate) fn key(proto: u8, port: u16) -> abi::PortKey {
    abi::PortKey {
        port,
        proto,
        pad: 0,
    }
}

/// An open lease.
pub(crate) fn lease(tenant: u32, lease: u64) -> abi::Lease {
    abi::Lease {
        tenant,
        lease,
        ..abi::Lease::default()
    }
}

/// A pinned map of this build's ABI, to be looked into or tampered with.
pub(crate) fn pinned(root: &Path, name: &str) -> Map {
    let dir = root.join(format!("v{}", abi::VERSION));
    let data = MapData::from_pin(dir.join(name)).expect("pin");
    Map::from_map_data(data).expect("map")
}

/// What was refused for a reason, whoever it was.
pub(crate) fn refused(kernel: &Kernel, reason: Reason) -> u64 {
    let all = kernel.refused().expect("counters");
    all.iter()
        .filter(|r| r.reason == reason)
        .map(|r| r.count)
        .sum()
}

/// Waits up to five seconds for something to become true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "not within 5 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The ids of the links pinned under a root, by name.
pub(crate) fn link_ids(pin_root: &Path) -> Vec<(String, u32)> {
    let dir = pin_root.join(format!("v{}", abi::VERSION)).join("links");
    let mut ids: Vec<(String, u32)> = std::fs::read_dir(dir)
        .expect("links")
        .map(|entry| {
            let path = entry.expect("entry").path();
            let link = aya::programs::links::PinnedLink::from_pin(&path).expect("pinned link");
            let link: aya::programs::links::FdLink = link.into();
            let id = link.info().expect("info").id();
            (
                path.file_name()
                    .expect("name")
                    .to_string_lossy()
                    .into_owned(),
                id,
            )
        })
        .collect();
    ids.sort();
    ids
}

/// Replaces a pinned map by one whose values have another size.
pub(crate) fn pin_a_map_of_another_size(pin_root: &Path) {
    let path = pin_root.join(format!("v{}", abi::VERSION)).join("USAGE");
    std::fs::remove_file(&path).expect("unpin");
    let object = aya_obj::Map::Legacy(aya_obj::maps::LegacyMap {
        section_index: 0,
        section_kind: aya_obj::EbpfSectionKind::Maps,
        symbol_index: None,
        def: aya_obj::maps::bpf_map_def {
            map_type: 1,
            key_size: 4,
            value_size: 64,
            max_entries: 65_536,
            map_flags: 1,
            ..aya_obj::maps::bpf_map_def::default()
        },
        inner_def: None,
        data: vec![],
    });
    let map = MapData::create(object, "USAGE", None).expect("create");
    map.pin(&path).expect("pin");
    assert_eq!(MapInfo::from_pin(&path).expect("info").value_size(), 64);
}
