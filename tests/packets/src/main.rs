//! `totoro-packets`: random packets through the kernel's programs and through the model.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use totoro_packets::soak::{self, Ended, Plan};

/// Runs random packets through the kernel's programs, in random worlds, and compares verdicts, frames,
/// counters and events with a model's. As root.
#[derive(Debug, Parser)]
#[command(name = "totoro-packets", version)]
struct Args {
    /// How many packets.
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// Repeats the chance of a run.
    #[arg(long, env = "TOTORO_SEED")]
    seed: Option<u64>,
    /// Threads; by default one for each processor.
    #[arg(long)]
    threads: Option<usize>,
    /// The kernel object.
    #[arg(
        long,
        env = "TOTORO_OBJECT",
        default_value = "target/bpf/totoro-ebpf.o"
    )]
    object: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => getrandom::u64().context("a seed")?,
    };
    let there = || std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan {
        packets: args.packets,
        seed,
        threads: args.threads.unwrap_or_else(there),
        progress: true,
    };
    eprintln!("seed {seed}, {} threads", plan.threads);
    match soak::run(&args.object, plan)? {
        Ended::Same(tally) => {
            println!("{tally}\n0 differences, seed {seed}");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Differs(mismatch, packets) => {
            println!("{mismatch}\n1 difference after {packets} packets");
            Ok(ExitCode::FAILURE)
        }
    }
}
