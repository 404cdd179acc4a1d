//! All maps, and nothing else. Types are in [`totoro_ebpf::abi`], which says who writes what.
//!
//! Sizes bound memory: hashes that the daemon or a connection fills are allocated on demand.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage, SockHash,
};
use aya_ebpf::macros::btf_map;
use totoro_ebpf::abi;
use totoro_ebpf::packet::Words;

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Rows of the sketch of sources.
pub(crate) const SKETCH_ROWS: u32 = 2;
/// Cells of a row, a power of two.
pub(crate) const SKETCH_CELLS: u32 = 8192;

#[btf_map]
pub(crate) static CONFIG: Array<abi::Config, 1> = Array::new();

#[btf_map]
pub(crate) static POOL: Array<u64, { abi::POOL_WORDS as usize }> = Array::new();

/// The node's own addresses.
#[btf_map]
pub(crate) static LOCALS: HashMap<abi::Addr, u32, 4096, ON_DEMAND> = HashMap::new();

/// In front of it: nearly every packet goes to one of these, and no hash table is needed to see that. Derived from
/// `LOCALS`, never adopted; zeros: ask there.
#[btf_map]
pub(crate) static NEAR: Array<Words, { abi::NEAR_PLACES as usize }> = Array::new();

#[btf_map]
pub(crate) static BANS: LpmTrie<abi::BanAddr, abi::Ban, 65536> = LpmTrie::new();

/// In front of it: who need not be asked for. Derived from `BANS`, never adopted; zeros: ask there.
#[btf_map]
pub(crate) static BANNED: Array<u64, { abi::BANNED_PLACES as usize }> = Array::new();

/// Bans of single addresses once more, so that whoever floods with one costs no walk through the trie.
/// Derived from `BANS`, never adopted; who is not in it is looked up there.
#[btf_map]
pub(crate) static SINGLES: Array<abi::Single, { abi::SINGLES_PLACES as usize }> = Array::new();

#[btf_map]
pub(crate) static PORTS: HashMap<abi::PortKey, abi::Lease, 65536, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static PORT_USAGE: HashMap<abi::PortKey, abi::PortUsage, 65536, ON_DEMAND> =
    HashMap::new();

/// What the shield must know of each port. Derived from `PORTS`, never adopted.
#[btf_map]
pub(crate) static GATES: Array<abi::Gate, { abi::PLACES as usize }> = Array::new();

/// GCRA states of the SYN budgets of ports in `GATES`. Not pinned: with a new daemon they are full.
#[btf_map]
pub(crate) static SYN_TATS: Array<u64, { abi::PLACES as usize }> = Array::new();

#[btf_map]
pub(crate) static TENANTS: HashMap<u32, abi::Tenant, 65536, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static USAGE: HashMap<u32, abi::Usage, 65536, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static FLOWS_CLOSED: HashMap<u32, abi::FlowsClosed, 65536, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static TRAFFIC: PerCpuHashMap<abi::TrafficKey, abi::Traffic, 65536, ON_DEMAND> =
    PerCpuHashMap::new();

#[btf_map]
pub(crate) static CONNS: HashMap<u64, abi::Conn, 131072, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static SOURCES: HashMap<abi::SourceKey, abi::Source, 131072, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(crate) static FLOWS: HashMap<abi::FlowKey, abi::Flow, 65536, ON_DEMAND> = HashMap::new();

/// In front of it: marks of flows that are known. Not pinned: whoever finds none asks `FLOWS`.
#[btf_map]
pub(crate) static KNOWN: Array<[u64; abi::KNOWN_WAYS], { abi::KNOWN_PLACES as usize }> =
    Array::new();

/// New UDP flows, recycled oldest first. Of each tenant some wait and no more (`WAITING`), so that who floods one's
/// ports leaves its neighbours' new flows the time that their answers take.
#[btf_map]
pub(crate) static CANDIDATES: LruHashMap<abi::FlowKey, abi::Flow, 16384> = LruHashMap::new();

/// In front of it: when something of a place's flows was last heard, ns. Not pinned.
#[btf_map]
pub(crate) static HEARD: Array<u64, { abi::HEARD_PLACES as usize }> = Array::new();

/// Which flows of a tenant were answered last, and behind those which of a source: see
/// [`totoro_ebpf::logic::answered`]. Not pinned.
#[btf_map]
pub(crate) static ANSWERED: Array<abi::FlowKey, { 2 * abi::ANSWERED_PLACES as usize }> =
    Array::new();

/// Which of them are a tenant's, the last ones: see [`totoro_ebpf::logic::waiting`]. Not pinned.
#[btf_map]
pub(crate) static WAITING: Array<abi::FlowKey, { abi::WAITING_PLACES as usize }> = Array::new();

/// Flows that a tenant had begin so far. Not pinned.
#[btf_map]
pub(crate) static TURNS: Array<u64, { abi::TURNS_PLACES as usize }> = Array::new();

#[btf_map]
pub(crate) static OUTBOUND: LruHashMap<abi::OutboundKey, u64, 16384> = LruHashMap::new();

#[btf_map]
pub(crate) static REASONS: PerCpuHashMap<abi::ReasonKey, abi::ReasonCount, 65536, ON_DEMAND> =
    PerCpuHashMap::new();

#[btf_map]
pub(crate) static CONTROL: HashMap<abi::ControlKey, abi::Control, 16384, ON_DEMAND> =
    HashMap::new();

/// GCRA states of new flows per source, a count-min sketch: a source is over when all its cells
/// are. Fixed in size, so that spoofed sources can't push a real one out.
#[btf_map]
pub(crate) static SKETCH: Array<u64, { (SKETCH_ROWS * SKETCH_CELLS) as usize }> = Array::new();

/// Whose a socket is.
#[btf_map]
pub(crate) static SOCKETS: SkStorage<abi::SockTag> = SkStorage::new();

/// Surplus connections: a stream verdict drops what they receive. As many as `CONNS`, so that it is
/// never the first to be full.
#[btf_map]
pub(crate) static SURPLUS: SockHash<u64, 131072> = SockHash::new();

/// When this CPU last read the clock. Not pinned.
#[btf_map]
pub(crate) static TICK: PerCpuArray<Tick, 1> = PerCpuArray::new();

/// A tick that was seen, and what the boot-time clock said then, ns.
#[repr(C)]
pub(crate) struct Tick {
    pub(crate) jiffies: u64,
    pub(crate) boot_ns: u64,
}

/// Hints for the daemon. Not pinned: a new daemon brings its own.
#[btf_map]
pub(crate) static EVENTS: RingBuf<abi::Event, { 512 * 1024 }> = RingBuf::new();

/// Events that found no room there, by the CPU that had them. Not pinned, as the ring.
#[btf_map]
pub(crate) static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
