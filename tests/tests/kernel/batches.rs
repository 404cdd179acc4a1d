//! Tables read many entries a call, against the same read one by one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use totoro_node::kernel::Table;
use totoro_tests::lab;

use crate::support;

/// `enum bpf_map_type` (include/uapi/linux/bpf.h).
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PER_CPU_HASH: u32 = 5;
const LRU_HASH: u32 = 9;
/// `BPF_F_NO_PREALLOC`, as the node's own tables have it.
const ON_DEMAND: u32 = 1;

type Hash = aya::maps::HashMap<MapData, u32, u64>;
type PerCpu = PerCpuHashMap<MapData, u32, u64>;

/// A pinned map of its own; unpinned when dropped.
struct Pinned(PathBuf);

impl Pinned {
    /// With keys of four bytes and values of eight.
    fn new(test: &str, kind: u32, flags: u32, entries: u32) -> Option<(Pinned, Map)> {
        support::object(test)?;
        let map = aya_obj::Map::Legacy(aya_obj::maps::LegacyMap {
            section_index: 0,
            section_kind: aya_obj::EbpfSectionKind::Maps,
            symbol_index: None,
            def: aya_obj::maps::bpf_map_def {
                map_type: kind,
                key_size: 4,
                value_size: 8,
                max_entries: entries,
                map_flags: flags,
                ..aya_obj::maps::bpf_map_def::default()
            },
            inner_def: None,
            data: vec![],
        });
        let map = MapData::create(map, "batches", None).expect("create");
        let dir = Path::new("/sys/fs/bpf").join(format!("totoro-kt-{test}-{}", lab::run_tag()));
        std::fs::create_dir(&dir).expect("a directory");
        let pinned = Pinned(dir);
        map.pin(pinned.path()).expect("pin");
        Some((pinned, Map::from_map_data(map).expect("map")))
    }

    fn path(&self) -> PathBuf {
        self.0.join("TABLE")
    }

    fn table(&self) -> Table<u32, u64> {
        Table::open(&self.path()).expect("a table")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All of it; each key is there once.
fn read(table: &Table<u32, u64>) -> BTreeMap<u32, u64> {
    let all = table.all().expect("read");
    let count = all.len();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), count, "no key twice");
    all
}

#[test]
fn a_table_is_read_in_batches_of_any_size() {
    let Some((pinned, map)) = Pinned::new("batch-sizes", HASH, ON_DEMAND, 4_096) else {
        return;
    };
    let mut map: Hash = map.try_into().expect("hash");
    assert!(read(&pinned.table()).is_empty() && pinned.table().is_empty().expect("read"));
    // As full as it goes: many buckets have several entries, more than fit into the smallest batch.
    for key in 0..4_096 {
        let value = u64::from(key) << 32 | 7;
        map.insert(key, value, 0).expect("insert");
    }
    let one_by_one: BTreeMap<u32, u64> = map.iter().map(|entry| entry.expect("entry")).collect();
    assert_eq!(one_by_one.len(), 4_096);
    for room in [1, 2, 7, 1_000, 100_000] {
        let table = pinned.table().with_room(room);
        assert_eq!(read(&table), one_by_one, "{room} at once");
    }
    assert_eq!(read(&pinned.table()), one_by_one);
    // One entry among thousands of empty places.
    for key in 1..4_096 {
        map.remove(&key).expect("remove");
    }
    assert_eq!(read(&pinned.table()), BTreeMap::from([(0, 7)]));
    assert!(!pinned.table().is_empty().expect("read"));
}

#[test]
fn each_cpu_has_its_value() {
    let Some((pinned, map)) = Pinned::new("batch-cpus", PER_CPU_HASH, ON_DEMAND, 5_000) else {
        return;
    };
    let mut map: PerCpu = map.try_into().expect("hash");
    let cpus = aya::util::nr_cpus().expect("CPUs") as u64;
    for key in 0..5_000u32 {
        let values: Vec<u64> = (0..cpus).map(|cpu| u64::from(key) * 1_000 + cpu).collect();
        let values = PerCpuValues::try_from(values).expect("values");
        map.insert(key, values, 0).expect("insert");
    }
    for table in [pinned.table(), pinned.table().with_room(1)] {
        let mut all = BTreeMap::new();
        let take = |key, values: &[u64]| {
            assert!(all.insert(key, values.to_vec()).is_none(), "{key} once");
        };
        table.each(take).expect("read");
        assert_eq!(all.len(), 5_000);
        for (key, values) in all {
            let one = map.get(&key, 0).expect("value");
            assert_eq!(values, one.to_vec(), "{key}");
        }
    }
}

#[test]
fn what_stays_is_read_though_others_come_and_go() {
    const STAY: u32 = 20_000;
    let Some((pinned, map)) = Pinned::new("batch-churn", HASH, ON_DEMAND, 65_536) else {
        return;
    };
    let mut map: Hash = map.try_into().expect("hash");
    for key in 0..STAY {
        map.insert(key, u64::from(key), 0).expect("insert");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                for key in STAY..2 * STAY {
                    // An old kernel's allocator may be slower than this.
                    let _ = map.insert(key, u64::from(key), 0);
                    let _ = map.remove(&(key.wrapping_mul(7) % STAY + STAY));
                }
                rounds += 1;
            }
            rounds
        });
        let mut most = 0;
        for _ in 0..100 {
            let all = read(&pinned.table());
            assert!(all.iter().all(|(key, value)| u64::from(*key) == *value));
            let stay = all.range(..STAY).count();
            assert_eq!(stay, STAY as usize);
            most = most.max(all.len());
        }
        stop.store(true, Ordering::Relaxed);
        let rounds = churn.join().expect("churn");
        println!("{rounds} rounds, up to {most} entries");
        assert!(most > STAY as usize, "others came");
    });
}

#[test]
fn other_maps_than_such_tables_are_refused() {
    let Some((array, _)) = Pinned::new("batch-array", ARRAY, 0, 4) else {
        return;
    };
    let error = Table::<u32, u64>::open(&array.path())
        .err()
        .expect("refused");
    assert!(error.whole().contains("Array"), "{}", error.whole());
    let (lru, map) = Pinned::new("batch-lru", LRU_HASH, 0, 128).expect("as before");
    let mut map: Hash = map.try_into().expect("hash");
    for key in 0..64u32 {
        map.insert(key, u64::from(key), 0).expect("insert");
    }
    let there: HashMap<u32, u64> = map.iter().map(|entry| entry.expect("entry")).collect();
    assert_eq!(read(&lru.table()), there.into_iter().collect());
    let error = Table::<u64, u64>::open(&lru.path()).err().expect("refused");
    assert!(error.whole().contains("bytes"), "{}", error.whole());
    assert!(Table::<u32, u32>::open(&lru.path()).is_err());
}
