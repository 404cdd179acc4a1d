//! Bans that overlap, end, and change.

use std::time::Duration;

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use totoro_ebpf::abi::{self, TCP, UDP};
use totoro_node::kernel::{Kernel, boot_ns};

use crate::sockets::{PORT, connect, five, lend, listen, v4, v6};
use crate::support::{self, Node, eventually};

#[test]
fn a_narrow_ban_that_is_over_hides_no_wider_one() {
    let Some(node) = Node::new("ban-overlap") else {
        return;
    };
    node.run(|kernel| {
        let _listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let prefix = |text: &str| text.parse::<ipnet::IpNet>().expect("prefix");
        let soon = boot_ns() + 200_000_000;
        let later = boot_ns() + 60_000_000_000;
        let both = [
            (prefix("127.0.0.0/8"), later),
            (prefix("127.0.0.1/32"), soon),
        ];
        kernel.set_bans(&both.into()).expect("ban");
        std::thread::sleep(Duration::from_millis(300));
        assert!(connect(v4(PORT)).is_err(), "the wide ban holds");
        kernel
            .set_bans(&[(prefix("127.0.0.1/32"), soon)].into())
            .expect("lift the wide one");
        connect(v4(PORT)).expect("the narrow one is over");
        // What is over goes: at once, since their turn is due at the first sweep.
        kernel.sweep().expect("sweep");
        assert_eq!(kernel.bans().expect("bans"), []);
        let all = [(prefix("127.0.0.0/8"), 0), (prefix("::1/128"), 0)];
        kernel.set_bans(&all.into()).expect("ban");
        assert_eq!(kernel.bans().expect("bans").len(), 2);
        kernel.set_bans(&[].into()).expect("lift all");
        connect(v4(PORT)).expect("lifted");
    });
}

#[test]
fn who_is_banned_loses_its_flows_and_nobody_else() {
    let Some(node) = Node::new("ban-flows") else {
        return;
    };
    node.run(|kernel| {
        lend(&kernel, UDP, &five());
        let _flows = crate::figures::flows(PORT, 2);
        assert_eq!(kernel.counts(1).expect("counts").flows, 2);
        let other = [("192.0.2.0/24".parse().expect("prefix"), 0)];
        kernel.set_bans(&other.into()).expect("ban");
        assert_eq!(kernel.counts(1).expect("counts").flows, 2, "another's ban");
        let these = [
            ("192.0.2.0/24".parse().expect("prefix"), 0),
            ("127.0.0.0/16".parse().expect("prefix"), 0),
        ];
        kernel.set_bans(&these.into()).expect("ban");
        eventually("closed", || kernel.counts(1).is_ok_and(|c| c.flows == 0));
    });
}

#[test]
fn flows_of_a_ban_that_an_earlier_daemon_wrote_end() {
    let Some(node) = Node::new("ban-killed") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        let _flows = crate::figures::flows(PORT, 2);
        drop(kernel);
        // It was killed before it came to them.
        let bans = support::pinned(&options.pin_root, "BANS");
        let mut bans: LpmTrie<MapData, abi::Addr, abi::Ban> = bans.try_into().expect("trie");
        let key = Key::new(128, abi::v4_mapped([127, 0, 0, 1]));
        bans.insert(&key, abi::Ban { until_ns: 0 }, 0).expect("ban");
        let kernel = Kernel::load(&options).expect("adopts");
        let wanted = [("127.0.0.1/32".parse().expect("prefix"), 0)].into();
        assert_eq!(kernel.counts(1).expect("counts").flows, 2);
        kernel.set_bans(&wanted).expect("ban");
        eventually("closed", || kernel.counts(1).is_ok_and(|c| c.flows == 0));
    });
}

#[test]
fn a_ban_of_any_length_holds_and_is_lifted() {
    let Some(node) = Node::new("ban-lengths") else {
        return;
    };
    node.run(|kernel| {
        let _listeners = (listen(PORT), listen(support::BIND_PORT));
        // Nobody accepts, so all stay counted.
        let tenant = abi::Tenant {
            max_conns: abi::UNLIMITED,
            max_conns_per_source: abi::UNLIMITED,
            ..five()
        };
        lend(&kernel, TCP, &tenant);
        let lengths = [32, 31, 24, 23, 16, 15, 8, 7, 0].map(|bits| (v4(PORT), v6(PORT), bits));
        let lengths6 = [128, 127, 112].map(|bits| (v6(PORT), v4(PORT), bits));
        for (banned, other, bits) in lengths.into_iter().chain(lengths6) {
            let prefix = ipnet::IpNet::new(banned.ip(), bits)
                .expect("prefix")
                .trunc();
            kernel.set_bans(&[(prefix, 0)].into()).expect("ban");
            assert!(connect(banned).is_err(), "{prefix}");
            drop(connect(other).expect("not the other family"));
            kernel.set_bans(&[].into()).expect("lift");
            drop(connect(banned).expect("lifted"));
        }
    });
}

#[test]
fn the_end_of_a_ban_can_be_moved() {
    let Some(node) = Node::new("ban-moved") else {
        return;
    };
    node.run(|kernel| {
        let _listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let prefix: ipnet::IpNet = "127.0.0.1/32".parse().expect("prefix");
        let until = |end| kernel.set_bans(&[(prefix, end)].into()).expect("ban");
        until(boot_ns() + 200_000_000);
        until(0);
        std::thread::sleep(Duration::from_millis(300));
        assert!(connect(v4(PORT)).is_err(), "for ever now");
        until(boot_ns() + 200_000_000);
        assert!(connect(v4(PORT)).is_err(), "not over yet");
        eventually("over", || connect(v4(PORT)).is_ok());
    });
}
