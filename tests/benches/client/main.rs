//! How fast the client is, as ratios within one run: `totoro` and a stock frpc started by hand on a ready
//! file, in turns, at one node. `cargo xtask bench client`; `docs/benchmarks.md` has the figures.

use std::process::ExitCode;

use clap::Parser;
use totoro_tests::clients::speed;

/// Options.
#[derive(Debug, Parser)]
struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Starts of each.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Downloads of each, one second long.
    #[arg(long, default_value_t = 10)]
    downloads: usize,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match speed::play(args.rounds, args.downloads) {
        Ok(figures) if args.json => println!("{}", figures.json()),
        Ok(figures) => println!("{}", figures.table()),
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    totoro_tests::lab::settle();
    ExitCode::SUCCESS
}
