//! Who is measured by XDP: Totoro with so many leases and bans, and nothing.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use aya::maps::MapData;
use aya::{Ebpf, EbpfLoader};
use totoro_baseline::SOURCE;
use totoro_ebpf::abi::{self, TCP, UDP};
use totoro_ebpf::logic::{banned, known, near, pool};
use totoro_ebpf::packet::{Words, words};
use totoro_node::kernel::{boot_ns, tick_ns, to_addr};

use crate::classes::Size;
use crate::packets::{FREE, FROM, FRPS, LEASED, V6, nodes, users};
use crate::programs::{Program, SOURCES, array, enter, hash};

/// What takes part of each budget, and is never over: a nanosecond of a second. The programs do all that
/// they do under a real one, and test runs are not refused by the thousandth.
const INTERVAL_NS: u64 = 1;
const BURST_NS: u64 = 1_000_000_000;
/// A budget that is over after the first: one new flow an hour.
const SPENT_NS: u64 = 3_600_000_000_000;

/// Of the sketch, and of flows' marks.
const SKETCH_SEED: u64 = 0x7070_1070_7070_1070;

/// A tick of the kernel's, ns.
static TICK_NS: LazyLock<u64> = LazyLock::new(tick_ns);

/// The nth lease: TCP ports from [`LEASED`] on, then UDP ports.
fn lease(nth: u32) -> (u8, u16) {
    let tcp = u32::from(u16::MAX - LEASED) + 1;
    let (proto, nth) = if nth < tcp {
        (TCP, nth)
    } else {
        (UDP, nth - tcp)
    };
    (proto, LEASED + nth as u16)
}

/// What a node has.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    /// Leases, each another tenant's.
    pub(crate) size: Size,
    /// Bans, of single addresses.
    pub(crate) bans: u32,
    /// Whether one of them is [`WIDE`] in place of an address.
    pub(crate) has_wide_ban: bool,
    /// Whether every source's budget of new flows is spent.
    pub(crate) is_spent: bool,
    /// Sources that have a known flow to each of [`UDP_PORTS`].
    pub(crate) flows: u32,
    /// New UDP flows that wait, of nobody who sends.
    pub(crate) waiting: u32,
    /// Whether the bans are of the driver's first senders.
    pub(crate) bans_senders: bool,
}

/// Leased UDP ports, from [`LEASED`] on, of a node that lends all ports.
pub(crate) const UDP_PORTS: u16 = 1_024;

/// A ban of a whole network, of nobody who sends; with its bits as a key has them.
const WIDE: ([u8; 4], u32) = ([172, 16, 0, 0], 96 + 16);

/// Totoro's XDP program on such a node.
pub(crate) fn totoro(object: &Path, baseline: &Path, node: Node) -> Program {
    let ebpf = filled(&mut EbpfLoader::new(), object, node);
    Program::new(ebpf, "totoro_xdp", baseline)
}

/// The same, where each packet is the one that reads the clock. A test run is done within a few ticks: here the
/// program finds no tick that it saw, as its map is another, an empty hash, and so reads the clock each time. To
/// look into that costs more than to compare ticks, about 10 ns: the figure is too high rather than too low.
pub(crate) fn reads_clock(object: &Path, baseline: &Path, pins: &Path, node: Node) -> Program {
    let ticks = Ticks::create(1, 0).expect("a map");
    std::fs::create_dir(pins).expect("a directory on bpffs");
    let pin = pins.join("TICK");
    ticks.pin(&pin).expect("pin");
    let mut loader = EbpfLoader::new();
    let ebpf = filled(loader.map_pin_path("TICK", pin), object, node);
    std::fs::remove_dir_all(pins).expect("unpin");
    Program::new(ebpf, "totoro_xdp", baseline)
}

/// As large as the program's own: a place, and a tick with its time.
type Ticks = aya::maps::HashMap<MapData, u32, [u64; 2]>;

/// Totoro's object with maps as a node has them that lends all ports from [`FREE`] on.
pub(crate) fn filled(loader: &mut EbpfLoader<'_>, object: &Path, node: Node) -> Ebpf {
    // As on a node that has run for long. An earlier object knows neither.
    loader.override_global("TICK_NS", &*TICK_NS, false);
    loader.override_global("HEARD_FROM_NS", &0_u64, false);
    let mut ebpf = loader.load_file(object).expect("Totoro's object");
    let (source_interval_ns, source_burst_ns) = if node.is_spent {
        (SPENT_NS, 0)
    } else {
        (INTERVAL_NS, BURST_NS)
    };
    let config = abi::Config {
        abi: abi::VERSION,
        bind_port: FRPS.into(),
        source_interval_ns,
        source_burst_ns,
        sketch_seed: SKETCH_SEED,
        ..abi::Config::default()
    };
    array(&mut ebpf, "CONFIG").set(0, config, 0).expect("set");
    let mut pool = vec![0_u64; abi::POOL_WORDS as usize];
    let lent = [TCP, UDP]
        .into_iter()
        .flat_map(|proto| (FREE..=u16::MAX).map(move |port| (proto, port)));
    for (proto, port) in lent.chain([(TCP, FRPS)]) {
        let (word, mask) = pool::bit(proto, port);
        pool[word as usize] |= mask;
    }
    let mut map = array(&mut ebpf, "POOL");
    for (nth, word) in (0..).zip(pool) {
        map.set(nth, word, 0).expect("set");
    }
    for node in nodes() {
        hash::<abi::Addr, u32>(&mut ebpf, "LOCALS")
            .insert(to_addr(node), 1, 0)
            .expect("insert");
    }
    for (family, node) in (0..).zip(nodes()) {
        let addr = words(&to_addr(node));
        let mut near = array::<Words>(&mut ebpf, "NEAR");
        // An earlier object has one of each family.
        let place = if near.len() > 2 {
            near::place(addr)
        } else {
            family
        };
        near.set(place, addr, 0).expect("set");
    }
    lend(&mut ebpf, node.size);
    ban(&mut ebpf, node);
    flows(&mut ebpf, node.flows);
    wait(&mut ebpf, node.waiting);
    ebpf
}

/// Makes leases, and all that the daemon makes with each.
fn lend(ebpf: &mut Ebpf, size: Size) {
    for nth in 0..size.leases {
        let (proto, port) = lease(nth);
        let key = abi::PortKey {
            port,
            proto,
            pad: 0,
        };
        let tenant = nth % size.tenants + 1;
        let entry = abi::Lease {
            tenant,
            lease: nth.into(),
            syn_interval_ns: INTERVAL_NS,
            syn_burst_ns: BURST_NS,
            ..abi::Lease::default()
        };
        hash(ebpf, "PORTS").insert(key, entry, 0).expect("insert");
        let gate = abi::Gate::of(&entry);
        array(ebpf, "GATES")
            .set(pool::place(proto, port), gate, 0)
            .expect("set");
        let usage = abi::PortUsage::default();
        hash(ebpf, "PORT_USAGE")
            .insert(key, usage, 0)
            .expect("insert");
        let policy = abi::Tenant {
            state: abi::ACTIVE,
            ..abi::Tenant::default()
        };
        hash(ebpf, "TENANTS")
            .insert(tenant, policy, 0)
            .expect("insert");
        let usage = abi::Usage::default();
        hash(ebpf, "USAGE")
            .insert(tenant, usage, 0)
            .expect("insert");
    }
}

/// Neighbours of the sources that packets come from, who are banned: single addresses, spread over all of
/// them, so that a look-up in a trie goes as deep as it can.
pub(crate) fn banned(count: u32) -> Vec<[u8; 4]> {
    let mut banned = BTreeSet::new();
    let mut at = 1_u64;
    while banned.len() < count as usize {
        // Knuth's MMIX; the high bits are the good ones.
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let nth = (((at >> 32) * u64::from(SOURCES)) >> 32) as u32;
        banned.insert((SOURCE + 2 * nth + 1).to_be_bytes());
    }
    banned.into_iter().collect()
}

/// Of the hashes of bans.
const SEED: u64 = 0x1234_5678_9abc_def0;

/// Bans them.
fn ban(ebpf: &mut Ebpf, node: Node) {
    let wide = node.has_wide_ban.then_some(WIDE);
    let count = node.bans - u32::from(wide.is_some());
    let banned = match node.bans_senders {
        true => (0..count).map(driven).collect(),
        false => banned(count),
    };
    let banned: Vec<abi::Addr> = banned.into_iter().map(abi::v4_mapped).collect();
    let wide = wide.map(|(addr, bits)| (bits, abi::v4_mapped(addr)));
    enter(ebpf, "BANS", 128, &banned, abi::Ban { until_ns: 0 });
    if let Some((bits, addr)) = wide {
        enter(ebpf, "BANS", bits, &[addr], abi::Ban { until_ns: 0 });
    }
    // An earlier object has none.
    if ebpf.map("SINGLES").is_some() {
        let mut singles = array(ebpf, "SINGLES");
        for addr in &banned {
            let (place, single) = banned::single(SEED, addr, 0);
            singles.set(place, single, 0).expect("set");
        }
    }
    if ebpf.map("BANNED").is_none() {
        return;
    }
    let mut marks = HashMap::<u32, u64>::new();
    let keys = banned.into_iter().map(|addr| (128, addr));
    let head = banned::fill(SEED, keys.chain(wide), |place, bit| {
        *marks.entry(place).or_default() |= bit;
    });
    let mut map = array(ebpf, "BANNED");
    for (place, word) in marks.into_iter().chain([(0, head)]) {
        map.set(place, word, 0).expect("set");
    }
}

/// A flow that is known, the IPv6 user's own: `datagram` in the other family is new. And those that the driver
/// makes, of so many sources.
fn flows(ebpf: &mut Ebpf, sources: u32) {
    let of = |remote, port| abi::FlowKey {
        remote,
        remote_port: FROM,
        port,
        pad: 0,
    };
    let driven = (0..sources).flat_map(|nth| {
        let remote = abi::v4_mapped(driven(nth));
        (0..UDP_PORTS).map(move |port| of(remote, LEASED + port))
    });
    let flow = abi::Flow {
        state: abi::FLOW_CONFIRMED,
        opened_ns: boot_ns(),
        ..abi::Flow::default()
    };
    for key in driven.chain([of(to_addr(users()[V6]), LEASED)]) {
        hash(ebpf, "FLOWS").insert(key, flow, 0).expect("insert");
    }
}

/// The nth source that the driver makes.
fn driven(nth: u32) -> [u8; 4] {
    (SOURCE + 2 * nth).to_be_bytes()
}

/// A moment that does not come while the bench runs.
const LATER: u64 = u64::MAX / 2;

/// New flows that wait for an answer, of none of the driver's sources; and for their places it is known that something
/// was heard there, as for 22 of 100 then.
fn wait(ebpf: &mut Ebpf, count: u32) {
    if count == 0 {
        return;
    }
    for nth in 0..count {
        let key = abi::FlowKey {
            remote: abi::v4_mapped((SOURCE + 2 * nth + 1).to_be_bytes()),
            remote_port: FROM,
            port: LEASED,
            pad: 0,
        };
        let flow = abi::Flow {
            opened_ns: boot_ns(),
            ..abi::Flow::default()
        };
        hash(ebpf, "CANDIDATES")
            .insert(key, flow, 0)
            .expect("insert");
        let mark = known::mark(words(&key.remote), key.remote_port, key.port, SKETCH_SEED);
        let place = known::heard(mark);
        array::<u64>(ebpf, "HEARD")
            .set(place, LATER, 0)
            .expect("set");
    }
}

/// A program that does nothing.
pub(crate) fn nothing(baseline: &Path) -> Program {
    let ebpf = EbpfLoader::new()
        .load_file(baseline)
        .expect("the baselines");
    Program::new(ebpf, "nothing_xdp", baseline)
}
