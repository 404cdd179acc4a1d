//! How fast the client is, as ratios within one run: `totoro` and a stock frpc started by hand on a ready
//! file, in turns, at one node; and how soon the pages with a thousand nodes are painted. `cargo xtask bench client`; `docs/benchmarks.md` has the figures.

use std::process::ExitCode;

use clap::Parser;
use totoro_report::{Better, Figure, Goal, Relative, Run};
use totoro_tests::clients::painted::NODES;
use totoro_tests::clients::{painted, speed};

const STOCK: &str = "stock frpc";
/// The most that a start may take, as a multiple of the stock frpc's.
const START: f64 = 1.5;
/// The least of its throughput.
const THROUGHPUT: f64 = 0.99;
/// The most until something is painted, ms.
const PAINT: f64 = 200.0;
/// The most that a page with all that it loads may weigh, KB on the wire.
const WEIGHT: f64 = 100.0;

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
    let mut run = Run::new("client");
    run.baseline(STOCK, "frpc 0.70.1, started by hand on a ready file");
    run.note(
        "Tunnel: in turns at one node, each first as often as the other. Pages: an empty cache at each load; all \
         bytes on the wire.",
    );
    let found = speed::play(args.rounds, args.downloads)?;
    let part = "The tunnel";
    let start = Figure::new(
        part,
        "start to first byte",
        "ms",
        Better::Less,
        found.totoro_ms,
    );
    run.add(start.against(STOCK, &found.stock_ms, Some(Relative::at_most(START))));
    let mib = |rates: Vec<f64>| -> Vec<f64> {
        let rates = rates.into_iter();
        rates.map(|rate| rate / f64::from(1 << 20)).collect()
    };
    let goal = Some(Relative::at_least(THROUGHPUT));
    let (ours, stock) = (mib(found.totoro_rate), mib(found.stock_rate));
    let download = Figure::new(part, "download", "MiB/s", Better::More, ours);
    run.add(download.against(STOCK, &stock, goal));
    let part = format!("Pages with {NODES} nodes");
    for one in painted::play(args.loads)? {
        let figure = |what, unit, samples, most| {
            let name = format!("{}, {what}", one.page);
            let figure = Figure::new(&part, &name, unit, Better::Less, samples);
            figure.goal(Goal::at_most(most))
        };
        let weights = one.bytes.iter().map(|bytes| bytes / 1000.0).collect();
        run.add(figure("first paint", "ms", one.paint_ms.clone(), PAINT));
        run.add(figure("weight", "KB", weights, WEIGHT));
    }
    run.finish(args.json)?;
    Ok(())
}
