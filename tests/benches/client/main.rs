//! How fast the client is, as ratios within one run: `totoro` and a stock frpc started by hand on a ready
//! file, in turns, at one node; and how soon the pages with a thousand nodes are painted. `cargo xtask bench client`; `docs/benchmarks.md` has the figures.

use std::process::ExitCode;

use clap::Parser;
use totoro_tests::clients::painted::Painted;
use totoro_tests::clients::{painted, speed};

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
    /// Loads of each page, in a browser.
    #[arg(long, default_value_t = 20)]
    loads: usize,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = measure(&args);
    totoro_tests::lab::settle();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let figures = speed::play(args.rounds, args.downloads)?;
    let pages = painted::play(args.loads)?;
    if args.json {
        let pages: Vec<_> = pages.iter().map(Painted::json).collect();
        println!(
            "{}",
            serde_json::json!({ "tunnel": figures.json(), "pages": pages })
        );
        return Ok(());
    }
    println!("{}\n\n{}", figures.table(), Painted::head());
    for page in &pages {
        println!("{}", page.row());
    }
    Ok(())
}
