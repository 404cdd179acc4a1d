//! `bench`: figures as ratios within one run, in a release build. `docs/benchmarks.md` keeps them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{root, target};

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// The control plane's calls against a bare handler and the store's own group commit; the audit
    /// trail.
    Control {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, clients, events: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
}

/// Measures.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let Bench::Control { json, more } = bench;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["bench", "--locked", "--package", "totoro-control"])
        .args(["--bench", "control", "--"])
        .args(json.then_some("--json"))
        .args(more)
        .env("CARGO_TARGET_DIR", target());
    let status = command.status().context("start cargo bench")?;
    if !status.success() {
        bail!("the bench failed ({status})");
    }
    Ok(())
}
