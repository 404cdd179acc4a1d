//! The kernel programs with maps of their own: pinned nowhere, attached nowhere, run by
//! `BPF_PROG_TEST_RUN`.

/// A map of the object by its name, as the type that is wanted.
macro_rules! take {
    ($ebpf:ident, $name:literal) => {
        $ebpf
            .take_map($name)
            .context(concat!("there is no map ", $name))?
            .try_into()
            .context(concat!("the map ", $name))?
    };
}

mod maps;
mod near;
mod state;
mod sys;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use totoro_ebpf::abi::{Addr, Event, PortKey};
use totoro_ebpf::logic::{pool, prefix};
use totoro_ebpf::packet::words;
use totoro_model::{Lookup, Span};

use maps::Maps;
use near::Near;
pub(crate) use near::notes;
pub use state::differences;

/// The longest frame that the kernel takes for a test run is a page less its own.
const LONGEST: usize = 4096;
/// Ticks that the programs' clock may be off by. One is usual; a host that gives the machine no processor for a
/// while keeps its ticks back for as long.
const DOUBT: u64 = 16;
/// Cells of a row of `SKETCH`.
const CELLS: u32 = 8192;

/// A hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// The network driver's.
    Xdp,
    /// Traffic control, what comes in.
    TcIn,
    /// Traffic control, what goes out.
    TcOut,
    /// A cgroup's sockets, what they receive.
    MeterIn,
    /// A cgroup's sockets, what they send.
    MeterOut,
}

impl Hook {
    const ALL: [Hook; 5] = [
        Hook::Xdp,
        Hook::TcIn,
        Hook::TcOut,
        Hook::MeterIn,
        Hook::MeterOut,
    ];

    const fn program(self) -> &'static str {
        match self {
            Hook::Xdp => "totoro_xdp",
            Hook::TcIn => "totoro_tc_in",
            Hook::TcOut => "totoro_tc_out",
            Hook::MeterIn => "totoro_meter_in",
            Hook::MeterOut => "totoro_meter_out",
        }
    }

    /// Whether the kernel runs a frame through it: a whole Ethernet header, and for an skb a byte behind
    /// it and (from Linux 6.18 on) the header of the IP that it says to be.
    #[must_use]
    pub fn takes(self, frame: &[u8]) -> bool {
        let least = match frame.get(12..14) {
            None => return false,
            Some(_) if self == Hook::Xdp => 14,
            Some([0x08, 0x00]) => 14 + 20,
            Some([0x86, 0xdd]) => 14 + 40,
            Some(_) => 15,
        };
        frame.len() >= least
    }

    /// What the program answers for "pass" and "drop".
    const fn answers(self) -> (u32, u32) {
        match self {
            // XDP_PASS, XDP_DROP.
            Hook::Xdp => (2, 1),
            // TC_ACT_UNSPEC (the next program decides), TC_ACT_SHOT.
            Hook::TcIn | Hook::TcOut => (u32::MAX, 2),
            Hook::MeterIn | Hook::MeterOut => (1, 0),
        }
    }
}

/// What a run showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Whether the packet goes on.
    pub passed: bool,
    /// When the program looked at its clock.
    pub at: Span,
}

/// The programs and their maps.
pub struct Node {
    programs: [OwnedFd; Hook::ALL.len()],
    lookup: OwnedFd,
    maps: Maps,
    near: Near,
    is_near: bool,
    /// A tick of this kernel's, ns; and whether the programs go by ticks as on a node.
    tick_ns: u64,
    has_ticks: bool,
    out: Box<[u8; LONGEST]>,
    length: usize,
    // Lives as long as the programs are run.
    _ebpf: Ebpf,
}

impl Node {
    /// Loads the kernel object.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load(object: &Path) -> Result<Node> {
        let mut loader = EbpfLoader::new();
        // Small ones are read and emptied faster: the kernel walks every bucket.
        for name in maps::SMALL {
            loader.map_max_entries(name, 1024);
        }
        // As on a node that has run for long.
        loader.override_global("HEARD_FROM_NS", &0_u64, true);
        let tick_ns = tick_ns();
        loader.override_global("TICK_NS", &tick_ns, true);
        let mut ebpf = loader
            .load_file(object)
            .with_context(|| format!("load {}", object.display()))?;
        let mut program = |name: &str| -> Result<OwnedFd> {
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("no {name}"))?;
            match program {
                Program::Xdp(one) => one.load(),
                Program::SchedClassifier(one) => one.load(),
                Program::SkLookup(one) => one.load(),
                Program::CgroupSkb(one) => one.load(),
                _ => bail!("{name} is of another type"),
            }
            .with_context(|| format!("load {name}"))?;
            let fd = program.fd().with_context(|| format!("no {name}"))?;
            Ok(fd.as_fd().try_clone_to_owned()?)
        };
        let [a, b, c, d, e] = Hook::ALL.map(|hook| program(hook.program()));
        let programs = [a?, b?, c?, d?, e?];
        let lookup = program("totoro_admit")?;
        Ok(Node {
            programs,
            lookup,
            maps: Maps::take(&mut ebpf)?,
            near: Near::take(&mut ebpf)?,
            is_near: false,
            tick_ns,
            has_ticks: false,
            out: Box::new([0; LONGEST]),
            length: 0,
            _ebpf: ebpf,
        })
    }

    /// Whether worlds that are installed from now on are at hand in arrays too, as on a node.
    pub fn keep_near(&mut self, wanted: bool) {
        self.is_near = wanted;
    }

    /// Whether the programs' clock is of the processor's last tick, or of some ticks ago and as many ticks more,
    /// as on a node, so that it is known to [`DOUBT`] either way; else each run reads it.
    pub fn keep_ticks(&mut self, wanted: bool) {
        self.has_ticks = wanted;
    }

    /// Begins a run: a moment before it.
    fn begin(&mut self) -> Result<u64> {
        if !self.has_ticks {
            self.near.forget_tick()?;
        }
        Ok(boot_ns())
    }

    /// When the programs looked at their clock in a run that began so.
    fn clock(&self, began: u64) -> Span {
        let doubt = if self.has_ticks {
            self.tick_ns * DOUBT
        } else {
            0
        };
        Span {
            from: began.saturating_sub(doubt),
            to: boot_ns().saturating_add(doubt),
        }
    }

    /// Runs a frame through a hook, once.
    ///
    /// # Errors
    /// When the kernel does not take the frame ([`Hook::takes`]), or the program answers what no hook of
    /// ours does.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<Ran> {
        let began = self.begin()?;
        let program = &self.programs[hook as usize];
        let answer = sys::test_run(program, Some((frame, &mut self.out[..])), None, 1)
            .with_context(|| format!("run {hook:?} with {} bytes", frame.len()))?;
        let at = self.clock(began);
        self.length = answer.length;
        let (pass, drop) = hook.answers();
        let passed = match answer.returned {
            returned if returned == pass => true,
            returned if returned == drop => false,
            other => bail!("{hook:?} answered {other}"),
        };
        Ok(Ran { passed, at })
    }

    /// The frame as the last run left it.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.out[..self.length]
    }

    /// Has a socket looked up.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn look_up(&mut self, who: &Lookup) -> Result<Ran> {
        let context = context(who);
        let began = self.begin()?;
        let answer = sys::test_run(&self.lookup, None, Some(&context), 1).context("look up")?;
        let at = self.clock(began);
        // SK_PASS, SK_DROP.
        let passed = match answer.returned {
            1 => true,
            0 => false,
            other => bail!("the lookup answered {other}"),
        };
        Ok(Ran { passed, at })
    }

    /// How long a frame takes in a hook, ns: the mean of `repeat` runs in a row. What spends a budget is
    /// refused in most of them.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn time(&mut self, hook: Hook, frame: &[u8], repeat: u32) -> Result<u32> {
        let program = &self.programs[hook as usize];
        let packet = Some((frame, &mut self.out[..]));
        Ok(sys::test_run(program, packet, None, repeat)?.took_ns)
    }

    /// The same for a lookup.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub fn time_lookup(&mut self, who: &Lookup, repeat: u32) -> Result<u32> {
        let context = context(who);
        Ok(sys::test_run(&self.lookup, None, Some(&context), repeat)?.took_ns)
    }

    /// What the daemon was told since it was last asked.
    ///
    /// # Errors
    /// When something else than an event is in the ring.
    pub fn told(&mut self) -> Result<Vec<Event>> {
        let mut told = Vec::new();
        while let Some(item) = self.maps.events.next() {
            told.push(sys::event(&item).context("an event of another size")?);
        }
        Ok(told)
    }
}

/// Now on the boot-time clock, ns.
#[must_use]
pub fn boot_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(0, |at| {
        at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64
    })
}

/// A tick of this kernel's, ns, as the daemon tells it to the programs; 0 where the kernel does not say.
fn tick_ns() -> u64 {
    nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |tick| tick.tv_nsec() as u64)
}

/// The cells of `SKETCH` that a source has at a port, which are the kernel's own choice.
#[must_use]
pub fn cells(source: &Addr, port: PortKey, seed: u64) -> [u32; 2] {
    let source = prefix::at_port(words(source), pool::place(port.proto, port.port));
    let cell = |seed| prefix::mix(source, seed) as u32 & (CELLS - 1);
    [cell(seed), CELLS + cell(!seed)]
}

/// `struct bpf_sk_lookup` (include/uapi/linux/bpf.h). Addresses and the remote port are in network
/// order, the local port is not.
fn context(who: &Lookup) -> [u8; 72] {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    let mut context = [0; 72];
    let mut put = |at: usize, bytes: &[u8]| context[at..at + bytes.len()].copy_from_slice(bytes);
    put(8, &(if who.v6 { AF_INET6 } else { AF_INET }).to_ne_bytes());
    put(12, &u32::from(who.proto).to_ne_bytes());
    put(36, &who.remote_port.to_be_bytes());
    if who.v6 {
        put(20, &who.remote);
        put(44, &who.local);
    } else {
        put(16, &who.remote[12..]);
        put(40, &who.local[12..]);
    }
    put(60, &u32::from(who.port).to_ne_bytes());
    context
}
