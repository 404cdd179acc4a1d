//! Loading: object → checked pins → programs → links.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{MapData, RingBuf};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use totoro_api::Reason;
use totoro_ebpf::abi;
use totoro_ebpf::logic::admit::UNHEARD_NS;

use super::leases::Leases;
use super::lost::{Losses, Lost};
use super::maps::{Maps, PINNED, found};
use super::mend::{Mender, Suspects};
use super::migrate::{self, Predecessors};
use super::near::{self, Near};
use super::pins::PinDir;
use super::recent::{Recent, Sample};
use super::sockets::Destroyer;
use super::stamps::Stamps;
use super::sweep::Due;
use super::tables::Tables;
use super::watch::Loaded;
use crate::privilege;

use super::{
    Context, Event, KernelOptions, Result, Uninstalled, boot_ns, clsact, events, failed, from_addr,
    locals, object, pins, sys, tick_ns,
};

/// New flows per second, and burst, that one source may open to a port of the pool before the shield drops: above
/// what a busy NAT does, and a quarter of what the lease takes ([`super::leases`]), so that one source that floods
/// leaves the rest to others.
const SOURCE_RATE: (u32, u32) = (500, 8_000);
/// How long a user may fail to acknowledge before the kernel ends the connection, ms.
const USER_TIMEOUT_MS: u32 = 60_000;
/// In what time after their load the programs are attached, at the longest, ns.
const ATTACHED_NS: u64 = 60_000_000_000;

/// What the event task and the daemon share.
pub(super) struct Shared {
    maps: Mutex<Maps>,
    /// Locked after `maps`, where both are.
    near: Mutex<Near>,
    /// Read without the lock: whoever writes does not wait for them.
    pub(super) tables: Tables,
    destroyer: Mutex<Destroyer>,
    pub(super) losses: Losses,
    pub(super) recent: Recent,
}

/// The programs and maps of one node, loaded and attached. Dropping it leaves all of them in place:
/// enforcement goes on without the daemon, until [`uninstall`].
pub struct Kernel {
    pub(super) shared: Arc<Shared>,
    ring: Option<RingBuf<MapData>>,
    loaded: Mutex<Loaded>,
    due: Mutex<Due>,
    suspects: Mutex<Suspects>,
    /// Bans whose flows may live; `None` = of all there are. Locked before `maps`.
    uncut: Mutex<Option<BTreeSet<IpNet>>>,
    pub(super) stamps: Stamps,
    pub(super) leases: Leases,
    pub(super) mender: Mender,
}

impl Shared {
    /// The maps. A panic elsewhere leaves kernel memory as consistent as a kill would.
    pub(super) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the shield has at hand.
    pub(super) fn near(&self) -> MutexGuard<'_, Near> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks which addresses the node has; how many it got or lost.
    pub(super) fn refresh_locals(&self) -> Result<usize> {
        locals::refresh(&mut self.maps(), &mut self.near())
    }

    pub(super) fn destroyer(&self) -> MutexGuard<'_, Destroyer> {
        self.destroyer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys a connection of `CONNS`; whether it was there.
    pub(super) fn destroy(&self, cookie: u64, conn: &abi::Conn) -> Result<bool> {
        let local = (from_addr(&conn.local), conn.local_port).into();
        let remote = (from_addr(&conn.remote), conn.remote_port).into();
        self.destroyer()
            .destroy(local, remote, conn.ifindex, cookie)
    }

    /// Destroys a surplus connection as an event tells of it.
    pub(super) fn destroy_surplus(&self, event: &Event) {
        let conn = abi::Conn {
            local: event.local,
            remote: event.remote,
            local_port: event.port,
            remote_port: event.remote_port,
            ifindex: event.ifindex,
            ..abi::Conn::default()
        };
        if let Err(error) = self.destroy(event.cookie, &conn) {
            // It stays mute all the same, and the next sweep tries again.
            tracing::warn!(
                error = error.whole(),
                "a surplus connection could not be destroyed"
            );
        }
    }
}

impl Kernel {
    /// Loads and attaches the programs, adopting what an earlier daemon left pinned.
    ///
    /// The calling thread must be in the node's network namespace.
    ///
    /// # Errors
    /// With the operation, its subject and the next step: no privilege, no object, a pin that is
    /// not ours, another daemon on the pin directory, a program that the kernel refuses.
    pub fn load(options: &KernelOptions) -> Result<Kernel> {
        privilege::require().on("load", "the kernel programs")?;
        let object = object::read(&options.object)?;
        let parsed = aya_obj::Object::parse(&object)
            .on("parse the kernel object", object::shown(&options.object))?;
        let mut pins = PinDir::lock(&options.pin_root, options.abi.version)?;
        pins::refuse_foreign(&options.pin_root)?;
        let predecessors = Predecessors::find(&options.pin_root, options.abi)?;
        predecessors.share(&pins, &parsed)?;
        pins.check(&parsed, PINNED)?;
        pins.inherit_from(predecessors.links());
        let mut ebpf = load_object(&object, &pins)?;
        predecessors.copy(&pins)?;
        let ring = take(&mut ebpf, "EVENTS")?
            .try_into()
            .on("use map", "EVENTS")?;
        // Before anything is written that they would not hear of. Should this start fail, they go on so.
        for dir in predecessors.near().chain([pins.near()]) {
            near::silence(&dir)?;
        }
        let mut near = Near::take(&mut ebpf, &pins)?;
        // Opened from the pins, so that the object keeps its own handles for the programs.
        let mut maps = Maps::from_pins(&pins.dir)?;
        configure(&mut maps, options)?;
        locals::refresh(&mut maps, &mut near)?;
        let tables = Tables::from_pins(&pins.dir)?;
        // Before the programs see a packet: those of an earlier daemon have arrays of their own. The
        // budgets in these are whole, for they are new.
        for (key, lease) in tables.ports.all()? {
            near.open(key, &lease)?;
        }
        let bans = maps.ban_keys()?;
        near.mark(bans.iter().map(|(key, _)| *key))?;
        near.enter_singles(bans)?;
        let shared = Arc::new(Shared {
            maps: Mutex::new(maps),
            near: Mutex::new(near),
            tables,
            destroyer: Mutex::new(Destroyer::open()?),
            losses: Losses::take(&mut ebpf)?,
            recent: Recent::new(),
        });
        let mut loaded = Loaded::attach(ebpf, pins, options)?;
        let leases = Leases::of(&mut loaded.ebpf)?;
        let mender = Mender::of(&mut loaded.ebpf)?;
        predecessors.retire();
        let kernel = Kernel {
            shared,
            ring: Some(ring),
            loaded: Mutex::new(loaded),
            due: Mutex::default(),
            suspects: Mutex::default(),
            uncut: Mutex::default(),
            stamps: Stamps::default(),
            leases,
            mender,
        };
        // Told with the first sweep.
        let drifted = kernel.recount()?;
        kernel.due().drifted = drifted;
        Ok(kernel)
    }

    // Each lock's holder leaves state that the next look corrects, so a panic poisons nothing.

    pub(super) fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn uncut(&self) -> MutexGuard<'_, Option<BTreeSet<IpNet>>> {
        self.uncut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the whole pool refuse what is new (`None` = admit).
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn set_hold(&self, reason: Option<Reason>) -> Result<()> {
        let mut maps = self.shared.maps();
        let mut config = maps.config.get(&0, 0).on("read", "CONFIG")?;
        config.hold = reason.map_or(0, Reason::number);
        maps.config.set(0, config, 0).on("write", "CONFIG")
    }

    /// Events that were lost since the daemon started.
    ///
    /// # Errors
    /// When the map can't be read.
    pub fn lost(&self) -> Result<Lost> {
        self.shared.losses.look()
    }

    /// The last refusals that the kernel told of, newest first: samples, while the ring is read.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.shared.recent.newest_first()
    }

    /// Starts reading the ring (inside a tokio runtime, once). Surplus connections are destroyed
    /// here, and refusals remembered; the other events reach the returned queue, which drops the newest
    /// when it is full.
    ///
    /// # Errors
    /// When called twice, or when the ring can't be watched.
    pub fn start_events(&mut self) -> Result<tokio::sync::mpsc::Receiver<Event>> {
        let ring = self
            .ring
            .take()
            .ok_or_else(|| failed("read", "EVENTS", "it is read already"))?;
        events::start_logs(&mut self.loaded().ebpf);
        events::start(ring, Arc::clone(&self.shared))
    }
}

fn load_object(object: &[u8], pins: &PinDir) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in PINNED {
        loader.map_pin_path(name, pins.dir.join(name));
    }
    // Where it is off for the namespace it can be switched on later, so only its absence counts.
    let has_mptcp = u32::from(Path::new("/proc/sys/net/mptcp").exists());
    loader.override_global("HAS_MPTCP", &has_mptcp, true);
    let tick_ns = tick_ns();
    loader.override_global("TICK_NS", &tick_ns, true);
    let heard_from_ns = boot_ns() + ATTACHED_NS + UNHEARD_NS;
    loader.override_global("HEARD_FROM_NS", &heard_from_ns, true);
    loader.load(object).on("load", "the kernel object")
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .ok_or_else(|| failed("find in the object", name, "no such map"))
}

/// Writes the configuration and the pool. Until the first configuration is there the programs
/// stand aside, and from then on they never do again.
fn configure(maps: &mut Maps, options: &KernelOptions) -> Result<()> {
    // What was guarded still is: outside the pool frps may have proxies, which whoever comes next asks frps for.
    super::policy::write_pool(maps, &options.pool, options.bind_port, true)?;
    let (source_interval_ns, source_burst_ns) =
        totoro_ebpf::logic::bucket::rate(SOURCE_RATE.0, SOURCE_RATE.1);
    let before = maps.config.get(&0, 0).on("read", "CONFIG")?;
    let config = abi::Config {
        abi: abi::VERSION,
        bind_port: u32::from(options.bind_port),
        netns_cookie: sys::netns_cookie().on("read", "the network namespace's cookie")?,
        hold: before.hold,
        control_per_source: options.control_per_source,
        source_interval_ns,
        source_burst_ns,
        user_timeout_ms: USER_TIMEOUT_MS,
        max_conns_total: options.max_conns_total,
        flow_idle_ns: u64::from(options.flow_idle_s) * 1_000_000_000,
        sketch_seed: match before.sketch_seed {
            0 => random()?,
            // The sketch's cells were spent under it.
            seed => seed,
        },
    };
    // Counts first: without them nobody is admitted.
    if found(maps.usage.get(&abi::NODE, 0))
        .on("read", "USAGE")?
        .is_none()
    {
        maps.usage
            .insert(abi::NODE, abi::Usage::default(), 0)
            .on("write", "USAGE")?;
    }
    maps.config.set(0, config, 0).on("write", "CONFIG")
}

pub(super) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).on("make", "a seed")?;
    Ok(u64::from_ne_bytes(bytes))
}

/// How many programs are to be attached (beside those per interface), and which of them are not
/// where they belong. Looks without the daemon, as root.
///
/// # Errors
/// When nothing is pinned there, or the cgroup is not there.
pub fn dead_links(pin_root: &Path, cgroup: &Path) -> Result<(usize, Vec<&'static str>)> {
    let dir = pins::map_dir(pin_root).join("links");
    if !pins::is_loaded(pin_root) {
        let problem = pins::not_loaded(pin_root, "start it: systemctl start totoro-node");
        return Err(failed("find", dir.display().to_string(), problem));
    }
    Ok((
        super::links::names().count(),
        super::links::dead(&dir, cgroup)?,
    ))
}

/// Whether programs of any ABI are pinned under `pin_root`.
#[must_use]
pub fn any_loaded(pin_root: &Path) -> bool {
    pins::loaded(pin_root).next().is_some()
}

/// Detaches every program and removes every pin under `pin_root`; what was there.
///
/// # Errors
/// When another daemon holds the directory, or a pin can't be removed.
pub fn uninstall(pin_root: &Path) -> Result<Uninstalled> {
    let mut removed = Uninstalled::default();
    if !pin_root.exists() {
        return Ok(removed);
    }
    // All of them locked before the first is removed: it refuses under a live daemon.
    let all: Vec<_> = migrate::versions(pin_root)?
        .into_iter()
        .map(|(version, _)| PinDir::lock(pin_root, version))
        .collect::<Result<_>>()?;
    for pins in all {
        removed.pins.extend(pins.remove()?);
    }
    clsact::remove(pin_root, &mut removed);
    let _ = std::fs::remove_dir(pin_root);
    Ok(removed)
}
