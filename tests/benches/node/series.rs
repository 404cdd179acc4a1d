//! What one measurement gave.

use std::time::Duration;

use totoro_report::percentile;

/// One measurement.
#[derive(Clone, Copy)]
pub(crate) struct Series {
    /// Answers.
    pub(crate) count: usize,
    /// Answers per second.
    pub(crate) rate: f64,
    /// Half of the answers took at most so long, milliseconds.
    pub(crate) p50: f64,
    /// 99 of 100 took at most so long, milliseconds.
    pub(crate) p99: f64,
}

impl Series {
    /// From how long each answer took, and all of them together.
    pub(crate) fn new(mut took: Vec<Duration>, together: Duration) -> Self {
        took.sort_unstable();
        Series {
            count: took.len(),
            rate: took.len() as f64 / together.as_secs_f64(),
            p50: percentile(&took, 50),
            p99: percentile(&took, 99),
        }
    }
}
