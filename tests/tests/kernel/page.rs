//! `docs/bpf-maps.md` says of each map what the kernel says of it.

use std::collections::BTreeSet;

use aya::maps::MapInfo;

use crate::support::Node;

const PAGE: &str = include_str!("../../../docs/bpf-maps.md");
const ABI: [&str; 2] = [
    include_str!("../../../totoro-ebpf/src/abi/state.rs"),
    include_str!("../../../totoro-ebpf/src/abi/source.rs"),
];

#[test]
fn the_page_lists_every_pinned_map_as_it_is() {
    let Some(node) = Node::new("page") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |_kernel| {
        let dir = root.join(format!("v{}", totoro_ebpf::abi::VERSION));
        let mut pinned = BTreeSet::new();
        for entry in std::fs::read_dir(&dir).expect("list the pins") {
            let path = entry.expect("list").path();
            if path.is_dir() {
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let info = MapInfo::from_pin(&path).expect("open");
            let kind = format!("{:?}", info.map_type().expect("a type")).to_lowercase();
            let row = (info.key_size(), info.value_size(), info.max_entries());
            let listed = PAGE
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")))
                .unwrap_or_else(|| panic!("{name} is not on the page"));
            let cells: Vec<&str> = listed.split('|').map(str::trim).collect();
            assert_eq!(
                cells[2].trim_end_matches(", fixed").replace('_', ""),
                kind.replace('_', ""),
                "{name}"
            );
            let number = |cell: usize| cells[cell].parse::<u32>().expect("a number");
            assert_eq!((number(3), number(4), number(5)), row, "{name}");
            pinned.insert(name);
        }
        let (maps, _) = PAGE.split_once("## Reading them").expect("the section");
        let rows = maps.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, pinned.len(), "{pinned:?}");
    });
}

#[test]
fn the_page_names_every_field() {
    let fields = ABI
        .iter()
        .flat_map(|file| file.lines())
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(field, _)| field)
        .filter(|field| {
            field
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
        });
    let mut count = 0;
    for field in fields {
        assert!(
            PAGE.contains(&format!("`{field}`")),
            "{field} is not on the page"
        );
        count += 1;
    }
    assert!(count > 60, "{count} fields were found");
}
