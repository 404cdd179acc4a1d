//! `totoro-report BEFORE AFTER`: whether a run is worse than an earlier one. 0 = it is not, 1 = it is,
//! 2 = they could not be compared.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use totoro_report::{Rules, Run, compare};

/// Compares two runs of a bench.
#[derive(Debug, Parser)]
struct Args {
    /// The earlier run: its directory, or its `run.json`.
    before: PathBuf,
    /// The later one.
    after: PathBuf,
    /// The smallest change that matters, percent.
    #[arg(long, default_value_t = 5.0, value_parser = percent)]
    effect: f64,
}

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
    ExitCode::from(u8::from(comparison.is_worse()))
}
