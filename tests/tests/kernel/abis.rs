//! Another ABI version's pins: taken over, or refused with what to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, TCP, UDP};
use totoro_node::kernel::{Abi, Changed, Inspector, Kernel, KernelOptions, Older};

use crate::pins::{link, pin_map, refusal};
use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{self, Node, eventually};

const BANS: Changed = Changed {
    map: "BANS",
    key_size: 20,
    value_size: 16,
    convert: halve,
};
/// The next version, before which a ban had a word more.
const NEXT: Abi = Abi {
    version: 2,
    older: &[Older {
        version: 1,
        added: &[],
        changed: &[BANS],
    }],
};
/// The next version, in which only the number is new.
const SAME: Abi = Abi {
    version: 2,
    older: &[Older {
        version: 1,
        added: &[],
        changed: &[],
    }],
};

fn halve(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value[8..].to_vec())
}

fn map_ids(root: &Path, version: u32) -> BTreeMap<String, u32> {
    let pins = std::fs::read_dir(root.join(format!("v{version}"))).expect("pins");
    pins.map(|pin| pin.expect("pin").path())
        .filter(|path| path.is_file())
        .map(|path| {
            let id = MapInfo::from_pin(&path).expect("map").id();
            let name = path.file_name().expect("name").to_string_lossy();
            (name.into_owned(), id)
        })
        .collect()
}

#[test]
fn state_goes_on_under_the_next_version() {
    let Some(node) = Node::new("abi-state") else {
        return;
    };
    let mut options = node.options();
    node.run(move |kernel| {
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        for proto in [TCP, UDP] {
            let key = support::key(proto, PORT);
            kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        }
        let held = (connect(v4(PORT)).expect("connect"), listener.accept());
        kernel.set_hold(Some(Reason::NodeDraining)).expect("hold");
        let before = map_ids(&options.pin_root, 1);
        let config = Inspector::open(&options.pin_root).expect("pins").config();
        let seed = config.expect("config").sketch_seed;
        options.abi = SAME;
        let why = refusal(&options);
        assert!(
            why.contains("another totoro-node"),
            "the older one runs: {why}"
        );
        drop(kernel);

        let kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{}", error.whole()));
        assert!(
            !options.pin_root.join("v1").exists(),
            "the old directory is gone"
        );
        let after = map_ids(&options.pin_root, 2);
        for (name, id) in &before {
            let is_own = name == "CONFIG";
            assert_eq!(after[name] == *id, !is_own, "{name}: the same map");
        }
        assert_eq!(kernel.leases().expect("leases").len(), 2);
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 1);
        connect(v4(PORT)).expect_err("the hold goes on");
        kernel.set_hold(None).expect("lift");
        connect(v4(PORT)).expect("open");
        drop(kernel);
        let pin = MapData::from_pin(options.pin_root.join("v2/CONFIG")).expect("pin");
        let pin = Map::from_map_data(pin).expect("map");
        let map: aya::maps::Array<_, abi::Config> = pin.try_into().expect("array");
        assert_eq!(map.get(&0, 0).expect("config").sketch_seed, seed);
        drop(held);

        // Back to the older build: what it can't know it refuses, and touches nothing.
        options.abi = Abi::CURRENT;
        let why = refusal(&options);
        for word in ["newer", "ABI 2", "uninstall", "go on enforcing"] {
            assert!(why.contains(word), "{word}: {why}");
        }
        let why = Inspector::open(&options.pin_root).err().expect("another's");
        assert!(support::chain(&why).contains("has ABI 2"), "{why}");
        connect(v4(PORT + 1)).expect_err("no lease");
        totoro_node::kernel::uninstall(&options.pin_root).expect("uninstall");
        assert!(!options.pin_root.exists(), "of every version");
    });
}

#[test]
fn a_map_of_the_daemons_is_converted_entry_by_entry() {
    let Some(node) = Node::new("abi-convert") else {
        return;
    };
    let mut options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let shape = aya_obj::maps::bpf_map_def {
            map_type: 11,
            key_size: 20,
            value_size: 16,
            max_entries: 65_536,
            map_flags: 1,
            ..aya_obj::maps::bpf_map_def::default()
        };
        pin_map(&options.pin_root, "BANS", shape);
        let pin = MapData::from_pin(options.pin_root.join("v1/BANS")).expect("pin");
        let map = Map::from_map_data(pin).expect("map");
        let mut old: LpmTrie<_, abi::BanAddr, [u64; 2]> = map.try_into().expect("trie");
        let mut bans = BTreeMap::new();
        for nth in 0..200u8 {
            let net: ipnet::IpNet = format!("192.0.{nth}.0/24").parse().expect("prefix");
            let key = Key::new(96 + 24, totoro_node::kernel::to_addr(net.addr()));
            old.insert(&key, [99, u64::MAX - u64::from(nth)], 0)
                .expect("insert");
            bans.insert(net, u64::MAX - u64::from(nth));
        }
        // A version that knows nothing of the change takes nothing over.
        options.abi = SAME;
        let why = refusal(&options);
        assert!(why.contains("BANS") && why.contains("value size"), "{why}");
        assert!(options.pin_root.join("v1/links/totoro_admit").exists());

        options.abi = NEXT;
        let kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{}", error.whole()));
        let carried: BTreeMap<_, _> = kernel.bans().expect("bans").into_iter().collect();
        assert_eq!(carried, bans);
    });
}

#[test]
fn an_older_version_that_is_not_known_is_not_joined() {
    let Some(node) = Node::new("abis") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        let other = options.pin_root.join("v0/links");
        std::fs::create_dir_all(&other).expect("directory");
        // One that holds nothing is no harm.
        drop(kernel);
        drop(Kernel::load(&options).expect("nothing is attached there"));
        let pin = link(&options.pin_root, "totoro_conns").pin(other.join("totoro_conns"));
        pin.expect("pin");
        let why = refusal(&options);
        for word in ["v0", "ABI 0", "uninstall", "drain"] {
            assert!(why.contains(word), "{word}: {why}");
        }
    });
}

/// What a kill leaves when so many links have been taken over, in the order in which they are.
fn half_way(root: &Path, taken: usize) {
    let order = [
        "bind4",
        "bind6",
        "conns",
        "meter_in",
        "meter_out",
        "send4",
        "send6",
        "admit",
    ];
    let [old, new] = ["v1", "v2"].map(|version| root.join(version));
    for dir in [&new, &new.join("links")] {
        std::fs::create_dir(dir).expect("directory");
    }
    for (name, _) in map_ids(root, 1) {
        if taken == 0 && name == "USAGE" {
            continue;
        }
        std::fs::hard_link(old.join(&name), new.join(&name)).expect("carry");
    }
    for name in &order[..taken] {
        let pin = format!("links/totoro_{name}");
        std::fs::hard_link(old.join(&pin), new.join(&pin)).expect("take over");
        if taken == order.len() {
            // And then the old ones began to go.
            std::fs::remove_file(old.join(&pin)).expect("unpin");
        }
    }
}

#[test]
fn the_next_start_ends_what_was_begun() {
    let Some(node) = Node::new("abi-half") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let _held = (connect(v4(PORT)).expect("connect"), listener.accept());
        drop(kernel);
        for taken in [0, 1, 5, 8] {
            half_way(&options.pin_root, taken);
            let before = link_ids(&options.pin_root.join("v1"), &options.pin_root.join("v2"));
            options_at(&options, 2);
            let v2 = options.pin_root.join("v2");
            assert_eq!(link_ids(&v2, &v2), before, "{taken}: the links stay");
            let v1 = options.pin_root.join("v1");
            std::fs::rename(v2, v1).expect("back to the beginning");
            let pins = Inspector::open(&options.pin_root).expect("pins");
            let usage = pins.tenants().expect("tenants")[0].2.usage;
            assert_eq!((usage.conns, usage.admitted), (1, 1), "{taken}");
        }
    });
}

/// The ids of the links pinned in either of two directories.
fn link_ids(one: &Path, other: &Path) -> BTreeMap<String, u32> {
    let dirs = [one, other].map(|dir| dir.join("links"));
    let pins = dirs
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).expect("links"));
    pins.map(|pin| {
        let path = pin.expect("pin").path();
        let link: FdLink = PinnedLink::from_pin(&path).expect("pinned").into();
        let name = path.file_name().expect("name").to_string_lossy();
        (name.into_owned(), link.info().expect("info").id())
    })
    .collect()
}

const TOLD: &str = "TOTORO_TEST_LOAD";

/// Loads as the environment says: the child of the test below, which kills it.
#[test]
#[ignore = "only with its parent's word"]
fn loads_when_told() {
    let told = std::env::var(TOLD).expect("told what");
    let [root, cgroup, version] = told.split('|').collect::<Vec<_>>()[..] else {
        panic!("{told}");
    };
    let object = support::object("loads_when_told").expect("the object");
    let mut options = support::options(object, root.into(), cgroup.into());
    options.abi = follows(version.parse().expect("a version"));
    drop(Kernel::load(&options).unwrap_or_else(|error| panic!("{}", error.whole())));
}

/// Version `version`, which takes over the one before.
fn follows(version: u32) -> Abi {
    let before = Older {
        version: version - 1,
        added: &[],
        changed: &[],
    };
    Abi {
        version,
        older: Box::leak(Box::new([before])),
    }
}

#[test]
fn a_kill_at_any_point_of_the_way_leaves_what_the_next_start_goes_on_from() {
    const ROUNDS: u32 = 4;
    let Some(node) = Node::new("abi-kill") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        let listener = listen(PORT);
        let _closed = listen(PORT + 1);
        let many = abi::Tenant {
            max_conns: 2 * ROUNDS,
            max_conns_per_source: 2 * ROUNDS,
            ..five()
        };
        kernel.put_tenant(1, &many).expect("tenant");
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let mut held = vec![(connect(v4(PORT)).expect("connect"), listener.accept())];
        drop(kernel);
        let load = |version: u32| {
            let mut child = Command::new(std::env::current_exe().expect("our own path"));
            let told = [&options.pin_root, &options.cgroup].map(|path| path.display().to_string());
            child
                .args([
                    "abis::loads_when_told",
                    "--exact",
                    "--ignored",
                    "--nocapture",
                ])
                .env(TOLD, format!("{}|{version}", told.join("|")))
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            child.spawn().expect("start the child")
        };
        let pins = |version: u32| {
            let dir = options.pin_root.join(format!("v{version}/links"));
            std::fs::read_dir(dir).map_or(0, Iterator::count)
        };
        let mut version = 1;
        let (mut none, mut some, mut all) = (0, 0, 0);
        for round in 0..ROUNDS {
            let mut child = load(version + 1);
            // Killed as soon as so many of its eight links are seen.
            let wanted = 2 * round as usize + 1;
            while pins(version + 1) < wanted && child.try_wait().expect("the child").is_none() {
                std::hint::spin_loop();
            }
            let _ = child.kill();
            let status = child.wait().expect("wait");
            assert!(status.success() || status.code().is_none(), "{status}");
            match (pins(version), pins(version + 1)) {
                (8, 0) => none += 1,
                (0, 8) => all += 1,
                (_, 0) => panic!("links are lost"),
                _ => some += 1,
            }
            connect(v4(PORT + 1)).expect_err("enforced whoever is in charge");
            held.push((connect(v4(PORT)).expect("admitted"), listener.accept()));
            if pins(version + 1) > 0 {
                // The next start ends what was begun.
                version += 1;
                options_at(&options, version);
            }
        }
        println!("{ROUNDS} kills: {none} before the first link, {some} between, {all} at the end");
        let mut last = options.clone();
        last.abi = follows(version + 1);
        let kernel = Kernel::load(&last).unwrap_or_else(|error| panic!("{}", error.whole()));
        let usage = kernel.counts(1).expect("counts").usage;
        let lived = u64::from(ROUNDS) + 1;
        assert_eq!((usage.conns, usage.admitted), (lived, lived), "{usage:?}");
        drop(held);
        eventually("every one is counted out", || {
            kernel.counts(1).is_ok_and(|counts| counts.usage.conns == 0)
        });
        let left = std::fs::read_dir(&last.pin_root).expect("root").count();
        assert_eq!(left, 1, "one version is left");
    });
}

/// Loads at a version, and checks that it alone is there.
fn options_at(options: &KernelOptions, version: u32) {
    let mut options = options.clone();
    options.abi = follows(version);
    drop(Kernel::load(&options).unwrap_or_else(|error| panic!("{}", error.whole())));
    let left: Vec<_> = std::fs::read_dir(&options.pin_root)
        .expect("root")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(left, [std::ffi::OsString::from(format!("v{version}"))]);
}
