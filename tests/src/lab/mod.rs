//! A lab: three network namespaces joined by veth, a cgroup, a directory, and the processes in
//! them. Everything is named after one tag, so that any of several ways to end (a normal one, a
//! panic, Ctrl-C, `demo down` after a kill) removes the same things by name.
//!
//! ```text
//!   client ns            node ns                         user ns
//!   eth0 10.77.1.2 ───── cl0 10.77.1.1   us0 10.77.2.1 ───── eth0 10.77.2.2
//!        fd77:1::2           fd77:1::1       fd77:2::1            fd77:2::2
//! ```

mod abandoned;
mod affinity;
mod cgroup;
mod clock;
mod down;
mod env;
mod machine;
mod ns;
mod process;
mod signals;
mod sys;
mod tag;
mod tools;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use abandoned::abandoned;
pub use affinity::keep_to;
pub use clock::WallClock;
pub use down::{down, exists};
pub use machine::{able, missing, own_cgroup};
pub use ns::Netns;
pub use process::{Finished, Process};
pub use signals::{made, settle, watch as watch_signals};
pub use tag::{new_tag, run_tag};
pub use tools::{Tools, skip};

/// The node as the client sees it.
pub const NODE_CLIENT_V4: &str = "10.77.1.1";
/// The client.
pub const CLIENT_V4: &str = "10.77.1.2";
/// A second address of the client's machine.
pub const CLIENT_V4_B: &str = "10.77.1.3";
/// The node as users see it.
pub const NODE_USER_V4: &str = "10.77.2.1";
/// The node as users see it, IPv6.
pub const NODE_USER_V6: &str = "fd77:2::1";
/// The user.
pub const USER_V4: &str = "10.77.2.2";

/// The machines' names.
const MACHINES: [&str; 3] = ["node", "client", "user"];

/// Which of the lab's machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Control plane, frps and the node's daemon.
    Node,
    /// frpc and the services behind it.
    Client,
    /// Who uses the tunnels.
    User,
}

/// How a lab is to be raised.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names everything: letters, digits, hyphens.
    pub tag: String,
    /// It may be left running: its processes do not end with us. Only [`Lab::leave`] leaves it.
    pub keep: bool,
}

/// A raised lab; dropping it takes it down, unless it was left.
#[derive(Debug)]
pub struct Lab {
    /// The binaries.
    pub tools: Tools,
    /// `target/lab/<tag>`: configurations, data, logs.
    pub dir: PathBuf,
    node: Netns,
    client: Netns,
    user: Netns,
    node_cgroup: PathBuf,
    other_cgroup: PathBuf,
    /// Whether it was left running. Shared with its processes, which are then not killed.
    left: Arc<AtomicBool>,
    frozen: AtomicBool,
    options: Options,
}

impl Lab {
    /// Raises the namespaces, links, addresses and cgroups.
    ///
    /// # Errors
    /// What could not be made; what was made before is removed.
    pub fn raise(tools: Tools, options: Options) -> Result<Lab> {
        let tag = &options.tag;
        anyhow::ensure!(
            tag::is_good(tag),
            "a lab's tag is 1 to 24 letters, digits and hyphens, not {tag:?}"
        );
        let dir = directory(&tools, tag)?;

        // From here on everything is found by the tag, so a failure half-way takes it down too.
        let undo = Undo(Some((tools.clone(), tag.clone())));
        signals::on_signal(&tools, tag)?;
        make_run_dir(tag, &dir)?;
        let [node, client, user] = MACHINES.map(|machine| Netns::add(&ns_name(tag, machine)));
        let (node, client, user) = (node?, client?, user?);
        for ns in [&node, &client, &user] {
            ns.ip(&["link", "set", "lo", "up"])?;
        }
        wire(
            &node,
            "cl0",
            ["10.77.1.1/24", "fd77:1::1/64"],
            &client,
            ["10.77.1.2/24", "fd77:1::2/64"],
        )?;
        wire(
            &node,
            "us0",
            ["10.77.2.1/24", "fd77:2::1/64"],
            &user,
            ["10.77.2.2/24", "fd77:2::2/64"],
        )?;
        client.ip(&["addr", "add", &format!("{CLIENT_V4_B}/24"), "dev", "eth0"])?;

        let root = cgroup::root(tag)?;
        let (node_cgroup, other_cgroup) = (root.join("node"), root.join("other"));
        for path in [&root, &node_cgroup, &other_cgroup] {
            cgroup::make(path)?;
        }
        undo.keep();
        Ok(Lab {
            tools,
            dir,
            node,
            client,
            user,
            node_cgroup,
            other_cgroup,
            left: Arc::default(),
            frozen: AtomicBool::new(false),
            options,
        })
    }

    /// The namespace of a machine.
    #[must_use]
    pub const fn ns(&self, place: Place) -> &Netns {
        match place {
            Place::Node => &self.node,
            Place::Client => &self.client,
            Place::User => &self.user,
        }
    }

    /// The cgroup that the node's processes are in, whose sockets are counted.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.node_cgroup
    }

    /// Stops all processes of the lab, or has them go on: beside others that are being measured it takes
    /// no processor then. Nothing can be started in it meanwhile.
    ///
    /// # Errors
    /// The cgroup does not do it within 5 s.
    pub fn freeze(&self, yes: bool) -> Result<()> {
        let root = self.node_cgroup.parent().context("the lab's cgroup")?;
        self.frozen.store(yes, Ordering::SeqCst);
        cgroup::freeze(root, yes)
    }

    /// Has all processes of the frozen lab run on this processor alone.
    ///
    /// # Errors
    /// It is not frozen, so that threads might begin meanwhile; or there is no such processor.
    pub fn keep_to(&self, cpu: usize) -> Result<()> {
        ensure!(self.frozen.load(Ordering::SeqCst), "the lab is not frozen");
        for cgroup in [&self.node_cgroup, &self.other_cgroup] {
            cgroup::keep_to(cgroup, cpu)?;
        }
        Ok(())
    }

    /// Processor time of all that ran on the node so far.
    ///
    /// # Errors
    /// The cgroup does not tell.
    pub fn processor(&self) -> Result<Duration> {
        cgroup::processor(&self.node_cgroup)
    }

    /// Where the node pins.
    #[must_use]
    pub fn pin_root(&self) -> PathBuf {
        down::pin_root(&self.options.tag)
    }

    /// A file of the lab's.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where its processes have their sockets: a short path.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        down::run_dir(&self.options.tag)
    }

    /// Leaves the lab running, with a file for people who play on in it; where that is.
    ///
    /// # Errors
    /// It was not raised to be kept, or the file can't be written. The lab is taken down then.
    pub fn leave(self, env: &str) -> Result<PathBuf> {
        anyhow::ensure!(self.options.keep, "this lab's processes end with us");
        let path = env::write(&self.tools, &self.options.tag, env)?;
        self.left.store(true, Ordering::SeqCst);
        signals::forget(&self.options.tag);
        Ok(path)
    }

    /// A command that runs on one of the machines, with a clean environment.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", &self.dir)
            .current_dir(&self.dir);
        for name in ["PATH", "RUST_BACKTRACE", "RUST_LOG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Starts a process that lives on. Call it from a thread that lives as long as the process is
    /// to: the kernel ends it when its parent thread ends.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(&self, place: Place, name: &str, mut command: Command) -> Result<Process> {
        command.stdin(Stdio::null());
        self.start_command(place, name, command)
    }

    /// The same, with a socket as its standard input.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_with(
        &self,
        place: Place,
        name: &str,
        mut command: Command,
        socket: TcpListener,
    ) -> Result<Process> {
        command.stdin(OwnedFd::from(socket));
        self.start_command(place, name, command)
    }

    fn start_command(&self, place: Place, name: &str, command: Command) -> Result<Process> {
        let (place, left) = (self.place(place)?, Arc::clone(&self.left));
        Process::start(place, name, &self.dir, command, left)
    }

    /// Runs a command to its end, within 30 s.
    ///
    /// # Errors
    /// It can't be started, or does not end in time. Its exit code is the caller's business.
    pub fn run(&self, place: Place, command: Command) -> Result<Finished> {
        process::run(self.place(place)?, command)
    }

    fn place(&self, place: Place) -> Result<sys::Place> {
        // Its child would stop before it is the program, and we would wait for it.
        ensure!(
            !self.frozen.load(Ordering::SeqCst),
            "the lab is frozen, nothing can be started in it"
        );
        let cgroup = if place == Place::Node {
            &self.node_cgroup
        } else {
            &self.other_cgroup
        };
        sys::Place::open(self.ns(place), cgroup, !self.options.keep)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.left.load(Ordering::SeqCst) {
            take_down(&self.tools, &self.options.tag);
        }
    }
}

/// The end of a lab that nobody can be told about but by a line.
fn take_down(tools: &Tools, tag: &str) {
    signals::settle();
    if let Err(error) = down(tools, tag) {
        use std::io::Write;
        writeln!(std::io::stderr().lock(), "{error:#}").ok();
    }
    signals::forget(tag);
}

/// An empty directory for a new lab; of old ones only what is younger than a day is kept.
fn directory(tools: &Tools, tag: &str) -> Result<PathBuf> {
    let dir = tools.labs.join(tag);
    let owner = dir.join("owner");
    anyhow::ensure!(
        !owner.exists(),
        "there is a lab {tag} ({}); `cargo xtask demo down {tag}` removes it",
        dir.display()
    );
    for old in fs::read_dir(&tools.labs).into_iter().flatten().flatten() {
        let age = old.metadata().and_then(|meta| meta.modified());
        let age = age
            .ok()
            .and_then(|at| at.elapsed().ok())
            .unwrap_or_default();
        let over = age > std::time::Duration::from_secs(24 * 3600);
        if (over && !old.path().join("owner").exists()) || old.path() == dir {
            fs::remove_dir_all(old.path()).ok();
        }
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    fs::write(owner, std::process::id().to_string()).context("write owner")?;
    Ok(dir)
}

/// The lab's directory of sockets, which also tells whose it is.
fn make_run_dir(tag: &str, dir: &Path) -> Result<()> {
    let path = down::run_dir(tag);
    signals::making(|| {
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        fs::write(path.join("lab"), dir.as_os_str().as_encoded_bytes()).context("write lab")
    })
}

fn ns_name(tag: &str, machine: &str) -> String {
    format!("totoro-{tag}-{machine}")
}

/// A veth pair: `device` here, `eth0` there. Made inside the namespaces, so that no name is ever
/// taken in the machine's own. No duplicate address detection: an address is good at once.
fn wire(
    here: &Netns,
    device: &str,
    mine: [&str; 2],
    there: &Netns,
    theirs: [&str; 2],
) -> Result<()> {
    here.ip(&[
        "link",
        "add",
        device,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        there.name(),
    ])?;
    for (ns, device, addresses) in [(here, device, mine), (there, "eth0", theirs)] {
        for address in addresses {
            let nodad: &[&str] = if address.contains(':') {
                &["nodad"]
            } else {
                &[]
            };
            ns.ip(&[&["addr", "add", address, "dev", device], nodad].concat())?;
        }
        ns.ip(&["link", "set", device, "up"])?;
    }
    // The other network is reached through the node, as it would be on the internet.
    let gateway = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
    there.ip(&["route", "add", "default", "via", &gateway(mine[0])])?;
    there.ip(&["-6", "route", "add", "default", "via", &gateway(mine[1])])
}

/// Takes a half-raised lab down.
struct Undo(Option<(Tools, String)>);

impl Undo {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some((tools, tag)) = self.0.take() {
            take_down(&tools, &tag);
        }
    }
}
