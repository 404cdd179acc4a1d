//! Map keys and values. Each says who writes it: a map has one kind of writer, so that no update
//! from userspace can overwrite a count of the kernel's.

use super::{Addr, abi};

/// Number of `u64` words of `POOL`: one bit per port, TCP first, then UDP.
pub const POOL_WORDS: u32 = 2 * 65_536 / 64;

/// Key of `PORTS` and `PORT_USAGE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// The pool port, host order.
    pub port: u16,
    /// [`super::TCP`] or [`super::UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// `PORTS`: a leased port. Written by the daemon only; the lease is open while the entry exists.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The tenant, key of `TENANTS` and `USAGE`.
    pub tenant: u32,
    /// 0 = admits; otherwise the number of the reason why new flows are refused.
    pub hold: u32,
    /// The lease's number: rises, never used twice.
    pub lease: u64,
    /// When it ends by itself, boot-time ns; 0 = never.
    pub expires_ns: u64,
    /// GCRA interval between SYNs (UDP: new flows) that XDP lets through; 0 = no budget.
    pub syn_interval_ns: u64,
    /// GCRA tolerance of that budget.
    pub syn_burst_ns: u64,
}

/// `PORT_USAGE`: what happens on a leased port. Written by the kernel, created and deleted by the
/// daemon with the lease.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortUsage {
    /// GCRA state (theoretical arrival time) of the SYN budget, where the port has no [`super::Gate`]; else
    /// `SYN_TATS` has it.
    pub syn_tat_ns: u64,
    /// Live connections on the port.
    pub conns: u64,
    /// Connections admitted so far.
    pub admitted: u64,
    /// Spare, zero.
    pub spare: u64,
}

/// The tenant of the canary, the connection with which the daemon tries what the programs do: no invite ever gets
/// this number.
pub const CANARY: u32 = u32::MAX;

/// [`Tenant::state`]: admits.
pub const ACTIVE: u32 = 1;
/// [`Tenant::state`]: refuses what is new with [`Tenant::reason`]; what lives goes on.
pub const HELD: u32 = 2;
/// [`Tenant::state`]: refuses what is new and drops every packet of what lives.
pub const CUT: u32 = 3;

/// "No limit" for the counts of [`Tenant`].
pub const UNLIMITED: u32 = u32::MAX;

/// `TENANTS`: the policy of one tenant (key: its number). Written by the daemon only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// [`ACTIVE`], [`HELD`] or [`CUT`].
    pub state: u32,
    /// Number of the reason given while not active.
    pub reason: u32,
    /// Concurrent TCP user connections.
    pub max_conns: u32,
    /// Concurrent UDP flows.
    pub max_flows: u32,
    /// Concurrent TCP user connections from one IPv4 address or IPv6 /64; as many UDP flows.
    pub max_conns_per_source: u32,
    /// The invite's epoch, for people who look.
    pub epoch: u32,
    /// A tenant whose `max_conns` and `max_flows` hold for this one too (all anonymous tenants
    /// together); 0 = none.
    pub parent: u32,
    /// Zero.
    pub pad: u32,
    /// GCRA interval between new TCP user connections; 0 = no limit.
    pub conn_interval_ns: u64,
    /// GCRA tolerance of that rate.
    pub conn_burst_ns: u64,
    /// When the tenant is cut by itself, boot-time ns; 0 = never.
    pub expires_ns: u64,
}

/// Key of `USAGE` for all tenants together. Its `conns` says something; its `last_ns`: when idle flows
/// and sources were last looked for; its `surplus`: connections of nobody's, to frps's own port or
/// to one whose lease had just ended, that were one too many.
pub const NODE: u32 = 0;

/// `USAGE`: what one tenant does (key: its number). Written by the kernel; created and deleted by
/// the daemon. Monotone but for `conns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live TCP user connections.
    pub conns: u64,
    /// TCP user connections admitted so far.
    pub admitted: u64,
    /// Connections over a limit that were established in a burst, and passed no byte.
    pub surplus: u64,
    /// UDP flows answered so far.
    pub flows_opened: u64,
    /// GCRA state (theoretical arrival time) of the connection rate.
    pub conn_tat_ns: u64,
    /// When something last happened, boot-time ns.
    pub last_ns: u64,
}

/// `FLOWS_CLOSED`: UDP flows of a tenant (key: its number) that ended. Written by the kernel; created
/// and deleted by the daemon. Live flows = `Usage::flows_opened - flows_closed`.
pub type FlowsClosed = u64;

/// Key of `TRAFFIC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficKey {
    /// The tenant.
    pub tenant: u32,
    /// The pool port.
    pub port: u16,
    /// [`super::TCP`] or [`super::UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

impl TrafficKey {
    /// That of a tenant's lease of a port.
    #[inline(always)]
    #[must_use]
    pub const fn of(tenant: u32, key: PortKey) -> TrafficKey {
        TrafficKey {
            tenant,
            port: key.port,
            proto: key.proto,
            pad: 0,
        }
    }
}

/// `TRAFFIC` (per CPU): IP bytes and packets between users and a tenant's port. Written by the
/// kernel, created and deleted by the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From users, IP bytes.
    pub bytes_in: u64,
    /// To users, IP bytes.
    pub bytes_out: u64,
    /// From users, packets (after GRO).
    pub packets_in: u64,
    /// To users, packets (before GSO).
    pub packets_out: u64,
}

/// [`Conn::flags`] and [`SockTag::flags`]: one too many, passes no byte.
pub const SURPLUS: u32 = 1;

/// `CONNS`: a live TCP user connection (key: the socket's cookie). Written by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conn {
    /// The user's address.
    pub remote: Addr,
    /// The node's address.
    pub local: Addr,
    /// The user's port.
    pub remote_port: u16,
    /// The pool port.
    pub local_port: u16,
    /// The tenant it was admitted under.
    pub tenant: u32,
    /// The lease it was admitted under.
    pub lease: u64,
    /// When it was established, boot-time ns.
    pub opened_ns: u64,
    /// The tenant's parent that was charged too, or 0.
    pub parent: u32,
    /// [`SURPLUS`].
    pub flags: u32,
    /// Number of the reason, for a surplus connection.
    pub reason: u32,
    /// The interface that the socket is bound to (IPv6 link-local, VRF), or 0. Without it the
    /// kernel does not find the socket that is to be destroyed.
    pub ifindex: u32,
}

/// The socket storage's value: whose a socket is. The layout is frozen (live sockets can't be
/// moved to another map); spare fields are for later.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockTag {
    /// The tenant; 0 for a UDP socket bound before its lease is known.
    pub tenant: u32,
    /// [`SURPLUS`].
    pub flags: u32,
    /// The lease.
    pub lease: u64,
    /// When it was established, boot-time ns.
    pub opened_ns: u64,
    /// The pool port.
    pub port: u16,
    /// [`super::TCP`] or [`super::UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// The tenant's parent that was charged too, or 0.
    pub parent: u32,
    /// Spare, zero.
    pub spare: [u64; 4],
}

/// Key of `FLOWS` and `CANDIDATES`: a UDP flow between a user and a pool port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The user's address.
    pub remote: Addr,
    /// The user's port.
    pub remote_port: u16,
    /// The pool port.
    pub port: u16,
    /// Zero.
    pub pad: u32,
}

/// [`Flow::state`]: the user wrote; nobody answered yet. Counts for nothing.
pub const FLOW_NEW: u32 = 0;
/// [`Flow::state`]: answered; counts under `max_flows`; what goes out is still bounded.
pub const FLOW_ANSWERED: u32 = 1;
/// [`Flow::state`]: the user wrote again after an answer. Likely real, but no proof: who spoofs can
/// write twice without seeing the answer.
pub const FLOW_CONFIRMED: u32 = 2;
/// [`Flow::state`]: as [`FLOW_ANSWERED`], in the place of another that was not confirmed, for the tenant had no
/// more. Gets three times what came in and nothing beyond, so that forged sources, which may come by the
/// thousand then, gain little.
pub const FLOW_RECYCLED: u32 = 3;

/// `FLOWS` (answered, recycled or confirmed) and `CANDIDATES` (new; the oldest goes first). Written by the kernel,
/// which ends what is idle.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The tenant.
    pub tenant: u32,
    /// `FLOW_…`.
    pub state: u32,
    /// The lease.
    pub lease: u64,
    /// First datagram, boot-time ns.
    pub opened_ns: u64,
    /// From when on it is idle, boot-time ns: its last datagram; of those to the user only such as
    /// [`crate::logic::admit::keeps`] says.
    pub last_ns: u64,
    /// From the user, IP bytes.
    pub bytes_in: u64,
    /// To the user, IP bytes.
    pub bytes_out: u64,
    /// The tenant's parent that was charged too, or 0. Of one that is new: its place in `WAITING`, counted from 1, or 0.
    pub parent: u32,
    /// When its user was last heard, boot-time, in units of 2^30 ns ([`crate::logic::admit::coarse`]). Of one that
    /// is new: 1 = its user has written again.
    pub heard: u32,
}

/// Key of `OUTBOUND`: a UDP flow that the node (or who it forwards for) opened from a
/// pool-numbered port, whose answers are none of Totoro's business.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OutboundKey {
    /// The far address.
    pub remote: Addr,
    /// The near address.
    pub local: Addr,
    /// The far port.
    pub remote_port: u16,
    /// The near, pool-numbered port.
    pub local_port: u16,
    /// Zero.
    pub pad: u32,
}

/// Key of `REASONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReasonKey {
    /// The tenant; 0 = nobody's.
    pub tenant: u32,
    /// The reason's number.
    pub reason: u32,
}

/// `REASONS` (per CPU): refusals, monotone. Written by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonCount {
    /// Packets or connections refused.
    pub count: u64,
    /// The last one, boot-time ns.
    pub last_ns: u64,
}

/// Key of `CONTROL`: frpc's end of a TCP connection to frps's own port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ControlKey {
    /// frpc's address.
    pub remote: Addr,
    /// frpc's port.
    pub remote_port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// `CONTROL`: written by the kernel while the connection lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The socket's cookie.
    pub cookie: u64,
    /// The node's address.
    pub local: Addr,
    /// frps's port.
    pub local_port: u16,
    /// How many of its packets were looked at for a websocket's request.
    pub looks: u16,
    /// The interface that the socket is bound to, or 0; as [`Conn::ifindex`].
    pub ifindex: u32,
    /// When it was established, boot-time ns.
    pub opened_ns: u64,
}

/// Data of a `BANS` entry's key: the address, v4-mapped for IPv4 (prefix length + 96).
pub type BanAddr = Addr;

/// `BANS`: a banned source. Written by the daemon only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// When it ends by itself, boot-time ns; 0 = never.
    pub until_ns: u64,
}

/// `CONFIG[0]`: what may change while the programs run. Written by the daemon only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`super::VERSION`].
    pub abi: u32,
    /// frps's own port.
    pub bind_port: u32,
    /// The network namespace that the node's programs guard.
    pub netns_cookie: u64,
    /// 0 = admit; otherwise the number of the reason why the whole pool refuses what is new.
    pub hold: u32,
    /// Connections from one source to frps's own port; 0 = no limit.
    pub control_per_source: u32,
    /// GCRA interval between new flows of one source to the pool; 0 = no limit.
    pub source_interval_ns: u64,
    /// GCRA tolerance of that rate.
    pub source_burst_ns: u64,
    /// `TCP_USER_TIMEOUT` of user connections, ms.
    pub user_timeout_ms: u32,
    /// TCP user connections of all tenants together; 0 = no limit.
    pub max_conns_total: u32,
    /// A UDP flow without a datagram for so long is idle, ns.
    pub flow_idle_ns: u64,
    /// Seed of the sketch of sources: random, so that nobody can choose sources that share a
    /// victim's cells. Also the key of websockets' stamps ([`crate::logic::stamp`]).
    pub sketch_seed: u64,
}

abi! {
    PortKey: 4, Lease: 40, PortUsage: 32, Tenant: 56, Usage: 48, TrafficKey: 8, Traffic: 32,
    Conn: 72, SockTag: 64, FlowKey: 24, Flow: 56, OutboundKey: 40,
    ReasonKey: 8, ReasonCount: 16, ControlKey: 24, Control: 40, Ban: 8, Config: 64,
}
