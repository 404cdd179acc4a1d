//! What the writer counts of its work.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Bounds of batch sizes, commits; the last is the most there can be.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0];
/// Bounds of the time that a batch takes until it is durable, seconds.
const TIMES: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0];

/// Counts that clones share.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Commits made durable.
    pub commits: Counter,
    /// Commits per batch.
    pub batches: Histogram,
    /// How long a batch took until it was durable.
    pub syncs: Histogram,
    /// What changes take in memory that go to sled next, bytes, about.
    pub layer: Gauge,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            commits: Counter::default(),
            batches: Histogram::new(SIZES),
            syncs: Histogram::new(TIMES),
            layer: Gauge::default(),
        }
    }
}

impl Meter {
    /// A batch of so many commits is durable.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a batch has at most some hundred commits"
    )]
    pub(super) fn batch(&self, commits: usize, took: Duration) {
        self.commits.inc_by(commits as u64);
        self.batches.observe(commits as f64);
        self.syncs.observe(took.as_secs_f64());
    }
}
