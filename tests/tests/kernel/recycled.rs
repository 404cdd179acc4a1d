//! Users who were answered once and may not exist: they count, and keep nobody out.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use totoro_api::Reason;
use totoro_ebpf::abi::{FLOW_CONFIRMED, Tenant, UDP};
use totoro_node::kernel::Kernel;

use crate::figures;
use crate::flows::{Sources, answered};
use crate::sockets::{PORT, five, lend, lend_public, v4, v6};
use crate::support::{self, Node, ip, refused};

/// What a forged datagram carries, bytes; its headers have 28.
const WORD: usize = 64;
/// What goes out to one that took another's place: three times what came in.
const LITTLE: usize = 3 * (WORD + 28);

/// Datagrams with sources that nobody has, one each. What is delivered at all is there when `send_to` returns.
struct Forger {
    nth: u16,
}

impl Forger {
    /// Whose answers go nowhere.
    fn new() -> Forger {
        ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
        Forger { nth: 0 }
    }

    /// Sends one, which the server answers as much as it may; how many bytes that were, and whether it came
    /// at all.
    fn word(&mut self, server: &UdpSocket) -> Option<usize> {
        let [high, low] = self.nth.to_be_bytes();
        self.nth += 1;
        let own = SocketAddr::from(([198, 18, high, low], 53));
        let forged = UdpSocket::bind(own).expect("bind");
        forged.send_to(&[1; WORD], v4(PORT)).expect("send");
        let (_, from) = server.recv_from(&mut [0; 2 * WORD]).ok()?;
        // Past what it may have the kernel says EPERM: counted is what arrives.
        for _ in 0..40 {
            let _ = server.send_to(&[7; LITTLE / 2], from);
        }
        forged.set_nonblocking(true).expect("nonblocking");
        let arrived = std::iter::from_fn(|| forged.recv(&mut [0; 512]).ok());
        Some(arrived.map(|bytes| bytes + 28).sum())
    }
}

/// A service that says much to everybody, as resolvers do, and never waits for what does not come.
pub(crate) fn talkative(port: u16) -> UdpSocket {
    let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
    let short = Duration::from_millis(100);
    server.set_read_timeout(Some(short)).expect("timeout");
    server
}

/// What all sources are charged with.
fn of_sources(root: &Path) -> u64 {
    let sources: Sources = support::pinned(root, "SOURCES").try_into().expect("hash");
    let counted = sources.iter().flatten().map(|(_, source)| source.conns);
    counted.sum()
}

/// Who is confirmed.
fn confirmed(kernel: &Kernel) -> usize {
    let flows = kernel.flows().expect("flows");
    let is_confirmed = flows
        .iter()
        .filter(|(_, flow)| flow.state == FLOW_CONFIRMED);
    is_confirmed.count()
}

#[test]
fn forged_sources_neither_lock_the_tenant_out_nor_make_the_node_a_reflector() {
    let Some(node) = Node::new("forged-flows") else {
        return;
    };
    const MOST: usize = 64;
    const FORGED: usize = 2_000;
    node.run(|kernel| {
        let limits = Tenant {
            max_flows: MOST as u32,
            max_conns_per_source: 100,
            ..five()
        };
        lend(&kernel, UDP, &limits);
        let mut forger = Forger::new();
        let server = talkative(PORT);
        let (mut out, mut users) = (0, Vec::new());
        for nth in 1..=FORGED {
            out += forger.word(&server).expect("there is always a place");
            assert!(kernel.counts(1).expect("counts").flows <= MOST as u64);
            // Somebody real comes in the midst of it, is answered, and goes on: it has its place for good.
            if nth % 100 == 0 {
                let user = answered(&server, v4(0), v4(PORT)).expect("a real user is served");
                user.send(b"again").expect("send");
                let (_, from) = server.recv_from(&mut [0; 16]).expect("it goes on");
                users.push((user, from));
            }
        }
        // As much as ever to the first, and little to whoever took a place.
        let most = MOST * (LITTLE + 16 * 1024) + FORGED * LITTLE;
        assert!((1..=most).contains(&out), "{out} bytes went out");
        println!(
            "{FORGED} forged sources: {} users, {out} bytes out",
            users.len()
        );
        assert_eq!(confirmed(&kernel), FORGED / 100);
        // They have all that they want.
        for (user, from) in &users {
            user.send(b"and again").expect("send");
            server.recv_from(&mut [0; 16]).expect("delivered");
            for _ in 0..20 {
                server.send_to(&[7; 1_200], from).expect("sent");
                assert_eq!(user.recv(&mut [0; 2_000]).expect("arrives"), 1_200);
            }
        }
        assert_eq!(refused(&kernel, Reason::MaxFlows), 0);
    });
}

#[test]
fn whose_place_is_taken_is_entered_nowhere() {
    let Some(node) = Node::new("over-flows") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        let mut forger = Forger::new();
        let server = talkative(PORT);
        for _ in 0..200 {
            forger.word(&server).expect("a place");
        }
        assert_eq!(kernel.counts(1).expect("counts").flows, 3);
        assert_eq!(kernel.flows().expect("flows").len(), 3);
        let sources: Sources = support::pinned(&root, "SOURCES").try_into().expect("hash");
        assert_eq!(sources.keys().count(), 3, "as many as flows");
        assert_eq!(kernel.sweep().expect("sweep").drifted, 0, "all is counted");
    });
}

#[test]
fn whose_source_has_its_share_takes_the_place_of_its_own_alone() {
    let Some(node) = Node::new("own-share") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        let limits = Tenant {
            max_conns_per_source: 1,
            ..five()
        };
        lend(&kernel, UDP, &limits);
        let mut forger = Forger::new();
        let server = talkative(PORT);
        for _ in 0..limits.max_flows {
            forger.word(&server).expect("room");
        }
        // Three of one source, all heard before any is answered: each takes a place, the later ones the one before's.
        let users = [(); 3].map(|()| {
            let user = UdpSocket::bind(v4(0)).expect("bind");
            user.set_nonblocking(true).expect("nonblocking");
            user.send_to(b"hello", v4(PORT)).expect("send");
            (user, server.recv_from(&mut [0; 16]).expect("heard").1)
        });
        for (user, from) in &users {
            server.send_to(b"answer", from).expect("send");
            assert_eq!(user.recv(&mut [0; 16]).expect("served"), 6);
        }
        // Who wrote again keeps its place, from whoever of its source comes.
        let (last, _) = &users[2];
        last.send_to(b"again", v4(PORT)).expect("send");
        server.recv_from(&mut [0; 16]).expect("it goes on");
        assert!(answered(&server, v4(0), v4(PORT)).is_none());
        assert_eq!(refused(&kernel, Reason::MaxConnsPerSource), 1);
        let flows = kernel.flows().expect("flows");
        let strangers = flows
            .iter()
            .filter(|(key, _)| key.remote[12..14] == [198, 18]);
        assert_eq!(strangers.count(), flows.len() - 1, "one gave its place up");
        assert_eq!(flows.len() as u32, limits.max_flows);
        assert_eq!(of_sources(&root), u64::from(limits.max_flows));
    });
}

#[test]
fn forged_datagrams_of_a_users_own_address_do_not_keep_that_user_out() {
    let Some(node) = Node::new("forged-user") else {
        return;
    };
    const SHARE: u32 = 4;
    node.run(|kernel| {
        let limits = Tenant {
            max_flows: 1_000,
            max_conns_per_source: SHARE,
            ..five()
        };
        lend(&kernel, UDP, &limits);
        let server = talkative(PORT);
        for (own, to) in [(v4(0), v4(PORT)), (v6(0), v6(PORT))] {
            let before = kernel.counts(1).expect("counts").flows;
            let mut users: Vec<(UdpSocket, SocketAddr)> = Vec::new();
            let forge = |times| {
                // Whose answers the user's own address gets, and nobody reads.
                let forged = (0..times).filter(|_| answered(&server, own, to).is_some());
                forged.count()
            };
            for _ in 0..SHARE {
                assert_eq!(forge(50), 50, "there is a place while one is not confirmed");
                let user = answered(&server, own, to).expect("the user is served");
                user.send(b"again").expect("send");
                let (_, from) = server.recv_from(&mut [0; 16]).expect("it goes on");
                users.push((user, from));
                let flows = kernel.counts(1).expect("counts").flows;
                assert!(flows - before <= u64::from(SHARE), "{flows}");
            }
            // The share is the user's own now, who is told so.
            assert_eq!(forge(5), 0);
            for (user, from) in &users {
                user.send(b"and again").expect("send");
                server.recv_from(&mut [0; 16]).expect("delivered");
                server.send_to(b"answer", from).expect("send");
                assert_eq!(user.recv(&mut [0; 16]).expect("arrives"), 6);
            }
        }
        assert_eq!(refused(&kernel, Reason::MaxConnsPerSource), 10);
        assert_eq!(confirmed(&kernel), 2 * SHARE as usize);
        assert_eq!(kernel.sweep().expect("sweep").drifted, 0, "all is counted");
    });
}

#[test]
fn who_takes_its_own_places_again_and_again_hides_nobody_elses() {
    let Some(node) = Node::new("washed") else {
        return;
    };
    const MOST: u32 = 64;
    const SHARE: u32 = 4;
    node.run(|kernel| {
        let limits = Tenant {
            max_flows: MOST,
            max_conns_per_source: SHARE,
            ..five()
        };
        lend(&kernel, UDP, &limits);
        let server = talkative(PORT);
        let mut forger = Forger::new();
        for _ in 0..MOST - SHARE {
            forger.word(&server).expect("room");
        }
        // One source at its share, which goes round all of the tenant's places four times.
        for _ in 0..4 * MOST {
            answered(&server, v4(0), v4(PORT)).expect("in the place of its own");
        }
        for _ in 0..40 {
            forger.word(&server).expect("there is a place");
        }
        assert_eq!(refused(&kernel, Reason::MaxFlows), 0);
        // And who writes beside others does not lose sight of its own.
        for nth in 0..4 * SHARE {
            if nth % SHARE == 0 {
                answered(&server, v6(0), v6(PORT)).expect("served");
            } else {
                forger.word(&server).expect("served");
            }
        }
        for _ in 0..SHARE {
            let user = answered(&server, v6(0), v6(PORT)).expect("the user is served");
            user.send(b"again").expect("send");
            server.recv_from(&mut [0; 16]).expect("it goes on");
        }
        assert!(answered(&server, v6(0), v6(PORT)).is_none());
        assert_eq!(refused(&kernel, Reason::MaxConnsPerSource), 1);
        assert_eq!(kernel.sweep().expect("sweep").drifted, 0, "all is counted");
    });
}

#[test]
fn who_is_confirmed_gives_its_place_to_nobody() {
    let Some(node) = Node::new("kept-flows") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        let (server, users) = figures::flows(PORT, 3);
        // They come before anybody is confirmed: the socket lookup lets them by, and the answer finds no room.
        ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
        let others: Vec<UdpSocket> = (0..200)
            .map(|nth| {
                let own = SocketAddr::from(([198, 18, 0, nth], 53));
                let other = UdpSocket::bind(own).expect("bind");
                other.send_to(b"hello", v4(PORT)).expect("send");
                other.set_nonblocking(true).expect("nonblocking");
                other
            })
            .collect();
        let from = others.iter().map(|_| server.recv_from(&mut [0; 16]));
        let from: Vec<_> = from.collect::<Result<_, _>>().expect("delivered");
        figures::confirm(&server, &users, PORT);
        for (_, from) in from {
            let _ = server.send_to(b"answer", from);
        }
        let heard = others.iter().filter(|one| one.recv(&mut [0; 16]).is_ok());
        assert_eq!(heard.count(), 0);
        assert_eq!(
            (kernel.counts(1).expect("counts").flows, confirmed(&kernel)),
            (3, 3)
        );
        assert_eq!(refused(&kernel, Reason::MaxFlows), 200);
        let sources: Sources = support::pinned(&root, "SOURCES").try_into().expect("hash");
        assert_eq!(sources.keys().count(), 1, "theirs");
        // And at the door.
        assert!(answered(&server, v6(0), v6(PORT)).is_none());
        assert_eq!(refused(&kernel, Reason::MaxFlows), 201);
    });
}

#[test]
fn a_full_parent_gives_the_place_of_one_that_is_not_confirmed_whosever_it_is() {
    let Some(node) = Node::new("parent-places") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        let all = Tenant {
            max_flows: 2,
            ..five()
        };
        lend_public(&kernel, UDP, &all, five());
        // Another of its children.
        let child = Tenant {
            parent: 9,
            ..five()
        };
        kernel.put_tenant(2, &child).expect("tenant");
        let key = support::key(UDP, PORT + 1);
        kernel.put_lease(key, &support::lease(2, 8)).expect("lease");
        let [server, other] = [PORT, PORT + 1].map(talkative);
        let live = || [1, 2, 9].map(|tenant| kernel.counts(tenant).expect("counts").flows);
        let _first = [(); 2].map(|()| answered(&server, v4(0), v4(PORT)).expect("room for two"));
        // Who forges sources at one visitor's port keeps no other visitor's users out.
        let second = answered(&other, v4(0), v4(PORT + 1)).expect("in the place of one of those");
        assert_eq!(live(), [1, 1, 2]);
        let third = answered(&server, v4(0), v4(PORT)).expect("and again");
        let fourth = answered(&other, v4(0), v4(PORT + 1)).expect("and again");
        assert_eq!(
            live().iter().sum::<u64>(),
            4,
            "two, and of all together two"
        );
        assert_eq!(refused(&kernel, Reason::PublicFull), 0);
        // Whose place was taken is charged to nobody.
        assert_eq!(of_sources(&root), 2);
        // Who goes on keeps its place.
        let goes_on = |user: &UdpSocket, server: &UdpSocket| {
            user.send(b"again").expect("send");
            server.recv_from(&mut [0; 16]).expect("it goes on");
        };
        goes_on(&fourth, &other);
        let fifth = answered(&server, v4(0), v4(PORT)).expect("in the other one's place");
        goes_on(&fifth, &server);
        assert_eq!((confirmed(&kernel), live()), (2, [1, 1, 2]));
        assert!(answered(&server, v4(0), v4(PORT)).is_none());
        assert!(answered(&other, v4(0), v4(PORT + 1)).is_none());
        assert_eq!((confirmed(&kernel), live()), (2, [1, 1, 2]));
        drop((second, third));
    });
}
