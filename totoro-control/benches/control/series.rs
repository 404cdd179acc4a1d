//! What one measurement gave.

use std::time::Duration;

use totoro_report::percentile;

/// One measurement.
#[derive(Clone, Copy)]
pub(crate) struct Series {
    /// Answers per second.
    pub(crate) rate: f64,
    /// Half of the answers took at most so long, milliseconds.
    pub(crate) p50: f64,
    /// 99 of 100 took at most so long, milliseconds.
    pub(crate) p99: f64,
    /// What the answering process took of a core for each, microseconds.
    pub(crate) cpu: f64,
}

/// What a process has taken of all cores so far.
pub(crate) fn cpu_of(pid: i32) -> Duration {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    let stat = stat.unwrap();
    let ticks = (stat.utime + stat.stime) as f64;
    Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64)
}

impl Series {
    /// From how long each answer took, and all of them together, and the process that answered.
    pub(crate) fn new(mut took: Vec<Duration>, together: Duration, cpu: Duration) -> Self {
        took.sort_unstable();
        Series {
            rate: took.len() as f64 / together.as_secs_f64(),
            p50: percentile(&took, 50),
            p99: percentile(&took, 99),
            cpu: cpu.as_secs_f64() * 1e6 / took.len() as f64,
        }
    }
}
