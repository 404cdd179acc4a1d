//! Other owners on the same interface: they are named, left as they are, and ours hold all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};
use totoro_node::kernel::{XdpMode, neighbours, uninstall};

use crate::interfaces::connects;
use crate::support::{Node, Peer, has_tcx, ip, object};
use crate::theirs::Theirs;
use crate::wire::{NODE4, link_up};

/// A pool port without a lease.
const FREE: u16 = 20_001;

/// Whether a SYN to `at` dies before the stack, which would answer.
fn is_filtered(peer: &Peer, at: IpAddr) -> bool {
    connects(peer, SocketAddr::new(at, FREE)) == Err(std::io::ErrorKind::TimedOut)
}

#[test]
fn another_xdp_program_is_named_and_tc_filters_instead() {
    let Some(node) = Node::new("their-xdp") else {
        return;
    };
    let object = object("their-xdp").expect("the object");
    let before = move || {
        let peer = link_up();
        let mut theirs = Theirs::new(&object);
        theirs.xdp("us0");
        (peer, theirs)
    };
    node.on(&["us0"], XdpMode::Native)
        .run_after(before, |kernel, (peer, theirs)| {
            assert_eq!(kernel.filters()[0].mode, "tc");
            let missing = kernel.missing().join("\n");
            for word in [
                "us0: no native XDP",
                "another owner's",
                "theirs_xdp",
                "TC instead",
            ] {
                assert!(missing.contains(word), "{word}: {missing}");
            }
            assert!(is_filtered(&peer, NODE4));
            let found = neighbours("us0").expect("asked");
            let [one] = &found[..] else {
                panic!("{found:?}")
            };
            assert_eq!((one.hook, one.name.as_deref()), ("xdp", Some("theirs_xdp")));
            // It has left: the daemon's next start takes XDP.
            drop(theirs);
            assert_eq!(neighbours("us0").expect("asked"), []);
        });
}

#[test]
fn in_tc_ours_run_first_whoever_was_there_before() {
    if !has_tcx() {
        eprintln!("skipped: this kernel has no TCX");
        return;
    }
    let Some(node) = Node::new("their-tc") else {
        return;
    };
    let object = object("their-tc").expect("the object");
    let its = object.clone();
    let before = move || {
        let peer = link_up();
        let mut theirs = Theirs::new(&object);
        theirs.tc("us0");
        (peer, theirs)
    };
    node.on(&["us0"], XdpMode::Off)
        .run_after(before, |_kernel, (peer, theirs)| {
            for (way, expected) in [
                (TcAttachType::Ingress, ["totoro_tc_in", "theirs_tc_in"]),
                (TcAttachType::Egress, ["totoro_tc_out", "theirs_tc_out"]),
            ] {
                let (_, programs) = SchedClassifier::query_tcx("us0", way).expect("listed");
                let names: Vec<_> = programs.iter().flat_map(|one| one.name_as_str()).collect();
                assert_eq!(names, expected);
            }
            assert!(is_filtered(&peer, NODE4));
            assert_eq!(neighbours("us0").expect("asked"), []);
            // Who comes later and puts itself first is seen.
            let mut later = Theirs::new(&its);
            later.tc("us0");
            let found = neighbours("us0").expect("asked");
            let hooks: Vec<_> = found.iter().map(|one| one.hook).collect();
            assert_eq!(hooks, ["tcx ingress", "tcx egress"], "{found:?}");
            drop((theirs, later));
        });
}

#[test]
fn an_operators_qdiscs_stay_as_they_are() {
    let Some(node) = Node::new("qdisc") else {
        return;
    };
    let shown = || {
        let said = Command::new("tc")
            .args(["qdisc", "show", "dev", "us0"])
            .output()
            .expect("tc runs");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let before = move || {
        let peer = link_up();
        let made = Command::new("tc")
            .args(["qdisc", "add", "dev", "us0", "root", "handle", "77:"])
            .args(["pfifo", "limit", "777"])
            .status();
        assert!(made.is_ok_and(|made| made.success()), "tc");
        let made = Command::new("tc")
            .args(["qdisc", "add", "dev", "us0", "clsact"])
            .status();
        assert!(made.is_ok_and(|made| made.success()), "tc");
        (peer, shown())
    };
    let node = node.on(&["us0"], XdpMode::Off);
    let root = node.options().pin_root;
    node.run_after(before, |kernel, (peer, before)| {
        assert!(
            before.contains("pfifo 77:") && before.contains("clsact"),
            "{before}"
        );
        assert!(is_filtered(&peer, NODE4));
        assert_eq!(shown(), before);
        drop(kernel);
        uninstall(&root).expect("uninstall");
        assert_eq!(shown(), before);
    });
}

#[test]
fn a_new_address_is_guarded_and_an_old_one_let_go() {
    const LATER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 9, 7));
    let Some(node) = Node::new("address") else {
        return;
    };
    node.on(&["us0"], XdpMode::Native)
        .run_after(link_up, |kernel, peer| {
            ip(&["addr", "add", "10.77.9.7/24", "dev", "us0"]);
            // Refused by the socket lookup until the shield knows the address as the node's.
            assert!(!is_filtered(&peer, LATER));
            assert_eq!(kernel.sweep().expect("sweep").addresses, 1);
            assert!(is_filtered(&peer, LATER) && is_filtered(&peer, NODE4));
            ip(&["addr", "del", "10.77.9.7/24", "dev", "us0"]);
            assert_eq!(kernel.sweep().expect("sweep").addresses, 1);
            assert!(is_filtered(&peer, NODE4));
        });
}
