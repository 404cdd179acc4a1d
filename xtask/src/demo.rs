//! `demo`: everything built, then the story.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::signals::{Ended, supervise};
use crate::{bpf, leftovers, machine, root, setup, step, target};

/// Options of `demo`; they are handed to the lab.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `down` removes labs that `--keep` left.
    #[arg(value_parser = ["down"])]
    what: Option<String>,
    /// With `down`: only this lab.
    lab: Option<String>,
    /// One JSON object per check, then one with both counts; the last line stays `N passed, N
    /// failed`.
    #[arg(long)]
    json: bool,
    /// Leave the lab running, and write target/demo/lab.env.
    #[arg(long)]
    keep: bool,
}

/// Builds, then runs the lab; its exit code is ours.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let words: Vec<String> = [
        args.what.clone(),
        args.lab.clone(),
        args.json.then(|| "--json".to_owned()),
        args.keep.then(|| "--keep".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    if args.what.is_none() {
        return lab("demo", &words);
    }
    machine::require_kernel()?;
    leftovers::sweep();
    // Taking down is no time for compiling: the lab that was raised is the one that is there.
    if !program().is_file() {
        build()?;
    }
    start("demo", &words)
}

/// Sets up and builds, then has the lab do this; its exit code.
pub(crate) fn lab(what: &str, words: &[String]) -> Result<u8> {
    setup::run()?;
    bpf::build()?;
    build()?;
    start(what, words)
}

fn program() -> PathBuf {
    target().join("debug/totoro-lab")
}

fn start(what: &str, words: &[String]) -> Result<u8> {
    match supervise(Command::new(program()).arg(what).args(words))? {
        Ended::Itself(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            code.with_context(|| format!("totoro-lab ended by a signal ({status})"))
        }
        Ended::Signal(signal) => Ok(128 + signal as u8),
    }
}

/// Builds the whole workspace, as the tests do: with a part of it cargo would choose other features
/// of the dependencies, and each of the two commands would build anew after the other.
pub(crate) fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(root())
        .args(["build", "--workspace", "--locked", "--target-dir"])
        .arg(target());
    let why = "totoro-control, totoro-node, totoro-lab";
    step::run("daemons and lab", why, &mut build).map(drop)
}
