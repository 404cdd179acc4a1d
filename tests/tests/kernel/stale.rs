//! A kernel that does not let a link's program be replaced: the program before goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use aya::maps::MapInfo;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use totoro_node::kernel::{Kernel, XdpMode};

use crate::interfaces::connects;
use crate::sockets::{PORT, connect, listen, v4};
use crate::support::Node;
use crate::upgrade::running;
use crate::wire::{NODE4, link_up};

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
            let told = options.clone();
            let loaded = std::thread::spawn(move || {
                forbid_replacing();
                Kernel::load(&told)
            });
            let kernel = loaded.join().expect("no panic").expect("goes on");
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
