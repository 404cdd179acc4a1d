//! Interfaces come, go, come back and have odd names, under a running daemon.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use totoro_node::kernel::{Kernel, XdpMode};

use crate::interfaces::connects;
use crate::sockets::{connect, v4};
use crate::support::{self, Node, Peer, ip, tc};
use crate::wire::{NODE4, link_to, link_up};

/// A pool port without a lease.
const FREE: u16 = 20_001;

fn modes(kernel: &Kernel) -> Vec<(String, &'static str)> {
    let all = kernel.filters().into_iter();
    all.map(|filter| (filter.interface, filter.mode)).collect()
}

/// Whether the user's SYN dies before the stack, which would answer.
fn is_filtered(peer: &Peer) -> bool {
    let to = SocketAddr::new(NODE4, FREE);
    connects(peer, to) == Err(std::io::ErrorKind::TimedOut)
}

fn link_pins(node: &totoro_node::kernel::KernelOptions) -> Vec<String> {
    let ids = support::link_ids(&node.pin_root);
    ids.into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.contains("us0"))
        .collect()
}

#[test]
fn a_name_with_a_dot_is_filtered() {
    for (name, mode, expected) in [
        ("dot-tc", XdpMode::Off, "tc"),
        ("dot-xdp", XdpMode::Native, "native"),
    ] {
        let Some(node) = Node::new(name) else { return };
        let before = || {
            let peer = link_up();
            ip(&["link", "set", "us0", "down"]);
            ip(&["link", "set", "us0", "name", "us0.5"]);
            ip(&["link", "set", "us0.5", "up"]);
            peer
        };
        node.on(&["us0.5"], mode).run_after(before, |kernel, peer| {
            assert_eq!(modes(&kernel), [("us0.5".to_owned(), expected)]);
            assert_eq!(kernel.missing(), Vec::<String>::new());
            assert!(is_filtered(&peer));
        });
    }
}

#[test]
fn an_interface_that_comes_back_is_filtered_again() {
    let Some(node) = Node::new("back") else {
        return;
    };
    let node = node.on(&["us0"], XdpMode::Native);
    let options = node.options();
    node.run_after(link_up, move |kernel, peer| {
        assert!(is_filtered(&peer));
        ip(&["link", "del", "us0"]);
        kernel.check_links().expect("check");
        assert_eq!(modes(&kernel), []);
        assert!(
            kernel.missing()[0].contains("us0"),
            "{:?}",
            kernel.missing()
        );
        assert_eq!(link_pins(&options), Vec::<String>::new());
        link_to(&peer);
        assert_eq!(kernel.check_links().expect("check"), (0, 1));
        assert_eq!(modes(&kernel), [("us0".to_owned(), "native")]);
        assert_eq!(kernel.missing(), Vec::<String>::new());
        assert!(is_filtered(&peer));
        let before = support::link_ids(&options.pin_root);
        kernel.check_links().expect("check");
        assert_eq!(
            support::link_ids(&options.pin_root),
            before,
            "nothing to do"
        );
    });
}

#[test]
fn a_filter_that_was_detached_is_attached_afresh() {
    for (name, mode, shown, lost) in [
        ("lost-xdp", XdpMode::Native, "native", "xdp-native"),
        ("lost-in", XdpMode::Off, "tc", "tc-in"),
        ("lost-out", XdpMode::Off, "tc", "tc-out"),
    ] {
        let Some(node) = Node::new(name) else { return };
        let node = node.on(&["us0"], mode);
        let options = node.options();
        node.run_after(link_up, move |kernel, peer| {
            let pins = link_pins(&options);
            match pins.iter().find(|pin| pin.starts_with(lost)) {
                Some(pin) => {
                    let pin = options.pin_root.join("v1/links").join(pin);
                    std::fs::remove_file(pin).expect("detach");
                }
                // Before TCX it is a filter of this qdisc.
                None => tc(&["qdisc", "del", "dev", "us0", "clsact"]),
            }
            assert_eq!(kernel.check_links().expect("check"), (0, 1), "{lost}");
            assert_eq!(modes(&kernel), [("us0".to_owned(), shown)]);
            assert_eq!(kernel.missing(), Vec::<String>::new());
            assert_eq!(link_pins(&options), pins);
            assert!(is_filtered(&peer));
            assert_eq!(kernel.check_links().expect("check"), (0, 0), "{lost}");
        });
    }
}

#[test]
fn an_interface_that_gets_the_default_route_later_is_filtered() {
    let Some(node) = Node::new("later") else {
        return;
    };
    // As the default routes': there once it is there.
    fn found() -> Vec<String> {
        let there = nix::net::if_::if_nametoindex("us0").is_ok();
        there.then(|| "us0".to_owned()).into_iter().collect()
    }
    let node = node.with(|options| options.find_interfaces = Some(found));
    node.run(|kernel| {
        assert_eq!(modes(&kernel), []);
        let peer = link_up();
        support::eventually("the wire works", || !is_filtered(&peer));
        kernel.sweep().expect("the links' turn is due");
        assert_eq!(modes(&kernel), [("us0".to_owned(), "tc")]);
        assert!(is_filtered(&peer));
    });
}

#[test]
fn a_filter_that_is_not_wanted_any_more_goes() {
    let Some(node) = Node::new("unwanted") else {
        return;
    };
    let node = node.on(&["us0"], XdpMode::Native);
    let mut options = node.options();
    node.run_after(link_up, move |kernel, peer| {
        drop(kernel);
        assert!(is_filtered(&peer) && !link_pins(&options).is_empty());
        options.interfaces.clear();
        let _kernel = Kernel::load(&options).expect("loads");
        assert_eq!(link_pins(&options), Vec::<String>::new());
        support::eventually("the link is let go of", || !is_filtered(&peer));
    });
}

#[test]
fn an_interface_without_ethernet_headers_is_reported_and_left_alone() {
    let Some(node) = Node::new("tunnel") else {
        return;
    };
    let before = || {
        let made = std::process::Command::new("ip")
            .args(["tuntap", "add", "dev", "tun0", "mode", "tun"])
            .output();
        made.is_ok_and(|made| made.status.success())
    };
    node.on(&["tun0"], XdpMode::Off)
        .run_after(before, |kernel, made| {
            if !made {
                eprintln!("skipped: this machine can make no tun interface");
                return;
            }
            assert_eq!(modes(&kernel), []);
            let missing = kernel.missing();
            assert!(missing[0].contains("no Ethernet header"), "{missing:?}");
        });
}

#[test]
fn a_dead_link_is_attached_afresh() {
    let Some(node) = Node::new("dead") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        let _listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, FREE)).expect("listen");
        assert!(connect(v4(FREE)).is_err(), "no lease");
        for name in ["totoro_admit", "totoro_conns"] {
            let pin = options.pin_root.join("v1/links").join(name);
            std::fs::remove_file(pin).expect("detach");
        }
        // The kernel detaches when it comes to it.
        support::eventually("nothing guards", || connect(v4(FREE)).is_ok());
        assert_eq!(kernel.check_links().expect("check"), (2, 0));
        assert!(connect(v4(FREE)).is_err(), "no lease");
        assert_eq!(support::link_ids(&options.pin_root).len(), 8);
        // Who bound a UDP socket while nothing tagged it is to bind it anew.
        let untagged = || kernel.sweep().expect("sweep").untagged;
        assert!(!untagged(), "others were dead");
        std::fs::remove_file(options.pin_root.join("v1/links/totoro_bind6")).expect("detach");
        support::eventually("it is told", untagged);
        assert!(!untagged(), "once");
    });
}
