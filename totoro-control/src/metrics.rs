//! Figures for Prometheus. Every label comes from a set that is fixed here or in the table of
//! reasons: what a client sends is never a label, or it could grow our memory and the scraper's.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use totoro_api::Reason;

use crate::store::Meter;

/// Bounds of request latencies, seconds; long polls end in the last ones.
const LATENCIES: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// What is looked up when somebody asks.
#[derive(Debug, Default)]
pub struct Now {
    /// Nodes, by every state there is.
    pub nodes: Vec<(&'static str, i64)>,
    /// Records that are kept decoded, by kind.
    pub decoded: Vec<(&'static str, usize)>,
    /// Open streams and long polls of nodes.
    pub watchers: usize,
    /// Commits that wait for the store's writer.
    pub queued: usize,
    /// Events that wait in the store for a segment.
    pub audit_waiting: usize,
    /// Whether they are moved.
    pub audit_moving: bool,
    /// Segments that cannot be read as a whole.
    pub audit_damaged: usize,
    /// What segments take, bytes.
    pub audit_bytes: u64,
}

/// All figures.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    latencies: Family<Route, Histogram, fn() -> Histogram>,
    refusals: Family<ByReason, Counter>,
    tickets: Family<To, Counter>,
    nodes: Family<State, Gauge>,
    decoded: Family<Kind, Gauge>,
    watchers: Gauge,
    queued: Gauge,
    audit_waiting: Gauge,
    audit_moving: Gauge,
    audit_damaged: Gauge,
    audit_bytes: Gauge,
    resident: Gauge,
}

impl Metrics {
    /// Figures at zero, with those of the store.
    #[must_use]
    pub fn new(store: Option<Meter>) -> Self {
        let latencies: fn() -> Histogram = || Histogram::new(LATENCIES);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("totoro"),
            requests: Family::default(),
            latencies: Family::new_with_constructor(latencies),
            refusals: Family::default(),
            tickets: Family::default(),
            nodes: Family::default(),
            decoded: Family::default(),
            watchers: Gauge::default(),
            queued: Gauge::default(),
            audit_waiting: Gauge::default(),
            audit_moving: Gauge::default(),
            audit_damaged: Gauge::default(),
            audit_bytes: Gauge::default(),
            resident: Gauge::default(),
        };
        metrics.register(store);
        metrics
    }

    fn register(&mut self, store: Option<Meter>) {
        let all = &mut self.registry;
        all.register("requests", "Requests answered", self.requests.clone());
        all.register_with_unit(
            "request_duration",
            "From a request's headers to its answer's",
            Unit::Seconds,
            self.latencies.clone(),
        );
        all.register("refusals", "Requests refused", self.refusals.clone());
        all.register("tickets_issued", "Tickets issued", self.tickets.clone());
        all.register("nodes", "Nodes by state", self.nodes.clone());
        let help = "Records that the read model keeps decoded";
        all.register("read_model_records", help, self.decoded.clone());
        for (name, help, gauge) in [
            (
                "watchers",
                "Open streams and long polls of nodes",
                &self.watchers,
            ),
            ("store_queue", "Commits that wait", &self.queued),
            (
                "audit_waiting",
                "Events that wait in the store for a segment",
                &self.audit_waiting,
            ),
            (
                "audit_moving",
                "1 while events are moved to segments",
                &self.audit_moving,
            ),
            (
                "audit_damaged_segments",
                "Segments that cannot be read as a whole",
                &self.audit_damaged,
            ),
        ] {
            all.register(name, help, gauge.clone());
        }
        for (name, help, gauge) in [
            ("audit_segments", "Size of all segments", &self.audit_bytes),
            ("process_resident_memory", "Resident memory", &self.resident),
        ] {
            all.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        if let Some(Meter {
            commits,
            batches,
            syncs,
            layer,
        }) = store
        {
            all.register("store_commits", "Commits made durable", commits);
            all.register("store_batch_size", "Commits per batch", batches);
            let help = "Writing a batch and syncing it";
            all.register_with_unit("store_sync", help, Unit::Seconds, syncs);
            let help = "Changes in memory that go to sled next";
            all.register_with_unit("store_layer", help, Unit::Bytes, layer);
        }
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, path: &str, status: u16, reason: Option<Reason>, took: Duration) {
        let route = class(path);
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests
            .get_or_create(&Request { route, status })
            .inc();
        self.latencies
            .get_or_create(&Route { route })
            .observe(took.as_secs_f64());
        if let Some(reason) = reason {
            let reason = reason.code();
            self.refusals.get_or_create(&ByReason { reason }).inc();
        }
    }

    /// Counts a ticket: for an invite, or for anyone.
    pub(crate) fn ticket(&self, anonymous: bool) {
        let to = if anonymous { "anyone" } else { "invite" };
        self.tickets.get_or_create(&To { to }).inc();
    }

    /// All of it in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: text is written to memory.
    pub fn text(&self, now: &Now) -> Result<String, std::fmt::Error> {
        for &(state, count) in &now.nodes {
            self.nodes.get_or_create(&State { state }).set(count);
        }
        for &(kind, count) in &now.decoded {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.decoded.get_or_create(&Kind { kind }).set(count);
        }
        for (gauge, value) in [
            (&self.watchers, now.watchers as u64),
            (&self.queued, now.queued as u64),
            (&self.audit_waiting, now.audit_waiting as u64),
            (&self.audit_moving, u64::from(now.audit_moving)),
            (&self.audit_damaged, now.audit_damaged as u64),
            (&self.audit_bytes, now.audit_bytes),
            (&self.resident, resident()),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Resident memory, bytes; 0 where the system does not say.
fn resident() -> u64 {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    let kib = status.ok().and_then(|status| status.vmrss);
    kib.unwrap_or(0) * 1024
}

/// What a path is counted as.
fn class(path: &str) -> &'static str {
    let Some(rest) = path.strip_prefix("/api/v1/") else {
        return match path {
            "/healthz" | "/readyz" => "health",
            "/metrics" => "metrics",
            "/" => "page",
            _ => "other",
        };
    };
    let (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let second = rest.split('/').next().unwrap_or_default();
    match (first, second) {
        ("oauth", _) => "oauth",
        ("invites", "resolve") => "resolve",
        ("invites", "usage") => "usage",
        ("public", _) => "public",
        ("frps", _) => "frps",
        ("admin", _) => "admin",
        ("nodes", "heartbeat") => "heartbeat",
        ("nodes", "watch") => "watch",
        ("nodes", "events") => "events",
        ("nodes", "applied") => "applied",
        ("nodes", "enroll") => "enroll",
        ("nodes", _) => "node",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_makes_no_series() {
        let metrics = Metrics::new(None);
        for number in 0..1000 {
            for path in [
                format!("/api/v1/nodes/invites/i-{number}"),
                format!("/api/v1/x{number}/y"),
                format!("/api/v1/admin/x{number}"),
                format!("/x{number}"),
            ] {
                let reason = Some(Reason::NotFound);
                metrics.answered(&path, 404, reason, Duration::from_millis(3));
            }
        }
        metrics.ticket(true);
        let text = metrics.text(&Now::default()).unwrap();
        let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(series("totoro_requests_total"), 3, "{text}");
        assert!(text.contains("totoro_refusals_total{reason=\"not_found\"} 4000"));
        assert!(text.contains("totoro_tickets_issued_total{to=\"anyone\"} 1"));
        assert!(text.contains("totoro_request_duration_seconds_bucket{le=\"0.005\",route="));
        assert!(resident() > 1 << 20);
    }
}
