//! `totoro-report BEFORE AFTER`: whether a run is worse than an earlier one, by its exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use totoro_report::{Answer, Rules, Run, compare};

/// Compares two runs of a bench.
#[derive(Debug, Parser)]
#[command(after_help = EXITS)]
struct Args {
    /// The earlier run: its directory, or its `run.json`.
    before: PathBuf,
    /// The later one.
    after: PathBuf,
    /// The smallest change that matters, percent.
    #[arg(long, default_value_t = 5.0, value_parser = percent)]
    effect: f64,
}

const EXITS: &str = "\
Exit codes:
  0  Not worse: no figure is, by more than chance, and no goal is lost, loosened or gone.
  1  Worse.
  2  The runs could not be read.
  3  Can't tell: nothing is known to be worse, but figures have too few repeats to say so,
     or there is nothing to compare.";

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1_000.0).contains(&value) {
        Ok(value)
    } else {
        Err("between 0 and 1000".to_owned())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runs = Run::read(&args.before).and_then(|before| Ok((before, Run::read(&args.after)?)));
    let (before, after) = match runs {
        Ok(runs) => runs,
        Err(error) => {
            eprintln!("error: {error}: give two runs below target/bench/");
            return ExitCode::from(2);
        }
    };
    let rules = Rules {
        effect: args.effect / 100.0,
        ..Rules::default()
    };
    let comparison = compare(&before, &after, rules);
    println!("{comparison}");
    match comparison.answer() {
        Answer::NotWorse => ExitCode::SUCCESS,
        Answer::Worse => ExitCode::from(1),
        Answer::CantTell => ExitCode::from(3),
    }
}
