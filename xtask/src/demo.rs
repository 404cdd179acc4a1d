//! `demo`: everything built, then the story.

use std::process::Command;

use anyhow::{Context, Result, bail};

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
    let program = target().join("debug/totoro-lab");
    if args.what.is_some() {
        machine::require_kernel()?;
        leftovers::sweep();
        // Taking down is no time for compiling: the lab that was raised is the one that is there.
        if !program.is_file() {
            build()?;
        }
    } else {
        setup::run()?;
        bpf::build()?;
        build()?;
    }
    let mut lab = Command::new(&program);
    lab.arg("demo")
        .args(args.what.as_deref())
        .args(args.lab.as_deref())
        .args(args.json.then_some("--json"))
        .args(args.keep.then_some("--keep"));
    match supervise(&mut lab)? {
        Ended::Itself(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            code.with_context(|| format!("totoro-lab ended by a signal ({status})"))
        }
        Ended::Signal(signal) => Ok(128 + signal as u8),
    }
}

/// The lab without daemon and control plane, for so long.
pub(crate) fn headless(minutes: u64) -> Result<()> {
    lab("headless", &["--seconds", &(60 * minutes).to_string()])
}

/// Builds everything, then has `totoro-lab` play one of its long runs.
pub(crate) fn lab(what: &str, args: &[&str]) -> Result<()> {
    setup::run()?;
    bpf::build()?;
    build()?;
    let mut lab = Command::new(target().join("debug/totoro-lab"));
    match supervise(lab.arg(what).args(args))? {
        Ended::Itself(status) if status.success() => Ok(()),
        Ended::Itself(status) => bail!("{what} failed ({status})"),
        Ended::Signal(signal) => bail!("ended by {signal}"),
    }
}

/// Builds the whole workspace, as the tests do: with a part of it cargo would choose other features
/// of the dependencies, and each of the two commands would build anew after the other.
fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(root())
        .args(["build", "--workspace", "--locked", "--target-dir"])
        .arg(target());
    let why = "totoro-control, totoro-node, totoro-lab";
    step::run("daemons and lab", why, &mut build).map(drop)
}
