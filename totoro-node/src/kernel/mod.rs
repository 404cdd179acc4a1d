//! The kernel side, seen from the daemon: programs, pins, maps, sockets.
//!
//! Everything here is synchronous and quick (a map write is a system call of about a
//! microsecond; destroying sockets a netlink round trip each), so callers call it directly.

mod bans;
mod batch;
mod clsact;
mod controls;
mod dump;
mod events;
mod fill;
mod filter;
mod inspect;
mod leases;
mod left;
mod links;
mod load;
mod locals;
mod lost;
mod maps;
mod mend;
mod migrate;
mod near;
mod neighbours;
pub mod object;
mod others;
mod pins;
mod policy;
mod recent;
mod recount;
mod sockets;
mod stamps;
mod sweep;
mod sys;
mod tables;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;

use nix::time::ClockId;
use totoro_api::Reason;
use totoro_api::ports::Pool;
use totoro_ebpf::abi;

pub use batch::Table;
pub use dump::only_v6;
#[doc(hidden)]
pub use events::decode as decode_event;
pub use fill::{Fill, Full, map_memory};
pub use filter::{Planned, planned};
pub use inspect::Inspector;
pub use left::{Uninstalled, attached_programs, still_loaded};
pub use load::{Kernel, any_loaded, dead_links, uninstall};
pub use lost::Lost;
pub use mend::Compared;
pub use migrate::{Abi, Changed, Convert, Older};
pub use neighbours::{Neighbour, neighbours};
pub use others::other_lookups;
pub use pins::{is_on_bpffs, refuse_foreign};
pub use recent::Sample;
pub use sockets::can_destroy;

/// A failure of the kernel side: what was done to what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}")]
pub struct KernelError {
    /// What was tried, e.g. `pin`.
    pub operation: &'static str,
    /// On what, e.g. the map's name.
    pub subject: String,
    /// Why it failed, with the next step where there is one.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl KernelError {
    /// The error and all its causes, for one line of a log.
    #[must_use]
    pub fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    /// Whether a table was full, or memory short: the node has no room for more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = [libc::E2BIG, libc::ENOMEM, libc::ENOSPC];
        self.os_code().is_some_and(|code| full.contains(&code))
    }

    /// Whether too many ask at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let cause = self.source.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::ResourceBusy)
    }

    /// The operating system's code among its causes.
    fn os_code(&self) -> Option<i32> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            let code = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error);
            if code.is_some() {
                return code;
            }
            next = error.source();
        }
        None
    }
}

/// How packets are filtered before the stack.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver keeps its receive offloads, else TC ingress.
    #[default]
    Auto,
    /// XDP in the driver; generic where the driver has none (reported).
    Native,
    /// XDP after the driver.
    Generic,
    /// TC ingress only.
    Off,
}

impl std::fmt::Display for XdpMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Off => "off",
        })
    }
}

/// What to load and where.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// The kernel object (built by `cargo xtask build-ebpf`); empty: the one that is built in.
    pub object: PathBuf,
    /// Which of the pins there are ours: [`Abi::CURRENT`].
    pub abi: Abi,
    /// The directory of the pins, without the ABI's: `/sys/fs/bpf/totoro`.
    pub pin_root: PathBuf,
    /// The cgroup (v2) whose sockets are counted; its root by default.
    pub cgroup: PathBuf,
    /// Interfaces to filter.
    pub interfaces: Vec<String>,
    /// Finds more of them while the programs run (those of the default routes, where none was
    /// configured); `None` = `interfaces` are all.
    pub find_interfaces: Option<fn() -> Vec<String>>,
    /// How to filter.
    pub xdp: XdpMode,
    /// The ports that are lent.
    pub pool: Pool,
    /// frps's own port.
    pub bind_port: u16,
    /// Connections from one source to frps's own port; 0 = no limit.
    pub control_per_source: u32,
    /// TCP user connections of all tenants together; 0 = no limit.
    pub max_conns_total: u32,
    /// Seconds without a datagram until a UDP flow is idle.
    pub flow_idle_s: u32,
}

/// A live user connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The socket's cookie.
    pub cookie: u64,
    /// What the kernel knows of it.
    pub conn: abi::Conn,
}

/// frpc's connection to frps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlSocket {
    /// The socket's cookie.
    pub cookie: u64,
    /// frpc's address.
    pub client: SocketAddr,
    /// The node's address; of a link-local one its scope is the socket's interface.
    pub local: SocketAddr,
}

/// A connection to frps's own port, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The connection.
    pub socket: ControlSocket,
    /// When it was established, boot-time ns.
    pub opened_ns: u64,
}

/// The kernel's counts of one lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// From users, IP bytes.
    pub bytes_in: u64,
    /// To users, IP bytes.
    pub bytes_out: u64,
    /// From users.
    pub packets_in: u64,
    /// To users.
    pub packets_out: u64,
    /// TCP user connections admitted.
    pub admitted: u64,
    /// TCP user connections now.
    pub live: u64,
}

/// The kernel's counts of one tenant.
#[derive(Clone, Copy, Debug, Default)]
pub struct TenantCounts {
    /// Connections, admitted, surplus.
    pub usage: abi::Usage,
    /// Live UDP flows.
    pub flows: u64,
    /// UDP flows that have ended.
    pub flows_closed: u64,
}

/// One counter of `REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The tenant; 0 = nobody's.
    pub tenant: u32,
    /// Why.
    pub reason: Reason,
    /// How often so far.
    pub count: u64,
    /// The last time, boot-time ns.
    pub last_ns: u64,
}

/// What is on an interface.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The interface.
    pub interface: String,
    /// `native`, `generic` or `tc`.
    pub mode: &'static str,
}

/// What the kernel told (a hint; see [`abi::Event`]).
pub type Event = abi::Event;

/// Now on the boot-time clock, ns.
#[must_use]
pub fn boot_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// A tick of this kernel's, ns: what its coarse clocks resolve. 0 where it does not say.
#[must_use]
pub fn tick_ns() -> u64 {
    nix::time::clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |tick| tick.tv_nsec().cast_unsigned())
}

/// What a clock says, ns.
fn clock_ns(clock: ClockId) -> u64 {
    nix::time::clock_gettime(clock).map_or(0, |at| {
        at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64
    })
}

/// What a sweep mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// UDP flows closed because they were idle.
    pub idle_flows: usize,
    /// Surplus connections destroyed that an event should have announced.
    pub surplus: usize,
    /// Connections destroyed because their lease is no more.
    pub orphans: usize,
    /// Connections that had ended unheard, whose counts were taken back.
    pub mended: usize,
    /// Connections destroyed because nothing counted them.
    pub untracked: usize,
    /// Counts that were not those of what they count.
    pub drifted: usize,
    /// Links that were dead or gone, attached afresh.
    pub links: usize,
    /// Whether one of them tags UDP sockets when they are bound: who bound one meanwhile is unmetered until it does
    /// so anew.
    pub untagged: bool,
    /// Interfaces that came, or came back: filtered anew.
    pub interfaces: usize,
    /// Addresses that the node got or lost since the last sweep.
    pub addresses: usize,
}

type Result<T> = std::result::Result<T, KernelError>;

/// Names an operation and its subject on the way out of a `Result`.
trait Context<T> {
    fn on(self, operation: &'static str, subject: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T>
    for std::result::Result<T, E>
{
    fn on(self, operation: &'static str, subject: impl Into<String>) -> Result<T> {
        self.map_err(|source| KernelError {
            operation,
            subject: subject.into(),
            source: source.into(),
        })
    }
}

fn failed(
    operation: &'static str,
    subject: impl Into<String>,
    problem: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> KernelError {
    KernelError {
        operation,
        subject: subject.into(),
        source: problem.into(),
    }
}

/// An address as the maps have it: 16 bytes, IPv4 v4-mapped.
#[must_use]
pub fn to_addr(ip: std::net::IpAddr) -> abi::Addr {
    match ip {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(ip) => ip.octets(),
    }
}

/// An address and port of the maps; a link-local one is only complete with its interface.
fn scoped(ip: std::net::IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        std::net::IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            std::net::SocketAddrV6::new(ip, port, 0, interface).into()
        }
        ip => (ip, port).into(),
    }
}

/// An address of the maps, IPv4 where it is v4-mapped.
#[must_use]
pub fn from_addr(addr: &abi::Addr) -> std::net::IpAddr {
    std::net::Ipv6Addr::from(*addr).to_canonical()
}
