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
    /// How late clients that waited for their turn woke up, half of them and 99 of 100 at most, milliseconds; NaN
    /// where none waited. It is in what answers took.
    pub(crate) woke_p50: f64,
    pub(crate) woke_p99: f64,
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
            woke_p50: f64::NAN,
            woke_p99: f64::NAN,
        }
    }

    /// With how late its clients woke up.
    pub(crate) fn woken(self, mut late: Vec<Duration>) -> Self {
        late.sort_unstable();
        Series {
            woke_p50: percentile(&late, 50),
            woke_p99: percentile(&late, 99),
            ..self
        }
    }
}
