//! What frps asked, how it was answered, and how long that took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Bounds of latencies, seconds: a decision takes one commit to the disk.
const LATENCIES: [f64; 9] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    op: &'static str,
    answer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Op {
    op: &'static str,
}

/// Counts of the plugin endpoint; a clone counts the same.
#[derive(Clone)]
pub struct Meter {
    asked: Family<Asked, Counter>,
    took: Family<Op, Histogram, fn() -> Histogram>,
}

impl Default for Meter {
    fn default() -> Self {
        let took: fn() -> Histogram = || Histogram::new(LATENCIES);
        Meter {
            asked: Family::default(),
            took: Family::new_with_constructor(took),
        }
    }
}

impl Meter {
    /// One request was answered. Operations that are not served are one label.
    pub(super) fn answered(&self, op: &str, refused: bool, took: Duration) {
        let op = ["Login", "NewProxy", "CloseProxy"]
            .into_iter()
            .find(|known| *known == op)
            .unwrap_or("other");
        let answer = if refused { "refused" } else { "allowed" };
        self.asked.get_or_create(&Asked { op, answer }).inc();
        self.took
            .get_or_create(&Op { op })
            .observe(took.as_secs_f64());
    }

    /// Adds the figures.
    pub fn register(&self, all: &mut Registry) {
        let help = "Requests of frps";
        all.register("plugin_requests", help, self.asked.clone());
        let help = "From a request's headers to its answer";
        all.register_with_unit(
            "plugin_request_duration",
            help,
            Unit::Seconds,
            self.took.clone(),
        );
    }
}
