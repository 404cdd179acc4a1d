//! Flipped bytes and cut files: refused with nothing changed, or opened with nothing lost.

use std::path::Path;

use super::wal::Wal;
use super::writer::Bounds;
use super::*;

const CACHE: u64 = 4 << 20;
/// How long the copy of a lock may live that a process got by a fork, until its exec.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A store with some history, and its entries.
async fn filled(dir: &Path, bounds: Bounds) -> (SledStore, Vec<Entry>) {
    let store = SledStore::open_with(dir, CACHE, bounds, Box::new(Wal::sync)).unwrap();
    for round in 0..60_u32 {
        let ops = (0..40).map(|index| {
            let key = format!("k/{:04}", (index * 37 + round * 11) % 997);
            Op::Put(key.into_bytes(), vec![b'v'; 200])
        });
        let mut ops: Vec<Op> = ops.collect();
        ops.push(Op::Append(b"log/".to_vec(), vec![1; 100]));
        let expect = vec![];
        store.commit(Commit { expect, ops }).await.unwrap();
    }
    let all = entries(&store);
    (store, all)
}

fn entries(store: &SledStore) -> Vec<Entry> {
    let range = Range {
        from: b"",
        to: b"\xff",
        limit: usize::MAX,
        reverse: false,
    };
    store.range(range).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn bytes(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let content = if path.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            (path, content)
        })
        .collect();
    found.sort();
    found
}

/// Opens what was damaged: true if it was refused as it must be, false if nothing was lost.
fn is_refused(at: &Path, whole: &[Entry]) -> bool {
    let before = bytes(at);
    match tests::try_open(at) {
        Ok(store) => {
            let found = entries(&store);
            let differs = |one: &[Entry], other: &[Entry]| -> Vec<(String, u64)> {
                let but = one.iter().filter(|entry| !other.contains(entry));
                but.map(|(key, at)| (String::from_utf8_lossy(key).into_owned(), at.revision))
                    .collect()
            };
            let (lost, alien) = (differs(whole, &found), differs(&found, whole));
            assert!(
                lost.is_empty() && alien.is_empty(),
                "in silence: lost {lost:?}, instead {alien:?}"
            );
            false
        }
        Err(StoreError::Unusable { problem, .. }) => {
            assert!(problem.contains("totoro-control restore"), "{problem}");
            assert_eq!(bytes(at), before, "it was changed");
            true
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Places all over a file.
fn places(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| (index * 2_654_435_761) % length)
}

#[tokio::test]
async fn a_closed_store_is_refused_whatever_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (live, at) = (dir.path().join("live"), dir.path().join("bad"));
    let (store, whole) = filled(&live, Bounds::USUAL).await;
    drop(store);
    for file in ["db", "conf", "sealed"] {
        let length = std::fs::metadata(live.join(file)).unwrap().len() as usize;
        for place in places(length, 24) {
            copy(&live, &at);
            let mut content = std::fs::read(at.join(file)).unwrap();
            content[place] ^= 0x10;
            std::fs::write(at.join(file), content).unwrap();
            // The seal's own spaces are the only bytes that mean nothing.
            assert!(
                is_refused(&at, &whole) || file == "sealed",
                "{file} {place}"
            );
        }
        copy(&live, &at);
        let cut = std::fs::File::options().write(true).open(at.join(file));
        cut.unwrap().set_len(length as u64 / 2).unwrap();
        assert!(is_refused(&at, &whole), "{file} cut");
        if file != "sealed" {
            copy(&live, &at);
            std::fs::remove_file(at.join(file)).unwrap();
            assert!(is_refused(&at, &whole), "{file} removed");
        }
    }
    copy(&live, &at);
    assert!(!is_refused(&at, &whole), "undamaged it opens");
    // That opening was closed again: sealed anew.
    assert!(examine(&at).unwrap().unwrap().sealed);
}

/// The names of sled's file and of the log's.
fn files_of(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = names
        .filter(|name| name == "db" || name.starts_with("wal."))
        .collect();
    files.sort_unstable();
    files
}

/// A store killed while nothing was on its way to sled, and what it held.
async fn killed_at_rest(dir: &Path, bounds: Bounds) -> Vec<Entry> {
    let live = dir.with_extension("live");
    let (store, whole) = filled(&live, bounds).await;
    // Then a copy is what a SIGKILL at one moment leaves.
    while files_of(&live).len() > 2 {
        tokio::task::yield_now().await;
    }
    copy(&live, dir);
    drop(store);
    whole
}

#[tokio::test]
async fn a_killed_store_never_loses_anything_in_silence() {
    let mostly_in_sled = Bounds {
        layer: 100_000,
        log: 40_000,
    };
    for state in ["in the log", "mostly in sled", "on its way"] {
        let dir = tempfile::tempdir().unwrap();
        let (killed, at) = (dir.path().join("killed"), dir.path().join("bad"));
        let whole = match state {
            "in the log" => killed_at_rest(&killed, Bounds::USUAL).await,
            "mostly in sled" => killed_at_rest(&killed, mostly_in_sled).await,
            _ => killed_midway(&killed, 90).await.0,
        };
        copy(&killed, &at);
        assert!(!is_refused(&at, &whole));
        let (mut refused, mut harmless) = (0, 0);
        let mut count = |is_refused: bool| match is_refused {
            true => refused += 1,
            false => harmless += 1,
        };
        for file in files_of(&killed) {
            let length = std::fs::metadata(killed.join(&file)).unwrap().len() as usize;
            for place in places(length, 40) {
                copy(&killed, &at);
                let mut content = std::fs::read(at.join(&file)).unwrap();
                content[place] ^= 0x10;
                std::fs::write(at.join(&file), content).unwrap();
                println!("{file}: a bit of byte {place} of {length}");
                count(is_refused(&at, &whole));
            }
            for part in 0..8 {
                copy(&killed, &at);
                let cut = std::fs::File::options().write(true).open(at.join(&file));
                cut.unwrap().set_len((length * part / 8) as u64).unwrap();
                println!("{file}: {part} of 8 parts");
                count(is_refused(&at, &whole));
            }
            copy(&killed, &at);
            std::fs::remove_file(at.join(&file)).unwrap();
            count(is_refused(&at, &whole));
        }
        assert!(refused > 0);
        println!(
            "{} damages of a killed store, {state}: {refused} refused, {harmless} without any loss",
            refused + harmless
        );
    }
}

/// A store killed while a layer went to sled: what it held, and some entries that sled alone has.
async fn killed_midway(dir: &Path, part: usize) -> (Vec<Entry>, Vec<Entry>) {
    let live = dir.with_extension("live");
    drop(filled(&live, Bounds::USUAL).await);
    // All of that is in sled; what comes now is in the log.
    let store = tests::open(&live);
    let fresh = |key: &str, value: u8| Op::Put(key.as_bytes().to_vec(), vec![value; 300]);
    for round in 0..40_u8 {
        let ops = (0..9).map(|index| match index {
            0 => Op::Delete(format!("k/{:04}", u32::from(round) * 5).into_bytes()),
            1..5 => fresh(&format!("k/{:04}", u32::from(round) * 7 + index), round),
            _ => fresh(&format!("n/{round}/{index}"), round),
        });
        let (expect, ops) = (vec![], ops.collect());
        store.commit(Commit { expect, ops }).await.unwrap();
    }
    let whole = entries(&store);
    copy(&live, dir);
    drop(store);
    std::fs::remove_dir_all(&live).unwrap();
    let db = ::sled::open(dir).unwrap();
    let head = db.get(super::writer::HEAD_KEY).unwrap().unwrap();
    let head = super::writer::Head::decode(&head).unwrap();
    let mut layer = super::view::Layer::default();
    let end = super::wal::replay(dir, head, |change| {
        layer.apply(change.key, change.revision, change.value, false);
    });
    let sum = super::sum::Sum::of(&db).unwrap();
    let target = super::sum::Target {
        revision: end.unwrap().head.revision,
        sum: sum.with(&layer, &db).unwrap(),
    };
    target.write(dir).unwrap();
    let only_below = |(key, _): &&Entry| layer.iter().all(|(above, _)| above != key);
    let below = whole.iter().filter(only_below).cloned().collect();
    for (key, slot) in layer.iter().take(part) {
        let key = super::writer::data_key(key);
        match &slot.value {
            Some(value) => db.insert(key, super::writer::join(slot.revision, value)),
            None => db.remove(key),
        }
        .unwrap();
    }
    (whole, below)
}

#[tokio::test]
async fn a_snapshot_that_was_half_written_at_a_kill_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed, at) = (
        dir.path().join("first"),
        dir.path().join("killed"),
        dir.path().join("half"),
    );
    let whole = killed_at_rest(&live, Bounds::USUAL).await;
    // Its second start leaves a snapshot.
    let store = tests::try_open(&live).unwrap();
    copy(&live, &killed);
    drop(store);
    let mut names = std::fs::read_dir(&killed).unwrap();
    let snapshot = names.find_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("snap.").then(|| std::fs::read(&path))
    });
    let snapshot = snapshot.unwrap().unwrap();
    for length in [0, 12, snapshot.len() - 1, snapshot.len()] {
        copy(&killed, &at);
        // As a power cut leaves it that keeps a name and not all of what was written.
        let half = at.join("snap.7FFFFFFFFFFFFFFF.generating");
        std::fs::write(&half, &snapshot[..length]).unwrap();
        assert!(!is_refused(&at, &whole), "{length} bytes");
        assert!(!half.exists());
    }
}

#[tokio::test]
async fn what_another_is_writing_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let killed = dir.path().join("killed");
    killed_at_rest(&killed, Bounds::USUAL).await;
    let half = "snap.7FFFFFFFFFFFFFFF.generating";
    std::fs::write(killed.join(half), b"").unwrap();
    let held = seal::lock(&killed, PATIENCE).unwrap();
    let refused = examine::before_opening(&killed);
    assert!(matches!(refused, Err(StoreError::InUse { .. })));
    assert!(killed.join(half).exists());
    drop(held);
    // Once the lock is free again whoever has it next may be writing one: it is gone by then.
    examine::before_opening(&killed).unwrap();
    assert!(!killed.join(half).exists());
    // Where there is nothing to lock yet, another may be making a store.
    let young = dir.path().join("young");
    std::fs::create_dir(&young).unwrap();
    std::fs::write(young.join(half), b"").unwrap();
    assert!(examine::before_opening(&young).unwrap().is_none());
    assert!(young.join(half).exists());
}

#[tokio::test]
async fn a_checkpoint_that_was_killed_midway_is_read_over() {
    for part in [0, 1, 90, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let (killed, at) = (dir.path().join("killed"), dir.path().join("bad"));
        let (whole, below) = killed_midway(&killed, part).await;
        copy(&killed, &at);
        assert!(!is_refused(&at, &whole), "{part} of its changes");
        assert!(!is_refused(&at, &whole), "and once more");
        // What sled forgets, the log does not speak of.
        for (key, found) in [&below[0], &below[below.len() / 2]] {
            let key = super::writer::data_key(key);
            for stands in [None, Some(found.revision - 1)] {
                copy(&killed, &at);
                let db = ::sled::open(&at).unwrap();
                match stands {
                    None => db.remove(&key),
                    Some(older) => db.insert(&key, super::writer::join(older, b"old")),
                }
                .unwrap();
                drop(db);
                assert!(is_refused(&at, &whole), "{part} of its changes");
            }
        }
    }
}

#[tokio::test]
async fn a_store_from_before_there_was_a_log_is_opened() {
    use super::writer::{HEAD_KEY, Head, data_key, join};
    let dir = tempfile::tempdir().unwrap();
    let db = ::sled::open(dir.path()).unwrap();
    let head = Head {
        revision: 9,
        day: 20_000,
    };
    db.insert(b"mformat", b"totoro-control 1").unwrap();
    db.insert(HEAD_KEY, &head.encode()).unwrap();
    db.insert(data_key(b"k"), join(9, b"v")).unwrap();
    drop(db);
    for _ in 0..2 {
        let store = tests::open(dir.path());
        let found = store.get(b"k").unwrap().unwrap();
        assert_eq!((found.revision, &found.value[..]), (9, &b"v"[..]));
        assert!(*store.watch(b"k/").borrow() > 9);
    }
    let schema = examine(dir.path()).unwrap().unwrap().schema;
    assert_eq!(schema, 2);
}
