//! UDP flows that are idle make room, whether a daemon is there or not, and are counted once.

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, Config, Flow, FlowKey, NODE, Tenant, UDP, Usage};
use totoro_node::kernel::{Inspector, Kernel};

use crate::figures;
use crate::sockets::{PORT, five, lend_public, v4};
use crate::support::{self, Node};

/// A tenant with so many flows, and a parent with as many.
fn lend(kernel: &Kernel, max_flows: u32) {
    let all = Tenant {
        max_flows,
        max_conns_per_source: 1_000,
        ..five()
    };
    lend_public(kernel, UDP, &all, all);
}

/// A server that waits no longer than a test may.
fn serve() -> UdpSocket {
    let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    server
}

/// A new user who wrote, and was answered.
fn served(server: &UdpSocket) -> Option<UdpSocket> {
    let user = UdpSocket::bind(v4(0)).expect("bind");
    user.send_to(b"hello", v4(PORT)).expect("send");
    let (_, from) = server.recv_from(&mut [0; 16]).ok()?;
    server.send_to(b"answer", from).ok()?;
    Some(user)
}

/// How many flows the tenant and its parent have, by their counts and in truth.
fn live(kernel: &Kernel) -> [u64; 3] {
    let of = |tenant| kernel.counts(tenant).expect("counts").flows;
    [of(1), of(9), kernel.flows().expect("flows").len() as u64]
}

#[test]
fn idle_flows_make_room_without_a_daemon_and_live_ones_do_not() {
    let Some(node) = Node::new("idle") else {
        return;
    };
    let node = node.with(|options| options.flow_idle_s = 4);
    let options = node.options();
    node.run(move |kernel| {
        lend(&kernel, 4);
        drop(kernel);
        let server = serve();
        let users = [(); 4].map(|()| served(&server).expect("room for four"));
        // Ever again, for longer than the kernel waits for the daemon: they live, and keep their places.
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(500));
            for user in &users {
                user.send_to(b"again", v4(PORT)).expect("send");
                server.recv_from(&mut [0; 16]).expect("passes");
            }
            assert!(served(&server).is_none(), "a fifth");
        }
        let seen = Inspector::open(&options.pin_root).expect("pins");
        let refused = |reason| {
            let rows = seen.refused().expect("counters");
            rows.iter()
                .any(|row| (row.tenant, row.reason) == (1, reason))
        };
        assert!(refused(Reason::MaxFlows));
        // Silent for as long as a flow may be, and as the kernel waits for the daemon.
        std::thread::sleep(Duration::from_millis(4_000 + 2_100));
        let fifth = served(&server).expect("a fifth");
        let kernel = Kernel::load(&options).expect("adopts");
        assert_eq!(live(&kernel), [1, 1, 1]);
        assert_eq!(kernel.sweep().expect("sweep").drifted, 0, "all was right");
        let more = [(); 3].map(|()| served(&server).expect("room for four"));
        // However long that took, all four live now: who was idle meanwhile is answered again, and
        // confirmed.
        for user in more.iter().chain([&fifth]).cycle().take(8) {
            user.send_to(b"again", v4(PORT)).expect("send");
            let (_, from) = server.recv_from(&mut [0; 16]).expect("passes");
            server.send_to(b"answer", from).expect("answer");
        }
        assert!(served(&server).is_none(), "and for no more");
    });
}

#[test]
fn who_only_listens_is_served_for_five_minutes_and_who_may_be_forged_for_ten_seconds() {
    let Some(node) = Node::new("listens") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, 4);
        let server = serve();
        let mut flows: HashMap<MapData, FlowKey, Flow> =
            support::pinned(&root, "FLOWS").try_into().expect("hash");
        let mut keeps = |user: &UdpSocket, heard: u32| {
            let (key, mut flow) = kernel.flows().expect("flows")[0];
            flow.heard = flow.heard.wrapping_sub(heard);
            flow.last_ns -= 1_000_000_000;
            flows.insert(key, flow, 0).expect("write");
            let at = user.local_addr().expect("address");
            server.send_to(b"more", at).expect("sent");
            flows.get(&key, 0).expect("it is there").last_ns > flow.last_ns
        };
        let user = served(&server).expect("room");
        assert!(
            !keeps(&user, 0),
            "not confirmed: answers alone don't keep it"
        );
        user.send_to(b"again", v4(PORT)).expect("send");
        server.recv_from(&mut [0; 16]).expect("passes");
        assert!(keeps(&user, 0), "confirmed, and heard a moment ago");
        // In units of 2^30 ns.
        assert!(keeps(&user, 270), "silent for not quite five minutes");
        assert!(!keeps(&user, 20), "for longer");
        user.send_to(b"again", v4(PORT)).expect("send");
        server.recv_from(&mut [0; 16]).expect("passes");
        assert!(keeps(&user, 0), "heard again");
    });
}

#[test]
fn a_flow_that_two_end_at_once_is_counted_once() {
    const ROUNDS: usize = 40;
    const FLOWS: usize = 25;
    let Some(node) = Node::new("idle-race") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, 1_000);
        let mut config: Array<MapData, Config> =
            support::pinned(&root, "CONFIG").try_into().expect("array");
        let mut usage: HashMap<MapData, u32, Usage> =
            support::pinned(&root, "USAGE").try_into().expect("hash");
        let whole = config.get(&0, 0).expect("config");
        let mut by_daemon = 0;
        for round in 0..ROUNDS {
            config.set(0, whole, 0).expect("patience");
            let (server, _users) = figures::flows(PORT, FLOWS);
            // All are idle at once, and nobody has looked for long.
            let idle = Config {
                flow_idle_ns: 1,
                ..whole
            };
            config.set(0, idle, 0).expect("no patience");
            usage.insert(NODE, Usage::default(), 0).expect("reset");
            let user = UdpSocket::bind(v4(0)).expect("bind");
            std::thread::scope(|scope| {
                let daemon = scope.spawn(|| kernel.sweep().expect("sweep").idle_flows);
                // Sooner and later, so that now the one is first, now the other.
                std::thread::sleep(Duration::from_micros(100) * round as u32);
                user.send_to(b"hello", v4(PORT)).expect("send");
                by_daemon += daemon.join().expect("swept");
            });
            drop(server);
            kernel.sweep().expect("sweep");
            assert_eq!(live(&kernel), [0; 3], "round {round}");
        }
        let sources: HashMap<MapData, abi::SourceKey, abi::Source> =
            support::pinned(&root, "SOURCES").try_into().expect("hash");
        let left = sources.iter().map(|source| source.expect("entry").1.conns);
        assert_eq!(left.sum::<u64>(), 0, "nor on a source");
        let all = ROUNDS * FLOWS;
        println!("{all} flows, {by_daemon} ended by the daemon");
        assert!(0 < by_daemon && by_daemon < all, "both ended some");
    });
}
