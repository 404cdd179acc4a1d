//! `deny`: licences, advisories and sources of what we depend on, by cargo-deny and deny.toml.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{path, root, step};

/// Whether cargo-deny is there.
pub(crate) fn is_there() -> bool {
    path::find("cargo-deny").is_some()
}

/// Runs it.
pub(crate) fn run() -> Result<()> {
    if !is_there() {
        bail!("cargo-deny is not in PATH: cargo install cargo-deny --locked");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut deny = Command::new(cargo);
    deny.current_dir(root()).args(["deny", "check"]);
    step::run("cargo deny", "licences, advisories, sources", &mut deny).map(drop)
}
