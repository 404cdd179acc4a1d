//! Bans that overlap, end, and change.

use std::time::Duration;

use totoro_ebpf::abi::{TCP, UDP};
use totoro_node::kernel::boot_ns;

use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{self, Node, eventually};

#[test]
fn a_narrow_ban_that_is_over_hides_no_wider_one() {
    let Some(node) = Node::new("ban-overlap") else {
        return;
    };
    node.run(|kernel| {
        let _listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        kernel
            .put_lease(support::key(TCP, PORT), &support::lease(1, 7))
            .expect("lease");
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
        kernel.put_tenant(1, &five()).expect("tenant");
        kernel
            .put_lease(support::key(UDP, PORT), &support::lease(1, 7))
            .expect("lease");
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
