//! What a run counted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use totoro_api::wire::event::kind;

use super::check::{Check, Counted};
use super::load::Served;
use super::machine::{Fault, Helped};

#[derive(Debug, Default)]
pub(super) struct Tally {
    faults: BTreeMap<String, u32>,
    well: u32,
    failed: u32,
    helped: Helped,
    took: Vec<Duration>,
    mended: BTreeMap<String, u64>,
    /// Of the daemon that runs: its own counts begin anew at its start.
    before: BTreeMap<String, u64>,
    last: Counted,
}

impl Tally {
    pub(super) fn round(&mut self, faults: &[Fault], well: bool) {
        for fault in faults {
            *self.faults.entry(fault.to_string()).or_default() += 1;
        }
        *(if well {
            &mut self.well
        } else {
            &mut self.failed
        }) += 1;
    }

    pub(super) const fn help(&mut self, helped: Helped) {
        self.helped.frpc += helped.frpc;
        self.helped.frps += helped.frps;
    }

    pub(super) fn note(&mut self, counted: &Counted, took: Duration) {
        self.took.push(took);
        for (what, count) in &counted.mended {
            let before = self.before.get(what).copied().unwrap_or(0);
            let more = count.checked_sub(before).unwrap_or(*count);
            *self.mended.entry(what.clone()).or_default() += more;
        }
        self.before.clone_from(&counted.mended);
        self.last = counted.clone();
    }

    /// Whether every round converged, and there was one.
    pub(super) const fn well(&self) -> bool {
        self.failed == 0 && self.well > 0
    }

    pub(super) fn print(&mut self, served: &Served, check: &Check, took: Duration) {
        self.took.sort();
        let at = |part: usize| {
            let last = self.took.len().saturating_sub(1);
            let took = self.took.get(last * part / 100).copied();
            took.unwrap_or_default().as_secs_f64()
        };
        println!("\nwhat                                     count");
        let line = |what: &str, count: u64| println!("{what:<36} {count:>9}");
        for (fault, count) in &self.faults {
            line(fault, u64::from(*count));
        }
        line(
            "frpc started again to save time",
            u64::from(self.helped.frpc),
        );
        line("frps ended by itself", u64::from(self.helped.frps));
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        line("users served", of(&served.served));
        line("users refused", of(&served.refused));
        line("users failed", of(&served.failed));
        line("datagrams echoed", of(&served.datagrams));
        line("looks at limits under load", check.samples);
        line("connections held at the last look", self.last.conns);
        line("leases at the last look", self.last.leases as u64);
        line("node events in the trail", check.events);
        line("  spools", check.spools.len() as u64);
        for of in [
            kind::SESSION_OPENED,
            kind::SESSION_RESUMED,
            kind::SESSION_CLOSED,
            kind::PROXY_OPENED,
            kind::PROXY_CLOSED,
            kind::SESSION_REFUSED,
            kind::PROXY_REFUSED,
            kind::CONN_REFUSED,
            kind::AUDIT_LOST,
        ] {
            let count = check.kinds.get(of).copied().unwrap_or(0);
            line(&format!("  {of}"), count);
        }
        for (what, count) in &self.mended {
            line(&format!("mended: {what}"), *count);
        }
        println!(
            "\nwell again after {:.1} s (p50), {:.1} s (p90), {:.1} s (longest)",
            at(50),
            at(90),
            at(100)
        );
        println!("took {:.1} s", took.as_secs_f64());
        println!("{} rounds well, {} failed", self.well, self.failed);
    }
}
