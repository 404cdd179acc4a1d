//! What is broken: the daemon, frps, frpc, the control plane, links, the daemon's disk.

use std::collections::BTreeSet;
use std::fs::{File, remove_file};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::load::Door;
use crate::lab::{Lab, NODE_USER_V4, Place, Process};
use crate::net::user::{self, Denied};
use crate::story::World;
use crate::story::frpc::{self, Proxy};
use crate::story::{bring_up, world};

/// Tickets outlive the run's outages.
const TICKET_TTL_S: u64 = 3600;
/// The first leased port.
const FIRST_PORT: u16 = 20_000;
/// frpc per invite.
pub(super) const MAX_CLIENTS: usize = 2;
/// Users of one invite at once.
pub(super) const MAX_CONNS: usize = 6;
/// The daemon's disk.
const DISK: &str = "12m";
/// frpc waits up to 20 s between two logins: after so long it is started again.
const HASTE: Duration = Duration::from_secs(4);

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL of the daemon.
    Node,
    /// SIGKILL of frps.
    Frps,
    /// SIGKILL of one frpc.
    Frpc(usize),
    /// SIGKILL of the control plane.
    Control,
    /// The clients' link goes down.
    ClientLink,
    /// The users' link goes down.
    UserLink,
    /// The daemon's disk is full.
    Disk,
}

impl Fault {
    /// One to three of them.
    pub(super) fn some(dice: &mut fastrand::Rng, clients: usize) -> Vec<Fault> {
        let count = dice.usize(1..=3);
        let mut faults = BTreeSet::new();
        while faults.len() < count {
            faults.insert(match dice.u8(0..8) {
                0 | 1 => Fault::Node,
                2 => Fault::Frps,
                3 => Fault::Frpc(dice.usize(0..clients)),
                4 => Fault::Control,
                5 => Fault::ClientLink,
                6 => Fault::UserLink,
                _ => Fault::Disk,
            });
        }
        let mut faults: Vec<Fault> = faults.into_iter().collect();
        dice.shuffle(&mut faults);
        faults
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Node => "daemon killed",
            Fault::Frps => "frps killed",
            Fault::Frpc(_) => "frpc killed",
            Fault::Control => "control plane killed",
            Fault::ClientLink => "clients' link down",
            Fault::UserLink => "users' link down",
            Fault::Disk => "disk full",
        })
    }
}

/// One frpc: its file, and where its proxies are.
#[derive(Debug)]
struct Client {
    name: String,
    text: String,
    proxies: [Proxy; 2],
    invite: String,
    process: Option<Process>,
}

/// What a run started again that would have come back by itself, later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Helped {
    /// frpc, which waited for longer than [`HASTE`].
    pub(super) frpc: u32,
    /// frps, which had ended by itself.
    pub(super) frps: u32,
}

/// A lab with all of it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) world: World,
    clients: Vec<Client>,
    /// Holds the mount namespace in which the daemon's state is on a small disk.
    disk: Process,
}

impl Machine {
    pub(super) fn start(lab: Lab, clients: usize) -> Result<Machine> {
        let mut world = World::new(lab, TICKET_TTL_S)?;
        bring_up::control(&mut world)?;
        bring_up::enrol(&mut world)?;
        bring_up::configure(
            &world,
            &[("xdp", "\"native\""), ("session_grace", "\"2s\"")],
        )?;
        let disk = small_disk(&world)?;
        let command = on_disk(&world, &disk);
        bring_up::run_node(&mut world, command)?;
        bring_up::frps(&mut world)?;
        let mut machine = Machine {
            world,
            clients: Vec::new(),
            disk,
        };
        machine.make_clients(clients)?;
        for index in 0..clients {
            machine.run_client(index)?;
        }
        Ok(machine)
    }

    /// Invites with so many frpc each as they may have.
    fn make_clients(&mut self, count: usize) -> Result<()> {
        let world = &self.world;
        let mut tenant = None;
        for (index, port) in (0..count).zip((FIRST_PORT..).step_by(2)) {
            if index % MAX_CLIENTS == 0 {
                let limits = json!({
                    "max_clients": MAX_CLIENTS, "max_proxies": 2 * MAX_CLIENTS,
                    "max_conns": MAX_CONNS, "max_flows": 1_000, "conn_rate": 10_000,
                });
                tenant = Some(world.invite(&format!("faults-{index}"), limits)?);
            }
            let tenant = tenant.as_ref().context("no invite")?;
            let (web, dns) = (format!("web{index}"), format!("dns{index}"));
            let proxies = [
                Proxy::new(&web, "tcp", world.backend.tcp, port),
                Proxy::new(&dns, "udp", world.backend.udp, port + 1),
            ];
            let generated = world.resolve(&tenant.code)?.frpc_toml;
            let text = frpc::with_proxies(&generated, &proxies);
            self.clients.push(Client {
                name: format!("frpc{index}"),
                text: format!("loginFailExit = false\n{text}"),
                proxies,
                invite: tenant.invite.id.clone(),
                process: None,
            });
        }
        Ok(())
    }

    /// The TCP ports, and whose they are.
    pub(super) fn doors(&self) -> Vec<Door> {
        let door = |client: &Client| Door {
            tcp: client.proxies[0].remote,
            udp: client.proxies[1].remote,
        };
        self.clients.iter().map(door).collect()
    }

    /// How many frpc, and of how many invites.
    pub(super) fn expected(&self) -> (usize, usize) {
        let invites: BTreeSet<&String> = self.clients.iter().map(|c| &c.invite).collect();
        (self.clients.len(), invites.len())
    }

    fn run_client(&mut self, index: usize) -> Result<()> {
        let client = &self.clients[index];
        let process = frpc::start(&self.world, &client.name, &client.text)?;
        self.clients[index].process = Some(process);
        Ok(())
    }

    /// Breaks one after the other, with `between` at some moment in between, then gives all of it
    /// back in another order.
    pub(super) fn suffer(
        &mut self,
        faults: &[Fault],
        dice: &mut fastrand::Rng,
        mut between: impl FnMut(&World) -> Result<()>,
    ) -> Result<()> {
        for fault in faults {
            pause(dice, 400);
            self.inject(*fault)
                .with_context(|| format!("inject: {fault}"))?;
        }
        pause(dice, 600);
        between(&self.world)?;
        let mut order = faults.to_vec();
        dice.shuffle(&mut order);
        for fault in order {
            pause(dice, 600);
            self.give_back(fault)
                .with_context(|| format!("give back after: {fault}"))?;
        }
        between(&self.world)
    }

    fn inject(&mut self, fault: Fault) -> Result<()> {
        let kill = |process: &mut Option<Process>| {
            if let Some(process) = process.take() {
                process.kill();
            }
        };
        match fault {
            Fault::Node => kill(&mut self.world.node),
            Fault::Frps => kill(&mut self.world.frps),
            Fault::Frpc(index) => kill(&mut self.clients[index].process),
            Fault::Control => kill(&mut self.world.control),
            Fault::ClientLink => self.link(Place::Client, "down")?,
            Fault::UserLink => self.link(Place::User, "down")?,
            Fault::Disk => self.fill()?,
        }
        Ok(())
    }

    fn give_back(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Node => self.run_node(),
            Fault::Frps => bring_up::run_frps(&mut self.world),
            Fault::Frpc(index) => self.run_client(index),
            Fault::Control => bring_up::serve(&mut self.world),
            Fault::ClientLink => self.link(Place::Client, "up"),
            Fault::UserLink => self.link(Place::User, "up"),
            Fault::Disk => remove_file(self.ballast()).context("free the disk"),
        }
    }

    /// Starts the daemon again; on a full disk it can't, as long as it is full.
    fn run_node(&mut self) -> Result<()> {
        let ballast = self.ballast();
        let mut start = || {
            let command = on_disk(&self.world, &self.disk);
            bring_up::run_node(&mut self.world, command)
        };
        match start() {
            Err(_) if ballast.exists() => {
                remove_file(&ballast).context("free the disk")?;
                start()?;
                File::create(&ballast).context("the ballast").map(drop)
            }
            started => started,
        }
    }

    fn link(&self, place: Place, state: &str) -> Result<()> {
        self.world.lab.ns(place).ip(&["link", "set", "eth0", state])
    }

    fn ballast(&self) -> PathBuf {
        let state = self.world.lab.file("node/state/ballast");
        let inside = state.strip_prefix("/").unwrap_or(&state);
        PathBuf::from(format!("/proc/{}/root", self.disk.pid())).join(inside)
    }

    /// Takes all of the daemon's disk that is left.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast()).context("the ballast")?;
        let block = [b'#'; 4096];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
    }

    /// Waits until users of every proxy are served.
    pub(super) fn converge(&mut self, patience: Duration) -> Result<Helped> {
        let begun = Instant::now();
        let (mut helped, mut since) = (Helped::default(), begun);
        loop {
            helped.frps += u32::from(self.keep_frps()?);
            let waiting: Vec<usize> = (0..self.clients.len())
                .filter(|index| self.serves(*index).is_err())
                .collect();
            let Some(first) = waiting.first() else {
                return Ok(helped);
            };
            if begun.elapsed() > patience {
                let why = self.serves(*first).err();
                let why = why.unwrap_or_else(|| anyhow::anyhow!("only just"));
                return Err(why.context(format!("{first} is not served after {patience:?}")));
            }
            if since.elapsed() > HASTE {
                for index in waiting {
                    if let Some(frpc) = self.clients[index].process.take() {
                        frpc.kill();
                    }
                    self.run_client(index)?;
                    helped.frpc += 1;
                }
                since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts frps again when it ended by itself, as systemd does. It may for one reason: a datagram that
    /// comes while its UDP proxy closes (mended by frp's pull request 5470, after 0.70.1).
    fn keep_frps(&mut self) -> Result<bool> {
        let Some(frps) = &mut self.world.frps else {
            return Ok(false);
        };
        if frps.lives() {
            return Ok(false);
        }
        frps.wait_new("panic: send on closed channel", Duration::ZERO)?;
        frps.wait_new("udp.ForwardUserConn", Duration::ZERO)?;
        bring_up::run_frps(&mut self.world)?;
        Ok(true)
    }

    fn serves(&self, index: usize) -> Result<()> {
        let ns = self.world.lab.ns(Place::User);
        let [web, dns] = &self.clients[index].proxies;
        let mut stream = user::connect(ns, user::at(NODE_USER_V4, web.remote)?)?;
        stream.set_read_timeout(Some(Duration::from_millis(800)))?;
        user::exchange(&mut stream, b"anybody")?;
        user::echo(ns, user::at(NODE_USER_V4, dns.remote)?, b"anybody").map(drop)
    }

    /// Users who stay: as many as the first invite admits, and not one more; one for each other
    /// proxy.
    pub(super) fn hold(&self) -> Result<Vec<TcpStream>> {
        let ns = self.world.lab.ns(Place::User);
        let mut held = Vec::new();
        let mut own = 0;
        for client in &self.clients {
            let at = user::at(NODE_USER_V4, client.proxies[0].remote)?;
            let first = client.invite == self.clients[0].invite;
            let most = if first { MAX_CONNS / MAX_CLIENTS } else { 1 };
            for _ in 0..most {
                let take = || {
                    let mut stream = user::connect(ns, at)?;
                    user::exchange(&mut stream, b"stay")?;
                    Ok(Some(stream))
                };
                // Those who left a moment ago still count for that long.
                held.push(world::within(Duration::from_secs(10), take)?);
                own += usize::from(first);
            }
        }
        if own == MAX_CONNS {
            let at = user::at(NODE_USER_V4, self.clients[0].proxies[0].remote)?;
            let more = user::denied(ns, at, Duration::from_secs(2));
            match more.context("one more than max_conns")? {
                Denied::Refused(_) => {}
                Denied::Dropped => bail!("one more than max_conns was dropped, not refused"),
            }
        }
        ensure!(!held.is_empty(), "nobody stays");
        Ok(held)
    }
}

fn pause(dice: &mut fastrand::Rng, most_ms: u64) {
    std::thread::sleep(Duration::from_millis(dice.u64(0..most_ms)));
}

/// A mount namespace in which the daemon's state is on a small disk. It ends with its process.
fn small_disk(world: &World) -> Result<Process> {
    let state = world.lab.file("node/state");
    std::fs::create_dir_all(&state).context("create the state's directory")?;
    let mut command = world.lab.command("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size={DISK},mode=700 totoro-faults \"$0\" && echo mounted && exec sleep infinity"
        ))
        .arg(&state);
    let mut disk = world.lab.start(Place::Node, "disk", command)?;
    disk.wait_line("mounted", Duration::from_secs(5))?;
    Ok(disk)
}

/// The daemon, where its state is on that disk.
fn on_disk(world: &World, disk: &Process) -> Command {
    let run = world.node_command(&["run"]);
    let mut command = world.lab.command("nsenter");
    command
        .arg(format!("--mount=/proc/{}/ns/mnt", disk.pid()))
        .arg("--")
        .arg(run.get_program())
        .args(run.get_args());
    command
}
