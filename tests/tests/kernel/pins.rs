//! Nothing under the pin directory is trusted unchecked.

use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};
use totoro_node::kernel::{Inspector, Kernel, KernelOptions};

use crate::support::{self, Node};

/// Why it does not load.
pub(crate) fn refusal(options: &KernelOptions) -> String {
    let error = Kernel::load(options).err().expect("refused");
    support::chain(&error)
}

/// Creates a map and pins it in the place of another.
pub(crate) fn pin_map(root: &Path, name: &str, def: aya_obj::maps::bpf_map_def) {
    let object = aya_obj::Map::Legacy(aya_obj::maps::LegacyMap {
        section_index: 0,
        section_kind: aya_obj::EbpfSectionKind::Maps,
        symbol_index: None,
        def,
        inner_def: None,
        data: vec![],
    });
    let path = root.join("v1").join(name);
    std::fs::remove_file(&path).expect("unpin");
    let map = MapData::create(object, name, None).expect("create");
    map.pin(&path).expect("pin");
}

#[test]
fn a_map_of_another_shape_is_refused_by_what_is_wrong_with_it() {
    let Some(node) = Node::new("shapes") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        // USAGE as it is: a hash of u32 to 48 bytes, without preallocation.
        let right = aya_obj::maps::bpf_map_def {
            map_type: 1,
            key_size: 4,
            value_size: 48,
            max_entries: 65_536,
            map_flags: 1,
            ..aya_obj::maps::bpf_map_def::default()
        };
        for (what, wrong) in [
            (
                "key size",
                aya_obj::maps::bpf_map_def {
                    key_size: 8,
                    ..right
                },
            ),
            (
                "max_entries",
                aya_obj::maps::bpf_map_def {
                    max_entries: 9,
                    ..right
                },
            ),
            (
                "flags",
                aya_obj::maps::bpf_map_def {
                    map_flags: 0,
                    ..right
                },
            ),
            (
                "type",
                aya_obj::maps::bpf_map_def {
                    map_type: 9,
                    map_flags: 0,
                    ..right
                },
            ),
        ] {
            pin_map(&options.pin_root, "USAGE", wrong);
            let why = refusal(&options);
            assert!(
                why.contains(what) && why.contains("uninstall"),
                "{what}: {why}"
            );
        }
        pin_map(&options.pin_root, "USAGE", right);
        Kernel::load(&options).expect("of the right shape");
    });
}

#[test]
fn a_directory_that_is_somebody_elses_is_refused() {
    let Some(node) = Node::new("owner") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let dir = options.pin_root.join("v1");
        chown(&dir, Some(65_534), None).expect("chown");
        let why = refusal(&options);
        assert!(why.contains("belongs to user 65534"), "{why}");
        chown(&dir, Some(0), None).expect("chown");
        let root = options.pin_root.with_extension("");
        let mut elsewhere = options.clone();
        let name = root.file_name().expect("name").to_string_lossy();
        elsewhere.pin_root = root.with_file_name(format!("{name}-link"));
        symlink(&root, &elsewhere.pin_root).expect("symlink");
        let why = refusal(&elsewhere);
        std::fs::remove_file(&elsewhere.pin_root).expect("remove");
        assert!(why.contains("no directory"), "{why}");
        Kernel::load(&options).expect("ours again");
    });
}

#[test]
fn a_program_that_the_kernel_refuses_is_named_without_its_verifiers_pages() {
    let Some(node) = Node::new("refused") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        // Some program's end becomes an instruction that there is none of: the first, since behind the programs
        // there are tables that may look like one.
        let mut bytes = std::fs::read(&options.object).expect("the object");
        let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
        let code = bytes.chunks_exact_mut(8).find(|code| *code == exit);
        code.expect("a program")[0] = 0xff;
        let dir = tempfile::tempdir().expect("a directory");
        let mut damaged = options.clone();
        damaged.object = dir.path().join("totoro");
        std::fs::write(&damaged.object, bytes).expect("write");
        let why = refusal(&damaged);
        let is_told = [
            "load",
            "does not take it",
            "totoro-node check",
            "os error 22",
        ]
        .iter()
        .all(|part| why.contains(part));
        assert!(is_told && why.len() < 300, "{why}");
        Kernel::load(&options).expect("what was there goes on");
    });
}

pub(crate) fn link(root: &Path, name: &str) -> FdLink {
    let path = root.join("v1/links").join(name);
    PinnedLink::from_pin(path).expect("pinned").into()
}

#[test]
fn a_pinned_link_that_is_attached_as_something_else_is_not_adopted() {
    let Some(node) = Node::new("as-else") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let root = &options.pin_root;
        let id = |name: &str| link(root, name).info().expect("info").id();
        // On the same cgroup, but another hook: a program there would never see an IPv4 bind.
        std::fs::remove_file(root.join("v1/links/totoro_bind4")).expect("unpin");
        let pin = link(root, "totoro_bind6").pin(root.join("v1/links/totoro_bind4"));
        pin.expect("pin");
        let six = id("totoro_bind6");
        let _kernel = Kernel::load(&options).expect("loads");
        assert_eq!(id("totoro_bind6"), six, "adopted");
        assert_ne!(id("totoro_bind4"), six, "attached afresh");
    });
}

#[test]
fn a_load_that_fails_leaves_nothing_attached() {
    let Some(node) = Node::new("half-load") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        totoro_node::kernel::uninstall(&options.pin_root).expect("uninstall");
        let blocked = options.pin_root.join("v1/links/totoro_send6");
        std::fs::create_dir_all(&blocked).expect("directory");
        let why = refusal(&options);
        assert!(why.contains("totoro_send6"), "{why}");
        let left: Vec<_> = std::fs::read_dir(options.pin_root.join("v1/links"))
            .expect("links")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(left, ["totoro_send6"]);
        std::fs::remove_dir(blocked).expect("remove");
        drop(Kernel::load(&options).expect("loads"));
    });
}

#[test]
fn the_seed_of_the_sketch_is_random_and_kept() {
    let Some(node) = Node::new("seed") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        let seed = || {
            let config = Inspector::open(&options.pin_root).expect("pins").config();
            let config = config.expect("config");
            assert_ne!(config.sketch_seed, config.netns_cookie);
            config.sketch_seed
        };
        let first = seed();
        assert_ne!(first, 0);
        drop(Kernel::load(&options).expect("adopts"));
        assert_eq!(seed(), first, "kept");
        totoro_node::kernel::uninstall(&options.pin_root).expect("uninstall");
        drop(Kernel::load(&options).expect("loads"));
        assert_ne!(seed(), first, "another installation, another seed");
    });
}
