//! Fuzz targets: readers of bytes that come from outside, and what each must keep to whatever the
//! bytes are. A target panics where something does not hold.
//!
//! The tests replay the corpus and change it at random (`tests/replay.rs`); libFuzzer looks for inputs by the
//! code that they reach (`cargo xtask soak fuzz`, `fuzz/`). What breaks a target becomes a file of its corpus,
//! an input like any other from then on.

pub mod corpus;
pub mod mutate;
mod parts;
mod targets;

/// A reader, and what it must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and its corpus's directory.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Inputs that our own writers make.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 15] = [
    targets::plugin::TARGET,
    targets::ticket::TOKEN,
    targets::ticket::EDITED,
    targets::text::TARGET,
    targets::settings::NODE,
    targets::settings::CONTROL,
    targets::client::FILE,
    targets::client::LOG,
    targets::frps::TARGET,
    targets::rest::TARGET,
    targets::packet::TARGET,
    targets::node_log::TARGET,
    targets::store::TARGET,
    targets::backup::TARGET,
    targets::trail::TARGET,
];

/// The target with this name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
