//! The corpus: `corpus/<target>/`, one input a file. What begins with `seed-` is made by our own
//! writers, the rest was found.

use std::fs;
use std::path::{Path, PathBuf};

/// A target's corpus.
#[must_use]
pub fn dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

/// Inputs in such a directory by name.
///
/// # Panics
/// It can't be read.
#[must_use]
pub fn read(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let listed =
        fs::read_dir(dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display()));
    let mut found: Vec<(String, Vec<u8>)> = listed
        .map(|entry| {
            let entry = entry.expect("list the corpus");
            let bytes = fs::read(entry.path()).expect("read an input of the corpus");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    found.sort_unstable();
    found
}

/// Writes the seeds of a target anew.
///
/// # Panics
/// The disk.
pub fn bless(target: &str, seeds: &[Vec<u8>]) {
    let dir = dir(target);
    fs::create_dir_all(&dir).expect("create the corpus");
    for (name, _) in read(&dir) {
        if name.starts_with("seed-") {
            fs::remove_file(dir.join(name)).expect("remove an old seed");
        }
    }
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(dir.join(format!("seed-{number:02}")), seed).expect("write a seed");
    }
}
