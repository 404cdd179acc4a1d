//! What the node costs who uses it: connections, throughput and latency, and what a flood leaves to a
//! neighbour.

mod conns;
mod drive;
mod flood;
mod place;
mod plugin;
mod rules;
mod speed;

use std::time::Duration;

use anyhow::{Context as _, Result};
use totoro_report::Run;
use totoro_tests::lab;

use crate::Progress;

/// The columns that every part has.
const NOTHING: &str = "nothing";
const TWIN: &str = "nothing again";
const TOTORO: &str = "Totoro";

/// The processor of frps, frpc and all that is on the node, and that of users and the service. Left to the
/// scheduler, who shares one with whom differs from node to node and from second to second, and is worth more
/// than what is compared.
const NODE_CPU: usize = 0;
const USERS_CPU: usize = 1;

/// Options of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often all nodes are made anew.
    #[arg(long, default_value_t = 4)]
    pub(crate) generations: usize,
    /// Rounds of each generation in which all are measured in turn; of the flood, a quarter of them.
    #[arg(long, default_value_t = 8)]
    pub(crate) rounds: usize,
    /// How long each is measured in a round, seconds.
    #[arg(long, default_value_t = 0.4)]
    pub(crate) seconds: f64,
    /// Users who connect at once.
    #[arg(long, default_value_t = 32)]
    pub(crate) users: usize,
    /// SYNs per second of the flood beside a neighbour.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) rate: u32,
}

/// Measures.
///
/// # Errors
/// A lab can't be had, or what is measured does not work.
pub(crate) fn measure(args: &Args, only: &str, progress: &Progress) -> Result<Run> {
    // Before this process keeps to one of the machine's processors, which it tells of.
    let mut run = Run::new("tunnel");
    lab::keep_to(USERS_CPU).context("two processors are needed")?;
    run.baseline(
        NOTHING,
        "frps and frpc 0.70.1 without Totoro; frps has no web server, which Totoro asks",
    );
    run.note(
        "Each column is a node of its own in its own namespaces; all but the one that is measured are frozen. \
         frps, frpc and what is on the node run on one processor, users and the service on another. \
         All are made anew for every few rounds, each time in another order. \"Nothing again\" is a second one \
         of the first kind: how far its ratio is from 1 is what the machine's noise is worth.",
    );
    let wanted = |part: &str| part.contains(only);
    if wanted("conns") {
        conns::measure(args, &mut run, progress)?;
    }
    if wanted("speed") {
        speed::measure(args, &mut run, progress)?;
    }
    if wanted("flood") {
        flood::measure(args, &mut run, progress)?;
    }
    Ok(run)
}

/// Processor time of the thread that does the node's processor's postponed work so far. It is nobody's: packets
/// that a driver hands on by NAPI, as veth with native XDP does, and what comes too fast.
fn postponed() -> Result<Duration> {
    let name = format!("ksoftirqd/{NODE_CPU}\n");
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name) {
            let text = std::fs::read_to_string(path.join("schedstat"))?;
            let spent = text.split(' ').next().unwrap_or("").parse()?;
            return Ok(Duration::from_nanos(spent));
        }
    }
    anyhow::bail!("no {} among the processes", name.trim())
}

/// A column's samples: rounds are rows.
fn samples<T>(names: &[&str], name: &str, all: &[Vec<T>], part: impl Fn(&T) -> f64) -> Vec<f64> {
    let column = names.iter().position(|known| *known == name);
    all.iter()
        .filter_map(|round| round.get(column?).map(&part))
        .collect()
}
