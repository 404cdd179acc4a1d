//! Damaged logs: a torn end is cut off, anything else refused, and nothing panics.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::tests::{Model, NEXT_SEQ, TINY, cases, contents, dir};
use super::*;

/// Large enough that nothing is cleaned.
const LAZY: Sizes = Sizes {
    least: 1 << 20,
    ..TINY
};

fn put(log: &mut Log, key: &str, length: usize) {
    let mut ops = Ops::default();
    ops.push(Kind::Put, 1, key.as_bytes(), &vec![b'v'; length]);
    log.commit(&ops).unwrap();
}

/// Some files; what was there after each batch, the newest last.
fn written(dir: &Path) -> Vec<Index> {
    let mut log = Log::open(dir, LAZY).unwrap();
    let mut all = vec![log.index.clone()];
    for n in 0..60 {
        put(&mut log, &format!("key/{}", n % 50), 100 + n);
        all.push(log.index.clone());
    }
    assert_eq!(log.newest.number, 3);
    all
}

fn read(dir: &Path) -> Result<Index> {
    replay::replay(&Disk::under(dir)).map(|(index, _)| index)
}

#[test]
fn a_damaged_byte_is_a_torn_end_or_a_refusal() {
    let dir = dir();
    let all = written(dir.path());
    let [.., before, last] = &all[..] else {
        panic!("nothing was written")
    };
    assert_eq!(&read(dir.path()).unwrap(), last);
    let (mut cut, mut refused) = (0, 0);
    for number in 1..=3 {
        let path = dir.path().join(Disk::name(number));
        let bytes = std::fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for (at, held) in bytes.iter().copied().enumerate() {
            let write = |byte| file.write_all_at(&[byte], at as u64).unwrap();
            write(held ^ 0x10);
            match read(dir.path()) {
                Ok(index) if index == *before => cut += 1,
                Ok(index) => {
                    assert_eq!(&index, last, "{number} {at}");
                    assert!(at as u64 >= last.space.end(number), "{number} {at}");
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    assert!(error.contains("Nothing was changed"), "{error}");
                    assert!(error.contains("log.000"), "{error}");
                    refused += 1;
                }
            }
            write(held);
        }
    }
    // Of the last batch each byte.
    let length = last.space.end(3) - before.space.end(3);
    assert_eq!(cut, length);
    assert!(refused > 9000, "{refused}");
}

#[test]
fn a_newest_file_of_any_length_loses_what_is_cut_off_and_an_older_one_is_refused() {
    let dir = dir();
    let all = written(dir.path());
    let last = all.last().unwrap();
    // There is none ahead of a file that is not half written, least of all of one without a header.
    std::fs::remove_file(dir.path().join(Disk::name(4))).unwrap();
    for number in 1..=3 {
        let path = dir.path().join(Disk::name(number));
        let bytes = std::fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for length in (0..bytes.len()).rev() {
            file.set_len(length as u64).unwrap();
            let whole = length as u64 >= last.space.end(number);
            match read(dir.path()) {
                Ok(index) if number == 3 => {
                    let found = index.all(1);
                    assert!(all.iter().any(|once| once.all(1) == found), "{length}");
                }
                Ok(index) => assert!(whole && index == *last, "{number} {length}"),
                Err(error) => assert!(number < 3 && !whole, "{number} {length}: {error:#}"),
            }
        }
        std::fs::remove_file(&path).unwrap();
        // No one knows of a newest file that is gone.
        assert_eq!(read(dir.path()).is_ok(), number == 3, "{number}");
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn another_version_is_said_and_left_as_it_is() {
    let dir = dir();
    drop(Log::open(dir.path(), TINY).map(|mut log| put(&mut log, "a", 1)));
    let path = dir.path().join(Disk::name(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4] = 2;
    let sum = crc32fast::hash(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let before = contents(dir.path());
    let Err(error) = Log::open(dir.path(), TINY) else {
        panic!("it was opened")
    };
    assert!(error.to_string().contains("format 2"), "{error:#}");
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn files_that_were_no_more_needed_do_no_harm_when_a_power_cut_brings_them_back() {
    let dir = dir();
    let mut log = Log::open(dir.path(), TINY).unwrap();
    let mut once = BTreeMap::new();
    for n in 0..400 {
        put(&mut log, &format!("key/{}", n * 7 % 20), 100);
        let mut ops = Ops::default();
        ops.push(
            Kind::Remove,
            1,
            format!("key/{}", n * 3 % 20).as_bytes(),
            &[],
        );
        let next = n.to_string();
        ops.push(Kind::Put, META.number, NEXT_SEQ.as_bytes(), next.as_bytes());
        log.commit(&ops).unwrap();
        once.extend(contents(dir.path()));
    }
    let (oldest, model) = (log.index.oldest, Model::of(&log));
    assert!(oldest > 8, "{oldest}");
    drop(log);
    let now = contents(dir.path());
    let gone = |number: u32| once[&Disk::name(number)].clone();
    for back in 0..64_u32 {
        for (name, bytes) in &now {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        for bit in (0..6).filter(|bit| back & 1 << bit != 0) {
            let number = oldest - 1 - bit;
            std::fs::write(dir.path().join(Disk::name(number)), gone(number)).unwrap();
        }
        let log = Log::open(dir.path(), TINY).unwrap();
        assert_eq!(Model::of(&log), model, "{back:b}");
        assert!(!dir.path().join(Disk::name(oldest - 1)).exists());
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn no_bytes_make_it_panic(
        random in prop::collection::vec(any::<u8>(), 0..400),
        splices in prop::collection::vec((0..3_u32, 0..5000_usize, 0..5000_usize, 0..60_usize), 0..4),
        huge in prop::option::of((0..5000_usize, any::<u32>())),
    ) {
        let dir = dir();
        written(dir.path());
        let files = contents(dir.path());
        let all: Vec<u8> = (1..=3).flat_map(|number| files[&Disk::name(number)].clone()).collect();
        for (number, to, from, length) in splices {
            let path = dir.path().join(Disk::name(number + 1));
            let mut bytes = std::fs::read(&path).unwrap();
            let to = to.min(bytes.len() - length);
            bytes[to..to + length].copy_from_slice(&all[from..from + length]);
            std::fs::write(&path, bytes).unwrap();
        }
        if let Some((at, length)) = huge {
            let path = dir.path().join(Disk::name(3));
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.min(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
        }
        if let Ok(mut log) = Log::open(dir.path(), TINY) {
            put(&mut log, "more", 10);
        }
        // Nothing but such bytes, as a file and as ops that have the right sum.
        let _ = format::later(&random, 0);
        let _ = format::Header::decode(&random);
        let _ = Index::default().apply(&random, 1, 0);
        let mut ops = Ops::default();
        let (key, value) = random.split_at(random.len() / 4);
        for kind in [Kind::Put, Kind::Event, Kind::Drop, Kind::Oldest, Kind::Remove] {
            ops.push(kind, 0, key, value);
            let _ = Index::default().apply(ops.bytes(), u32::MAX, u64::from(u32::MAX) - 40);
        }
        std::fs::write(dir.path().join(Disk::name(3)), &random).unwrap();
        let _ = read(dir.path());
    }
}
