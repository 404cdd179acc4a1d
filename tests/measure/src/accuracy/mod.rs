//! How exact: limits under bursts, the end of a tunnel, counters beside a capture, UDP flows.

mod account;
mod bursts;
mod cell;
mod cut;
mod explain;
mod field;
mod flows;
mod groups;
mod refusals;
mod stage;
mod traffic;
mod visitors;

use anyhow::Result;
use totoro_report::Run;

use crate::Progress;

const BURSTS: [usize; 4] = [10, 100, 1_000, 5_000];
const LIMITS: [u32; 4] = [1, 5, 100, 1_000];

/// Options of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each part is played.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Users of a burst.
    #[arg(long, value_delimiter = ',', default_values_t = BURSTS)]
    pub(crate) bursts: Vec<usize>,
    /// What an invite may have of connections.
    #[arg(long, value_delimiter = ',', default_values_t = LIMITS)]
    pub(crate) limits: Vec<u32>,
}

/// Measures.
///
/// # Errors
/// A lab can't be had, or something does not answer.
pub(crate) fn measure(args: &Args, only: &str, progress: &Progress) -> Result<Run> {
    let mut run = Run::new("accuracy");
    let wanted = |part: &str| part.contains(only);
    run.only("--bursts", &unless(&args.bursts, &BURSTS));
    run.only("--limits", &unless(&args.limits, &LIMITS));
    if wanted("bursts") {
        bursts::measure(args, &mut run, progress)?;
    }
    if wanted("cut") {
        cut::measure(args, &mut run, progress)?;
    }
    if wanted("traffic") {
        traffic::measure(args, &mut run, progress)?;
    }
    if wanted("flows") {
        flows::measure(args, &mut run, progress)?;
    }
    Ok(run)
}

/// What was given, unless it is the default.
fn unless<T: PartialEq + ToString>(given: &[T], default: &[T]) -> String {
    if given == default {
        return String::new();
    }
    let given: Vec<String> = given.iter().map(ToString::to_string).collect();
    given.join(",")
}
