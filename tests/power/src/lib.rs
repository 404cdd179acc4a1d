//! What a disk has after a power cut: of what a process did to the files below a directory, as
//! `totoro-recorder` saw it, what was synced, and of the rest what chance says.

mod disk;
mod trace;

use std::path::PathBuf;

pub use disk::{Disk, Unsynced};
pub use trace::{Call, Record, read};

/// The recorder, to be preloaded: cargo builds it beside the program of a test that depends on this.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn recorder() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let path = program.with_file_name("libtotoro_recorder.so");
    assert!(path.is_file(), "{} is not there", path.display());
    path
}
