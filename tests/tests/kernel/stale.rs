//! A kernel that does not let a link's program be replaced: the program before goes on, and by what the
//! daemon of now decides.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aya::maps::MapInfo;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use totoro_api::Reason;
use totoro_ebpf::abi::{TCP, Tenant};
use totoro_node::kernel::{Kernel, KernelOptions, XdpMode};

use crate::interfaces::connects;
use crate::near::passes;
use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{self, Node, ip};
use crate::upgrade::running;
use crate::wire::{NODE4, USER4, link_up};

/// bpf(2)'s command (include/uapi/linux/bpf.h).
const BPF_LINK_UPDATE: u64 = 29;

/// Has this thread's kernel refuse to replace the program of a link, and nothing else.
fn forbid_replacing() {
    let command = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        BPF_LINK_UPDATE,
    );
    let rule = SeccompRule::new(vec![command.expect("condition")]).expect("rule");
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_bpf, vec![rule])]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOMEM as u32),
        TargetArch::try_from(std::env::consts::ARCH).expect("an architecture"),
    );
    let program = BpfProgram::try_from(filter.expect("filter")).expect("program");
    seccompiler::apply_filter(&program).expect("applied");
}

/// A daemon whose programs the kernel lets on no link: those before go on.
fn load_in_vain(options: &KernelOptions) -> Kernel {
    let options = options.clone();
    let loaded = std::thread::spawn(move || {
        forbid_replacing();
        Kernel::load(&options)
    });
    loaded.join().expect("no panic").expect("goes on")
}

/// How many of this process's descriptors are of a map.
fn descriptors(map: u32) -> usize {
    let says = format!("map_id:\t{map}\n");
    let all = std::fs::read_dir("/proc/self/fdinfo").expect("fdinfo");
    // Those of other tests come and go.
    all.filter_map(|fd| std::fs::read_to_string(fd.ok()?.path()).ok())
        .filter(|info| info.contains(&says))
        .count()
}

#[test]
fn a_link_whose_program_can_not_be_replaced_stays_and_is_tried_again() {
    for (name, mode) in [("stale-xdp", XdpMode::Native), ("stale-tc", XdpMode::Off)] {
        let Some(node) = Node::new(name) else { return };
        let node = node.on(&["us0"], mode);
        let options = node.options();
        node.run_after(link_up, move |kernel, peer| {
            let _listeners = [PORT, PORT + 1].map(listen);
            let before = running(&options);
            drop(kernel);
            let kernel = load_in_vain(&options);
            assert_eq!(running(&options), before, "links and programs");
            let missing = kernel.missing();
            assert_eq!(missing.len(), before.len(), "{missing:?}");
            for (link, ..) in &before {
                let says = |line: &String| line.starts_with(link) && line.contains("goes on");
                assert!(missing.iter().any(says), "{link}: {missing:?}");
            }
            connect(v4(PORT)).expect_err("no lease");
            assert!(connects(&peer, SocketAddr::new(NODE4, PORT)).is_err());

            // Tried again in vain: with nothing left of it, and nothing done to what is not stale.
            let map = MapInfo::from_pin(options.pin_root.join("v1/SURPLUS")).expect("pin");
            let of_surplus = || descriptors(map.id());
            let held = of_surplus();
            std::thread::scope(|scope| {
                let tried = scope.spawn(|| {
                    forbid_replacing();
                    for _ in 0..5 {
                        assert_eq!(kernel.check_links().expect("check"), (0, 0));
                    }
                });
                tried.join().expect("no panic");
            });
            assert_eq!(of_surplus(), held, "descriptors");
            assert_eq!(running(&options), before, "links and programs");
            assert_eq!(kernel.missing(), missing);

            // Tried again, where it is not forbidden.
            assert_eq!(kernel.check_links().expect("check").0, 0, "none was dead");
            assert_eq!(kernel.missing(), Vec::<String>::new());
            let after = running(&options);
            assert_eq!(after.len(), before.len());
            for ((link, id, old), (same, its, new)) in before.iter().zip(&after) {
                assert_eq!((link, id), (same, its), "the link stays");
                assert_ne!(old, new, "{link}: this daemon's program");
            }
        });
    }
}

/// Bans these, and nobody else.
fn ban(kernel: &Kernel, sources: &[IpAddr]) {
    let wanted = sources.iter().map(|source| ((*source).into(), 0));
    kernel.set_bans(&wanted.collect()).expect("bans");
}

/// What the programs before had at hand says nothing any more, whoever was banned, and whatever was lent,
/// while their daemon ran.
#[test]
fn what_goes_on_judges_by_what_is_decided_now() {
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const NEW4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 9, 3));
    let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (name, mode) in [
        ("stale-by-xdp", XdpMode::Native),
        ("stale-by-tc", XdpMode::Off),
    ] {
        let Some(node) = Node::new(name) else { return };
        let node = node.on(&["us0"], mode);
        let options = node.options();
        node.run_after(link_up, move |kernel, peer| {
            let _listeners = [PORT, PORT + 1].map(listen);
            let key = |port| support::key(TCP, port);
            let dropped = Err(ErrorKind::TimedOut);
            let refused = Err(ErrorKind::ConnectionRefused);
            // Over the wire the shield judges, at home the lookup alone.
            let wire = |to, port| connects(&peer, SocketAddr::new(to, port));
            let at_home = |port| connect(v4(port)).map(drop).map_err(|error| error.kind());
            let many = Tenant {
                max_conns: 99,
                max_conns_per_source: 99,
                ..five()
            };
            for tenant in [1, 2] {
                kernel.put_tenant(tenant, &many).expect("tenant");
            }
            let lend = |kernel: &Kernel, port, tenant, number| {
                let lease = support::lease(tenant, number);
                kernel.put_lease(key(port), &lease).expect("lease");
            };
            lend(&kernel, PORT, 1, 1);

            // Programs that have bans at hand, and such as have none.
            let mut kernel = kernel;
            for before in [&[USER4, home][..], &[]] {
                drop(kernel);
                kernel = Kernel::load(&options).expect("replaced");
                ban(&kernel, before);
                drop(kernel);
                kernel = load_in_vain(&options);
                ban(&kernel, &[OTHER]);
                assert_eq!(wire(NODE4, PORT), Ok(()), "banned no more");
                assert_eq!(at_home(PORT), Ok(()), "banned no more");
                ban(&kernel, &[OTHER, USER4, home]);
                assert_eq!(wire(NODE4, PORT), dropped, "banned");
                assert_eq!(at_home(PORT), refused, "banned");
            }

            // Whoever has the port now is told of what is dropped there.
            kernel.remove_lease(key(PORT)).expect("remove");
            lend(&kernel, PORT, 2, 2);
            assert_eq!(wire(NODE4, PORT), dropped, "banned still");
            let counted = kernel.refused().expect("counters");
            let of_second = counted.iter().find(|one| one.tenant == 2);
            let why = of_second.map(|one| one.reason);
            assert_eq!(why, Some(Reason::ClientBanned), "{counted:?}");
            ban(&kernel, &[]);

            kernel.remove_lease(key(PORT)).expect("remove");
            assert_eq!(wire(NODE4, PORT), dropped, "lent no more");
            assert_eq!(at_home(PORT), refused, "lent no more");
            lend(&kernel, PORT + 1, 1, 3);
            assert_eq!(wire(NODE4, PORT + 1), Ok(()), "lent now");
            assert_eq!(at_home(PORT + 1), Ok(()), "lent now");

            ip(&["addr", "add", "10.77.9.3/24", "dev", "us0"]);
            kernel.sweep().expect("sweep");
            assert_eq!(wire(NEW4, PORT + 1), Ok(()), "the node's too");
            assert_eq!(wire(NEW4, PORT), dropped, "before the stack");
            if mode == XdpMode::Native {
                let root = &options.pin_root;
                assert!(!passes(root, &NODE4.to_string(), PORT));
                ip(&["addr", "del", "10.77.9.1/24", "dev", "us0"]);
                kernel.sweep().expect("sweep");
                assert!(passes(root, &NODE4.to_string(), PORT), "somebody else's");
            }
        });
    }
}
