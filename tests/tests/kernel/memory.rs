//! What the maps cost: the page's table, against the kernel's own figures.

use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapInfo};
use totoro_ebpf::abi;
use totoro_node::kernel::map_memory;

use crate::support::Node;

const PAGE: &str = include_str!("../../../docs/bpf-maps.md");

/// A map's line under "Memory": bytes of an entry (0 = all of it is there from the start), and the most
/// that the map ever takes, KiB.
fn stated() -> Vec<(String, u64, u64)> {
    let (_, memory) = PAGE.split_once("## Memory").expect("the section");
    let section = memory.split("\n## ").next().expect("the section");
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let mut next = || cells.next().expect("a cell").trim_matches('`');
            let name = next().to_owned();
            let number = |text: &str| text.replace(',', "").parse().expect("a number");
            (name, number(next()), number(next()))
        })
        .collect()
}

/// What the kernel says that a map takes now, bytes.
fn memlock(path: &Path) -> u64 {
    let map = MapData::from_pin(path).expect("pin");
    map_memory(map.fd().as_fd()).expect("memlock")
}

#[test]
fn no_map_takes_more_than_the_page_says() {
    let Some(node) = Node::new("memory") else {
        return;
    };
    let pins = node.options().pin_root.join("v1");
    node.run(move |_kernel| {
        let cpus = aya::util::nr_cpus().expect("CPUs") as u64;
        let counts = entries_count(&pins);
        let stated = stated();
        let mut total = 0;
        for entry in std::fs::read_dir(&pins).expect("pins").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                continue;
            }
            let one = stated.iter().find(|(map, ..)| *map == name);
            let (_, bytes, most) = one.unwrap_or_else(|| panic!("{name} is not on the page"));
            let info = MapInfo::from_pin(entry.path()).expect("info");
            let empty = memlock(&entry.path());
            // Two processors' worth is on the page.
            let more = match info.map_type().expect("type") {
                aya::maps::MapType::PerCpuHash => {
                    u64::from(info.value_size()) * cpus.saturating_sub(2)
                }
                _ => 0,
            };
            // Before 6.4 the figure is a guess of all that may be there, whatever is; of what sockets
            // have it is none.
            if !counts {
                let is_sockets = info.map_type().expect("type") == aya::maps::MapType::SkStorage;
                assert!(empty > 0 || is_sockets, "{name}");
                continue;
            }
            let full = empty + (bytes + more) * u64::from(info.max_entries());
            println!(
                "{name}: {empty} bytes empty, {} KiB at most",
                full.div_ceil(1024)
            );
            let allowed = (most + more * u64::from(info.max_entries()) / 1024) * 1024;
            assert!(
                full <= allowed,
                "{name}: {full} bytes, {allowed} on the page"
            );
            total += full;
        }
        println!("all: {} MiB at most", total >> 20);
    });
}

/// Fills a table with some entries; how much each took.
fn growth<K: aya::Pod, V: aya::Pod + Default>(path: &Path, key: impl Fn(u32) -> K) -> u64 {
    const SOME: u32 = 1_000;
    let before = memlock(path);
    let map = Map::from_map_data(MapData::from_pin(path).expect("pin")).expect("map");
    let mut map: HashMap<_, K, V> = map.try_into().expect("hash");
    for nth in 0..SOME {
        map.insert(key(nth), V::default(), 0).expect("insert");
    }
    let grown = memlock(path) - before;
    for nth in 0..SOME {
        map.remove(&key(nth)).expect("remove");
    }
    grown / u64::from(SOME)
}

/// Whether this kernel's figures are of what is there: since 6.4.
fn entries_count(pins: &Path) -> bool {
    let grown = growth::<u64, abi::Conn>(&pins.join("CONNS"), u64::from);
    if grown == 0 {
        println!("this kernel (before 6.4) does not count entries");
    }
    grown > 0
}

#[test]
fn an_entry_costs_what_the_page_says() {
    let Some(node) = Node::new("entries") else {
        return;
    };
    let pins = node.options().pin_root.join("v1");
    node.run(move |_kernel| {
        let address = |nth: u32| u128::from(nth).to_be_bytes();
        if !entries_count(&pins) {
            return;
        }
        let conns = growth::<u64, abi::Conn>(&pins.join("CONNS"), u64::from);
        let measured = [
            ("CONNS", conns),
            (
                "SOURCES",
                growth::<abi::SourceKey, abi::Source>(&pins.join("SOURCES"), |nth| {
                    abi::SourceKey {
                        prefix: address(nth),
                        ..abi::SourceKey::default()
                    }
                }),
            ),
            (
                "FLOWS",
                growth::<abi::FlowKey, abi::Flow>(&pins.join("FLOWS"), |nth| abi::FlowKey {
                    remote: address(nth),
                    ..abi::FlowKey::default()
                }),
            ),
            (
                "TENANTS",
                growth::<u32, abi::Tenant>(&pins.join("TENANTS"), |nth| nth + 100),
            ),
        ];
        for (name, bytes) in measured {
            let stated = stated();
            let (_, said, _) = stated.iter().find(|(map, ..)| map == name).expect("a line");
            assert!(bytes <= *said, "{name}: {bytes} bytes an entry, not {said}");
        }
    });
}
