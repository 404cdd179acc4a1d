//! Pins that are not what they should be: a clear error with the next step, nothing is touched, and
//! what is attached goes on refusing.

use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use caps::{CapSet, Capability};
use totoro_ebpf::abi::TCP;
use totoro_node::kernel::{Kernel, KernelOptions};

use crate::pins::{pin_map, refusal};
use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{self, Node, eventually};
use crate::theirs::Theirs;

/// Everything that is pinned: names with ids, of maps, links and the links' programs.
fn pinned(root: &Path) -> Vec<(PathBuf, u32, u32)> {
    let list = |dir: PathBuf| {
        let pins = std::fs::read_dir(dir).expect("pins");
        pins.map(|pin| pin.expect("pin").path())
            .filter(|path| path.is_file())
    };
    let links = list(root.join("v1/links")).map(|path| {
        let link: FdLink = PinnedLink::from_pin(&path).expect("pinned").into();
        let info = link.info().expect("info");
        (path, info.id(), info.program_id())
    });
    // What was tampered with need not be a map.
    let maps = list(root.join("v1")).map(|path| {
        let id = MapInfo::from_pin(&path).map_or(0, |map| map.id());
        (path, id, 0)
    });
    let mut all: Vec<_> = maps.chain(links).collect();
    all.sort();
    all
}

/// An array where something else should be.
fn array() -> aya_obj::maps::bpf_map_def {
    aya_obj::maps::bpf_map_def {
        map_type: 2,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        ..aya_obj::maps::bpf_map_def::default()
    }
}

#[test]
fn what_was_tampered_with_is_refused_and_nothing_else_touched() {
    let Some(node) = Node::new("tampered") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        let _listeners = [listen(PORT), listen(PORT + 1)];
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        drop(kernel);
        let root = &options.pin_root;
        let (dir, aside) = (root.join("v1"), root.join("aside"));
        let maps: Vec<String> = pinned(root)
            .into_iter()
            .filter(|(path, ..)| path.parent() == Some(&dir))
            .map(|(path, ..)| {
                path.file_name()
                    .expect("name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(maps.len(), 20, "{maps:?}");

        // What is done to a pin, and what the error says beside its name.
        type Tamper = fn(&KernelOptions, &str);
        let table: [(&str, Tamper, &[&str]); 4] = [
            (
                "removed",
                |_, _| {},
                &["missing", "go on enforcing", "uninstall"],
            ),
            (
                "another map",
                |options, name| {
                    let pin = options.pin_root.join("v1").join(name);
                    std::fs::hard_link(options.pin_root.join("v1/spare"), pin).expect("pin");
                },
                &["this build's is", "uninstall"],
            ),
            (
                "a link",
                |options, name| {
                    let dir = options.pin_root.join("v1");
                    std::fs::hard_link(dir.join("links/totoro_send4"), dir.join(name))
                        .expect("pin");
                },
                &["this build's is", "uninstall"],
            ),
            (
                "a directory",
                |options, name| {
                    std::fs::create_dir(options.pin_root.join("v1").join(name)).expect("make");
                },
                &["it is no map", "uninstall"],
            ),
        ];
        let mut refused = 0;
        for (what, tamper, words) in table {
            for name in &maps {
                let pin = dir.join(name);
                pin_spare(&options);
                std::fs::rename(&pin, &aside).expect("set aside");
                tamper(&options, name);
                let before = pinned(root);
                let why = refusal(&options);
                for word in words.iter().chain([&name.as_str()]) {
                    assert!(why.contains(word), "{name}, {what}: {word}: {why}");
                }
                assert_eq!(pinned(root), before, "{name}, {what}: nothing was touched");
                connect(v4(PORT + 1)).expect_err("no lease");
                if pin.is_dir() {
                    std::fs::remove_dir(&pin).expect("remove");
                } else if pin.exists() {
                    std::fs::remove_file(&pin).expect("remove");
                }
                std::fs::rename(&aside, &pin).expect("put back");
                std::fs::remove_file(dir.join("spare")).expect("remove");
                refused += 1;
            }
        }
        println!("{refused} pins tampered with, all refused");
        let _kernel = Kernel::load(&options).expect("as before");
        connect(v4(PORT)).expect("admitted");
    });
}

/// A map of another shape, to be pinned in the place of others.
fn pin_spare(options: &KernelOptions) {
    let path = options.pin_root.join("v1/spare");
    std::fs::hard_link(options.pin_root.join("v1/USAGE"), path).expect("pin");
    pin_map(&options.pin_root, "spare", array());
}

#[test]
fn a_program_of_somebody_elses_under_our_link_is_not_replaced() {
    let Some(node) = Node::new("foreign") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let pin = options.pin_root.join("v1/links/totoro_send4");
        std::fs::remove_file(&pin).expect("unpin");
        Theirs::new(&options.object).send4(&options.cgroup, &pin);
        let before = pinned(&options.pin_root);
        let why = refusal(&options);
        for word in ["theirs_send4", "not Totoro's", "rm ", "totoro_send4"] {
            assert!(why.contains(word), "{word}: {why}");
        }
        assert_eq!(pinned(&options.pin_root), before, "nothing was touched");
        connect(v4(PORT)).expect_err("no lease");
        std::fs::remove_file(&pin).expect("as the error says");
        Kernel::load(&options).expect("loads");
    });
}

#[test]
fn a_missing_capability_is_named_and_nothing_touched() {
    let Some(node) = Node::new("caps") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let before = pinned(&options.pin_root);
        for lacks in [
            Capability::CAP_BPF,
            Capability::CAP_PERFMON,
            Capability::CAP_NET_ADMIN,
        ] {
            let options = options.clone();
            // Capabilities are a thread's.
            let without = std::thread::spawn(move || {
                for one in [lacks, Capability::CAP_SYS_ADMIN] {
                    caps::drop(None, CapSet::Effective, one).expect("give up");
                }
                refusal(&options)
            });
            let why = without.join().expect("refused");
            let words = [&lacks.to_string(), "lacks", "as root", "systemd unit"];
            for word in words {
                assert!(why.contains(word), "{word}: {why}");
            }
        }
        assert_eq!(pinned(&options.pin_root), before);
        let _listener = listen(PORT);
        connect(v4(PORT)).expect_err("no lease");
    });
}

/// With nobody reading, the ring is full after some thousands of events; counts do not need it.
#[test]
fn a_full_ring_loses_hints_and_no_count() {
    const CONNECTIONS: u64 = 4_000;
    let Some(node) = Node::new("ring") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let kernel = Kernel::load(&options).expect("adopts, and does not read");
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        for _ in 0..CONNECTIONS {
            let user = connect(v4(PORT)).expect("admitted");
            let (service, _) = listener.accept().expect("accept");
            // Reset, so that no TIME_WAIT takes the machine's ports.
            nix::sys::socket::setsockopt(&user, nix::sys::socket::sockopt::Linger, &LINGER)
                .expect("linger");
            drop((user, service));
        }
        let usage = kernel.counts(1).expect("counts").usage;
        assert_eq!(usage.admitted, CONNECTIONS);
        eventually("all are counted out", || {
            kernel.counts(1).is_ok_and(|counts| counts.usage.conns == 0)
        });
        let held: Vec<_> = (0..5)
            .map(|_| (connect(v4(PORT)).expect("room"), listener.accept()))
            .collect();
        connect(v4(PORT)).expect_err("the limit holds");
        drop((held, kernel));
        // The next daemon reads a ring of its own.
        let mut kernel = Kernel::load(&options).expect("adopts");
        let mut events = kernel.start_events().expect("events");
        drop((connect(v4(PORT)).expect("admitted"), listener.accept()));
        eventually("it hears of what is new", || events.try_recv().is_ok());
    });
}

const LINGER: libc::linger = libc::linger {
    l_onoff: 1,
    l_linger: 0,
};
