//! What the limits are worth, and what the node costs: `cargo xtask bench accuracy` and `cargo xtask bench
//! tunnel`. Real programs in the kernel, real frps and frpc, real sockets in namespaces of the run's own;
//! what is compared is measured in turn within one run. `docs/benchmarks.md` has the figures.

mod accuracy;
mod net;
mod tunnel;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use totoro_tests::lab;

/// Options.
#[derive(Debug, Parser)]
struct Args {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Only parts whose name has this in it.
    #[arg(long, default_value = "", global = true)]
    only: String,
    #[command(subcommand)]
    suite: Suite,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Suite {
    /// How exact the limits and the counts are. Parts: bursts, cut, traffic, flows.
    Accuracy(accuracy::Args),
    /// What the node costs who uses it. Parts: conns, speed, flood.
    Tunnel(tunnel::Args),
}

/// Says on stderr how far it is.
struct Progress(Instant);

impl Progress {
    fn says(&self, what: &str) {
        eprintln!("{:6.1} s: {what}", self.0.elapsed().as_secs_f64());
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = lab::watch_signals().and_then(|()| measure(&args));
    // A signal's exit code goes before ours.
    lab::settle();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    // A user of a burst is a descriptor.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let progress = Progress(Instant::now());
    let mut run = match &args.suite {
        Suite::Accuracy(of) => accuracy::measure(of, &args.only, &progress)?,
        Suite::Tunnel(of) => tunnel::measure(of, &args.only, &progress)?,
    };
    run.only("--only", &args.only);
    run.finish(args.json)?;
    Ok(())
}
