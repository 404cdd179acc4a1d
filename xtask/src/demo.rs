//! `demo`: everything built, then the story.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{bpf, machine, root, setup, step, target};

/// Options of `demo`; all but `down` are handed to the lab.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `down` removes a lab that `--keep` left.
    #[arg(value_parser = ["down"])]
    what: Option<String>,
    /// One JSON object per check.
    #[arg(long)]
    json: bool,
    /// Leave the lab running, and write target/demo/lab.env.
    #[arg(long)]
    keep: bool,
}

/// Builds, then becomes the lab: Ctrl-C reaches it directly, and its exit code is ours.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.what.is_none() {
        setup::run()?;
        bpf::build()?;
    } else {
        machine::require_kernel()?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root()).args(["build", "--locked"]);
    build.args([
        "-p",
        "totoro-control",
        "-p",
        "totoro-node",
        "-p",
        "totoro-tests",
    ]);
    build.arg("--target-dir").arg(target());
    step::run(
        "daemons and lab",
        "totoro-control, totoro-node, totoro-lab",
        &mut build,
    )?;

    let mut lab = Command::new(target().join("debug/totoro-lab"));
    lab.arg("demo").args(args.what.as_deref());
    lab.args(args.json.then_some("--json"))
        .args(args.keep.then_some("--keep"));
    Err(lab.exec()).context("start target/debug/totoro-lab")
}
