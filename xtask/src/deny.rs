//! `deny`: licences, advisories and sources of what we depend on, by cargo-deny and deny.toml.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{path, root, step};

/// Whether cargo-deny is there.
pub(crate) fn is_there() -> bool {
    path::find("cargo-deny").is_some()
}

/// Everything. It fetches the database of advisories.
pub(crate) fn all() -> Result<()> {
    run(&[])
}

/// What depends on the commit alone. An advisory that was published today, or no network, must not
/// fail the test of a commit of yesterday.
pub(crate) fn lasting() -> Result<()> {
    run(&["bans", "licenses", "sources"])
}

fn run(checks: &[&str]) -> Result<()> {
    if !is_there() {
        bail!("cargo-deny is not in PATH: cargo install cargo-deny --locked");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut deny = Command::new(cargo);
    deny.current_dir(root())
        .args(["deny", "check"])
        .args(checks);
    step::run("cargo deny", "what we depend on", &mut deny).map(drop)
}
