//! The shield's table: description, packet, verdict, what was counted. Each row runs through the
//! real programs by `BPF_PROG_TEST_RUN`, in XDP and in TC ingress: one verdict code, two hooks.

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, PerCpuHashMap};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, TCP, UDP};
use totoro_ebpf::logic::{bucket, pool};
use totoro_node::kernel::to_addr;

use crate::frames::packet;
use crate::support;
use crate::table::*;

/// The object with maps as the rows expect them, pinned nowhere, attached nowhere.
fn load(object: &std::path::Path) -> Ebpf {
    let mut ebpf = EbpfLoader::new().load_file(object).expect("load");
    let xdp: &mut Xdp = ebpf
        .program_mut("totoro_xdp")
        .expect("program")
        .try_into()
        .expect("xdp");
    xdp.load().expect("verify");
    for name in ["totoro_tc_in", "totoro_tc_out"] {
        let tc: &mut SchedClassifier = ebpf
            .program_mut(name)
            .expect("program")
            .try_into()
            .expect("tc");
        tc.load().expect("verify");
    }
    let config = abi::Config {
        abi: abi::VERSION,
        bind_port: FRPS.into(),
        ..Default::default()
    };
    let mut map: Array<_, abi::Config> = ebpf
        .map_mut("CONFIG")
        .expect("map")
        .try_into()
        .expect("array");
    map.set(0, config, 0).expect("set");
    let mut map: Array<_, u64> = ebpf
        .map_mut("POOL")
        .expect("map")
        .try_into()
        .expect("array");
    for (proto, ports) in [
        (TCP, vec![LEASED, FREE, SMALL, FRPS]),
        (UDP, vec![LEASED, FREE, SMALL]),
    ] {
        for port in ports {
            let (word, mask) = pool::bit(proto, port);
            let before = map.get(&word, 0).expect("get");
            map.set(word, before | mask, 0).expect("set");
        }
    }
    let mut map: HashMap<_, abi::Addr, u32> = ebpf
        .map_mut("LOCALS")
        .expect("map")
        .try_into()
        .expect("hash");
    for addr in [NODE4, NODE6] {
        map.insert(to_addr(addr), 1, 0).expect("insert");
    }
    let mut map: LpmTrie<_, abi::Addr, abi::Ban> =
        ebpf.map_mut("BANS").expect("map").try_into().expect("trie");
    map.insert(
        &Key::new(96 + 24, to_addr(BANNED4)),
        abi::Ban { until_ns: 0 },
        0,
    )
    .expect("insert");
    map.insert(&Key::new(48, to_addr(BANNED6)), abi::Ban { until_ns: 0 }, 0)
        .expect("insert");
    // A ban that is over.
    map.insert(&Key::new(128, to_addr(USER6)), abi::Ban { until_ns: 1 }, 0)
        .expect("insert");
    let mut map: HashMap<_, abi::PortKey, abi::Lease> = ebpf
        .map_mut("PORTS")
        .expect("map")
        .try_into()
        .expect("hash");
    for proto in [TCP, UDP] {
        map.insert(support::key(proto, LEASED), support::lease(TENANT, 1), 0)
            .expect("insert");
        // One SYN per hour.
        let (syn_interval_ns, syn_burst_ns) = (3_600_000_000_000, 3_600_000_000_000);
        let small = abi::Lease {
            syn_interval_ns,
            syn_burst_ns,
            ..support::lease(TENANT, 2)
        };
        map.insert(support::key(proto, SMALL), small, 0)
            .expect("insert");
    }
    let mut map: HashMap<_, abi::PortKey, abi::PortUsage> = ebpf
        .map_mut("PORT_USAGE")
        .expect("map")
        .try_into()
        .expect("hash");
    for proto in [TCP, UDP] {
        map.insert(support::key(proto, SMALL), abi::PortUsage::default(), 0)
            .expect("insert");
    }
    let known = abi::FlowKey {
        remote: to_addr(BANNED4),
        remote_port: 40_001,
        port: LEASED,
        pad: 0,
    };
    let mut map: HashMap<_, abi::FlowKey, abi::Flow> = ebpf
        .map_mut("FLOWS")
        .expect("map")
        .try_into()
        .expect("hash");
    map.insert(known, abi::Flow::default(), 0).expect("insert");
    let mut map: HashMap<_, abi::FlowKey, abi::Flow> = ebpf
        .map_mut("CANDIDATES")
        .expect("map")
        .try_into()
        .expect("hash");
    let begun = abi::FlowKey {
        remote: to_addr(USER4),
        remote_port: 40_002,
        port: SMALL,
        pad: 0,
    };
    map.insert(begun, abi::Flow::default(), 0).expect("insert");
    ebpf
}

/// Refusals so far: (tenant, reason) → count.
fn counters(ebpf: &Ebpf) -> std::collections::BTreeMap<(u32, u32), u64> {
    let map: PerCpuHashMap<_, abi::ReasonKey, abi::ReasonCount> =
        ebpf.map("REASONS").expect("map").try_into().expect("hash");
    map.iter()
        .map(|entry| entry.expect("entry"))
        .map(|(key, values)| {
            (
                (key.tenant, key.reason),
                values.iter().map(|v| v.count).sum(),
            )
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hook {
    Xdp,
    Tc,
}

/// Whether the hook lets a packet pass.
fn passes(ebpf: &Ebpf, hook: Hook, bytes: &[u8]) -> bool {
    let options = TestRunOptions {
        data_in: Some(bytes),
        ..TestRunOptions::new()
    };
    match hook {
        Hook::Xdp => {
            let program: &Xdp = ebpf
                .program("totoro_xdp")
                .expect("program")
                .try_into()
                .expect("xdp");
            match program.test_run(options).expect("run").return_value {
                1 => false,
                2 => true,
                other => panic!("XDP verdict {other}"),
            }
        }
        Hook::Tc => {
            let program: &SchedClassifier = ebpf
                .program("totoro_tc_in")
                .expect("program")
                .try_into()
                .expect("tc");
            match program.test_run(options).expect("run").return_value {
                2 => false,
                u32::MAX => true,
                other => panic!("TC verdict {other}"),
            }
        }
    }
}

#[test]
fn the_table_holds_in_xdp_and_tc() {
    let Some(object) = support::object("the_table_holds_in_xdp_and_tc") else {
        return;
    };
    for hook in [Hook::Xdp, Hook::Tc] {
        let ebpf = load(&object);
        for (what, packet, refused) in table() {
            let before = counters(&ebpf);
            let passed = passes(&ebpf, hook, &packet.bytes());
            assert_eq!(passed, refused.is_none(), "{hook:?}: {what}");
            let mut expected = before;
            if let Some((tenant, reason)) = refused {
                *expected.entry((tenant, reason.number())).or_default() += 1;
            }
            assert_eq!(counters(&ebpf), expected, "{hook:?}: counters after {what}");
        }
    }
}

#[test]
fn every_truncation_of_every_row_is_survived_and_never_refused_for_another_reason() {
    let Some(object) = support::object(
        "every_truncation_of_every_row_is_survived_and_never_refused_for_another_reason",
    ) else {
        return;
    };
    let ebpf = load(&object);
    for (what, packet, refused) in table() {
        let bytes = packet.bytes();
        for len in 14..bytes.len() {
            if !passes(&ebpf, Hook::Xdp, &bytes[..len]) {
                assert!(
                    refused.is_some() || what.contains("budget"),
                    "{what}, {len} bytes"
                );
            }
        }
    }
}

#[test]
fn an_answer_to_an_outbound_flow_passes() {
    let Some(object) = support::object("an_answer_to_an_outbound_flow_passes") else {
        return;
    };
    let mut ebpf = load(&object);
    // A resolver on the node (or who it forwards for) asks from a pool-numbered port.
    let query = packet(NODE4, USER4, UDP, 53).with(|p| p.ports.0 = FREE);
    let answer = packet(USER4, NODE4, UDP, FREE).with(|p| p.ports.0 = 53);
    let stranger = packet(USER4, NODE4, UDP, FREE).with(|p| p.ports.0 = 54);
    assert!(
        !passes(&ebpf, Hook::Xdp, &answer.bytes()),
        "nobody asked yet"
    );
    let out: &SchedClassifier = ebpf
        .program("totoro_tc_out")
        .expect("program")
        .try_into()
        .expect("tc");
    let bytes = query.bytes();
    let options = TestRunOptions {
        data_in: Some(&bytes),
        ..TestRunOptions::new()
    };
    assert_eq!(
        out.test_run(options).expect("run").return_value,
        u32::MAX,
        "never drops"
    );
    for hook in [Hook::Xdp, Hook::Tc] {
        assert!(passes(&ebpf, hook, &answer.bytes()), "{hook:?}: the answer");
        assert!(
            !passes(&ebpf, hook, &stranger.bytes()),
            "{hook:?}: anything else"
        );
    }
    // Asked too long ago.
    let mut map: HashMap<_, abi::OutboundKey, u64> = ebpf
        .map_mut("OUTBOUND")
        .expect("map")
        .try_into()
        .expect("hash");
    let key = map.keys().next().expect("one").expect("key");
    let now = totoro_node::kernel::boot_ns();
    let ago = now.checked_sub(181_000_000_000).unwrap_or(1);
    map.insert(key, ago, 0).expect("insert");
    let stale = passes(&ebpf, Hook::Xdp, &answer.bytes());
    assert_eq!(stale, now - ago < 180_000_000_000);
}

#[test]
fn a_source_that_opens_too_fast_is_stopped_and_others_are_not() {
    let Some(object) =
        support::object("a_source_that_opens_too_fast_is_stopped_and_others_are_not")
    else {
        return;
    };
    let mut ebpf = load(&object);
    let (source_interval_ns, source_burst_ns) = bucket::rate(1, 10);
    let config = abi::Config {
        abi: abi::VERSION,
        bind_port: FRPS.into(),
        source_interval_ns,
        source_burst_ns,
        ..Default::default()
    };
    let mut map: Array<_, abi::Config> = ebpf
        .map_mut("CONFIG")
        .expect("map")
        .try_into()
        .expect("array");
    map.set(0, config, 0).expect("set");
    let syn = packet(USER4, NODE4, TCP, LEASED).bytes();
    let passed = (0..30).filter(|_| passes(&ebpf, Hook::Xdp, &syn)).count();
    assert!(
        (10..=12).contains(&passed),
        "{passed} of 30 with a burst of 10"
    );
    let other = packet(USER6, NODE6, TCP, LEASED).bytes();
    assert!(passes(&ebpf, Hook::Xdp, &other), "another source");
    let refused = counters(&ebpf)[&(TENANT, Reason::RateLimited.number())];
    assert_eq!(refused, 30 - passed as u64);
}
