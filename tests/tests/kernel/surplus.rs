//! Connections that were established one too many, because their handshakes ended together.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use aya::maps::{MapData, SockHash};
use totoro_ebpf::abi::{SURPLUS, TCP};
use totoro_node::kernel::{Kernel, boot_ns};

use crate::sockets::{self, PORT, echo_server, five, lend, listen, v6};
use crate::support::{Node, Peer, eventually};
use crate::wire::{NODE4, NODE6, USER_LL, USER4, USER6, burst, link_local, link_up};

fn open(kernel: &Kernel) {
    lend(kernel, TCP, &five());
}

/// Twelve at once where five may: five work, seven are destroyed without having passed a byte.
fn twelve(name: &str, user: IpAddr, to: impl FnOnce(&Peer) -> SocketAddr + Send) {
    let Some(node) = Node::new(name) else { return };
    node.run_after(link_up, |kernel, peer| {
        let received = echo_server(listen(PORT));
        open(&kernel);
        let streams = burst(&peer, user, to(&peer), 12);
        eventually("all are established", || {
            let usage = kernel.counts(1).expect("counts").usage;
            usage.admitted + usage.surplus == 12
        });
        let usage = kernel.counts(1).expect("counts").usage;
        assert_eq!((usage.conns, usage.surplus), (5, 7), "{usage:?}");
        let echoed = streams
            .iter()
            .filter(|stream| {
                let mut stream = *stream;
                stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0; 8]), Ok(1..))
            })
            .count();
        assert_eq!(echoed, 5, "exactly the limit passes");
        eventually("five are heard", || received.distinct() == 5);
        // Destroyed as their events told; no sweep was needed.
        eventually("the surplus is gone", || {
            kernel.connections().is_ok_and(|conns| conns.len() == 5)
        });
        drop(streams);
        eventually("the count is back to 0", || {
            kernel.counts(1).is_ok_and(|c| c.usage.conns == 0)
                && kernel.connections().is_ok_and(|conns| conns.is_empty())
        });
    });
}

#[test]
fn the_surplus_of_a_burst_is_destroyed_over_ipv4() {
    twelve("surplus4", USER4, |_| (NODE4, PORT).into());
}

#[test]
fn the_surplus_of_a_burst_is_destroyed_over_ipv6() {
    twelve("surplus6", USER6, |_| (NODE6, PORT).into());
}

/// The kernel finds a link-local connection only with its interface.
#[test]
fn the_surplus_of_a_burst_is_destroyed_over_link_local() {
    twelve("surplusll", USER_LL, |peer| link_local(peer, PORT));
}

#[test]
fn a_burst_over_ipv6_with_data_in_the_last_ack_passes_no_byte_too_many() {
    let Some(node) = Node::new("burst6") else {
        return;
    };
    node.run(|kernel| {
        let received = echo_server(listen(PORT));
        open(&kernel);
        let results = sockets::burst(v6(PORT), 60, true);
        let passed = results.iter().filter(|outcome| outcome.echoed).count();
        assert!((1..=5).contains(&passed), "{passed} got a byte back");
        assert!(received.distinct() <= 5);
    });
}

/// Without the daemon, and without the stream verdict, which may not have had the memory: a surplus
/// connection stays mute in both directions.
#[test]
fn a_surplus_connection_is_mute_even_where_the_sockhash_failed() {
    let Some(node) = Node::new("mute") else {
        return;
    };
    let options = node.options();
    node.run_after(link_up, move |kernel, peer| {
        // Loaded again without reading events, nobody destroys.
        drop(kernel);
        let kernel = Kernel::load(&options).expect("adopts");
        let received = echo_server(listen(PORT));
        open(&kernel);
        let streams = burst(&peer, USER4, (NODE4, PORT).into(), 7);
        eventually("two too many", || {
            kernel.counts(1).is_ok_and(|c| c.usage.surplus == 2)
        });
        let map = MapData::from_pin(options.pin_root.join("v1/SURPLUS")).expect("pin");
        let map = aya::maps::Map::from_map_data(map).expect("map");
        let mut sockhash: SockHash<_, u64> = map.try_into().expect("sockhash");
        for conn in kernel.connections().expect("connections") {
            if conn.conn.flags & SURPLUS != 0 {
                sockhash.remove(&conn.cookie).expect("was in it");
            }
        }
        let echoed = streams
            .iter()
            .filter(|stream| {
                let mut stream = *stream;
                stream.write_all(b"late").is_ok() && matches!(stream.read(&mut [0; 8]), Ok(1..))
            })
            .count();
        assert_eq!(echoed, 5);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(received.distinct(), 5, "nothing of the two arrives");
        let start = boot_ns();
        eventually("the sweep ends them", || {
            kernel.sweep().expect("sweep");
            kernel.connections().is_ok_and(|conns| conns.len() == 5)
        });
        assert!(boot_ns() - start < 4_000_000_000);
    });
}
