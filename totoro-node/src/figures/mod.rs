//! The node's figures for Prometheus, looked up when somebody asks. Labels come from fixed sets and
//! from this machine's interfaces: neither a tenant's name nor an address is one.

mod condition;
mod server;

use std::sync::Arc;

use anyhow::{Context, Result};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Clock;
use crate::health::{Health, missing};
use crate::kernel::{Kernel, Lost};
use crate::plugin::Meter;
use crate::session::{Desk, Report};
use crate::spool::{Size, Spool};

pub use condition::Condition;
pub use server::serve;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Protocol {
    protocol: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Interface {
    interface: String,
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPlace {
    place: &'static str,
}

/// Where figures are looked up.
pub struct Sources {
    /// Sessions, leases, and what was mended.
    pub desk: Arc<Desk>,
    /// Programs and interfaces.
    pub kernel: Arc<Kernel>,
    /// Events that wait.
    pub spool: Spool,
    /// The control plane's clock.
    pub clock: Arc<Clock>,
    /// When the control plane last answered.
    pub health: Health,
    /// What frps asked.
    pub plugin: Meter,
}

/// What was looked up at one time.
#[derive(Default)]
struct Now {
    report: Report,
    interfaces: Vec<(String, &'static str)>,
    missing: usize,
    untidy: bool,
    spool: Size,
    lost: Lost,
    clock_offset_ms: i64,
    silent_s: Option<u64>,
    frps_answers: bool,
    stuck: usize,
    generation: u64,
    rev: u64,
}

impl Sources {
    /// All of it in the OpenMetrics text format.
    ///
    /// # Errors
    /// The maps or the spool can't be read.
    pub fn text(&self) -> Result<String> {
        let filters = self.kernel.filters();
        let revision = self.desk.revision();
        let now = Now {
            report: self.desk.totals()?,
            interfaces: filters
                .into_iter()
                .map(|one| (one.interface, one.mode))
                .collect(),
            missing: missing(&self.kernel, &self.desk).len(),
            untidy: self.desk.untidy().is_some(),
            spool: self.spool.size()?,
            lost: self.kernel.lost()?,
            clock_offset_ms: self.clock.offset_ms(),
            silent_s: self.health.silent_s(),
            frps_answers: self.health.frps_answers(),
            stuck: self.desk.stuck().len(),
            generation: revision.generation,
            rev: revision.rev,
        };
        let mut all = Registry::with_prefix("totoro_node");
        let help = "Records and truth that differed, and were brought in line";
        all.register("mended", help, self.desk.mended.family());
        self.plugin.register(&mut all);
        now.register(&mut all);
        let mut text = String::new();
        text::encode(&mut text, &all).context("write the figures")?;
        Ok(text)
    }
}

impl Now {
    fn register(&self, all: &mut Registry) {
        let wide = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("sessions", "frpc sessions", i64::from(self.report.sessions)),
            ("leases", "Ports lent", i64::from(self.report.leases)),
            ("conns", "TCP user connections", wide(self.report.conns)),
            ("flows", "UDP flows", wide(self.report.flows)),
            (
                "missing",
                "Parts of the enforcement that are not there",
                wide(self.missing as u64),
            ),
            (
                "untidy",
                "1 while the kernel is not in line with what is decided",
                i64::from(self.untidy),
            ),
            (
                "frps_up",
                "1 while frps answers",
                i64::from(self.frps_answers),
            ),
            (
                "stuck_proxies",
                "Proxies of frps's that no lease covers and nothing here can end",
                wide(self.stuck as u64),
            ),
            (
                "spool_events",
                "Audit events that wait for the control plane",
                wide(self.spool.events),
            ),
            (
                "spool_bytes",
                "What those events take",
                wide(self.spool.bytes),
            ),
            (
                "clock_offset_milliseconds",
                "The control plane's clock less this machine's",
                self.clock_offset_ms,
            ),
            (
                "applied_generation",
                "The generation of the applied policy",
                wide(self.generation),
            ),
            (
                "applied_revision",
                "The revision of the applied policy",
                wide(self.rev),
            ),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            all.register(name, help, gauge);
        }
        if let Some(silent_s) = self.silent_s {
            let gauge = Gauge::<i64>::default();
            gauge.set(wide(silent_s));
            let help = "Since the control plane last took a heartbeat";
            all.register_with_unit("control_silent", help, Unit::Seconds, gauge);
        }
        let free = Family::<Protocol, Gauge>::default();
        for (protocol, ports) in &self.report.free_ports {
            let protocol = protocol.clone();
            free.get_or_create(&Protocol { protocol })
                .set(i64::from(*ports));
        }
        all.register("free_ports", "Ports of the pool that are free", free);
        let filters = Family::<Interface, Gauge>::default();
        for (interface, mode) in &self.interfaces {
            let interface = interface.clone();
            filters.get_or_create(&Interface { interface, mode }).set(1);
        }
        all.register("filter", "Interfaces and how they are filtered", filters);
        // The kernel's own counters: they outlive this process.
        let admitted = Counter::<u64>::default();
        admitted.inc_by(self.report.admitted);
        all.register("admitted", "TCP user connections admitted", admitted);
        let refused = Family::<ByReason, Counter>::default();
        for (reason, count) in &self.report.refused {
            let reason = reason.clone();
            refused.get_or_create(&ByReason { reason }).inc_by(*count);
        }
        all.register(
            "refused",
            "Refusals, the kernel's and the plugin's",
            refused,
        );
        let lost = Family::<ByPlace, Counter>::default();
        for (place, count) in [("kernel", self.lost.kernel), ("daemon", self.lost.daemon)] {
            lost.get_or_create(&ByPlace { place }).inc_by(count);
        }
        let help = "Events of the kernel's that found no room on their way";
        all.register("events_lost", help, lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_series() {
        let now = Now {
            report: Report {
                sessions: 2,
                conns: 5,
                admitted: 9,
                refused: [("max_conns".to_owned(), 7)].into(),
                free_ports: [("tcp".to_owned(), 3)].into(),
                ..Report::default()
            },
            interfaces: vec![("eth0".to_owned(), "native")],
            silent_s: Some(4),
            frps_answers: true,
            stuck: 3,
            clock_offset_ms: -12,
            lost: Lost {
                kernel: 11,
                ..Lost::default()
            },
            ..Now::default()
        };
        let mut all = Registry::with_prefix("totoro_node");
        now.register(&mut all);
        Meter::default().register(&mut all);
        let mut text = String::new();
        text::encode(&mut text, &all).unwrap();
        for line in [
            "totoro_node_sessions 2",
            "totoro_node_conns 5",
            "totoro_node_admitted_total 9",
            "totoro_node_refused_total{reason=\"max_conns\"} 7",
            "totoro_node_free_ports{protocol=\"tcp\"} 3",
            "totoro_node_filter{interface=\"eth0\",mode=\"native\"} 1",
            "totoro_node_control_silent_seconds 4",
            "totoro_node_clock_offset_milliseconds -12",
            "totoro_node_events_lost_total{place=\"kernel\"} 11",
            "totoro_node_events_lost_total{place=\"daemon\"} 0",
            "totoro_node_untidy 0",
            "totoro_node_frps_up 1",
            "totoro_node_stuck_proxies 3",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
