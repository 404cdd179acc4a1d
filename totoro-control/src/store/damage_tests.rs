//! Flipped bytes and cut files: refused with nothing changed, or opened with nothing lost.

use std::path::Path;

use super::*;

const CACHE: u64 = 4 << 20;

/// A store with some history, and its entries.
async fn filled(dir: &Path) -> (SledStore, Vec<Entry>) {
    let store = SledStore::open(dir, CACHE).unwrap();
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
            assert_eq!(entries(&store), whole, "something was lost in silence");
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
    let (store, whole) = filled(&live).await;
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

#[tokio::test]
async fn a_killed_store_never_loses_anything_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed, at) = (
        dir.path().join("live"),
        dir.path().join("killed"),
        dir.path().join("bad"),
    );
    let (store, whole) = filled(&live).await;
    // What a SIGKILL leaves: everything acknowledged, nothing closed.
    copy(&live, &killed);
    drop(store);
    assert!(!is_refused(&killed, &whole));
    std::fs::remove_file(killed.join("sealed")).unwrap();
    let length = std::fs::metadata(killed.join("db")).unwrap().len() as usize;
    let (mut refused, mut harmless) = (0, 0);
    for place in places(length, 60) {
        copy(&killed, &at);
        let mut content = std::fs::read(at.join("db")).unwrap();
        content[place] ^= 0x10;
        std::fs::write(at.join("db"), content).unwrap();
        match is_refused(&at, &whole) {
            true => refused += 1,
            false => harmless += 1,
        }
    }
    for part in 0..8 {
        copy(&killed, &at);
        let cut = std::fs::File::options().write(true).open(at.join("db"));
        cut.unwrap().set_len((length * part / 8) as u64).unwrap();
        match is_refused(&at, &whole) {
            true => refused += 1,
            false => harmless += 1,
        }
    }
    assert!(refused > 0);
    println!("68 damages of a killed store: {refused} refused, {harmless} without any loss");
}
