//! What is said of a group: by the kernel's programs, by `ss`, by the wire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use totoro_api::Reason;
use totoro_ebpf::abi::{NODE, SOURCE_CONNS, TCP};
use totoro_ebpf::logic::admit::FORGOTTEN;
use totoro_node::kernel::Inspector;
use totoro_tests::lab::Place;

use super::field::Field;
use super::groups::Group;
use crate::net::capture::Capture;
use crate::net::spans::Pace;
use crate::net::truth::{Sockets, cookies, sockets};

/// A source that is being removed is marked by [`FORGOTTEN`]; who comes meanwhile adds one and takes it back.
const KNOCKS: u64 = 64;

/// What the kernel has counted of a group so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Connections.
    pub(super) admitted: u64,
    /// Connections that were one too many.
    pub(super) surplus: u64,
    /// Refusals, by the socket lookup or as one too many.
    pub(super) refused: u64,
}

impl Field {
    /// Begins to look at a group's packets on the node's wire.
    ///
    /// # Errors
    /// No packet socket can be had.
    pub(super) fn capture(&self, group: &Group) -> Result<Capture> {
        Capture::start(self.world.lab.ns(Place::Node), "us0", &group.ports())
    }

    /// Connections of each tenant of a group, by ss.
    ///
    /// # Errors
    /// `ss` can't be run.
    pub(super) fn live(&self, group: &Group) -> Result<Vec<Sockets>> {
        sockets(&self.world.lab, &group.ports())
    }

    /// SYNs that were answered by a cookie so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn cookies(&self) -> Result<u64> {
        cookies(self.world.frps.as_ref().context("frps runs")?.pid())
    }

    /// What was counted of a group so far.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn counts(&self, group: &Group) -> Result<Counts> {
        let all = self.kernel.tenants()?;
        let refused = self.kernel.refused()?;
        let mut counts = Counts::default();
        for tenant in &group.tenants {
            let row = all.iter().find(|(number, ..)| *number == tenant.number);
            let (_, _, of) = row.context("the tenant is not in the kernel")?;
            counts.admitted += of.usage.admitted;
            counts.surplus += of.usage.surplus;
            // Packets of connections that were one too many have a reason of their own; what the shield
            // drops by a budget of SYNs is answered by nothing, and comes again.
            let shield = [Reason::Surplus, Reason::ConnRate, Reason::RateLimited];
            // Where a rate is the limit, bursts are too small for the shield.
            let is_rate = |reason| reason == Reason::ConnRate && group.rate.is_some();
            let rows = refused.iter().filter(|row| row.tenant == tenant.number);
            let rows = rows.filter(|row| !shield.contains(&row.reason) || is_rate(row.reason));
            counts.refused += rows.map(|row| row.count).sum::<u64>();
        }
        Ok(counts)
    }

    /// By how much the kernel counts more for a group or one of its tenants than it may have, at most, while
    /// others play; and by how many more it has admitted, between any two looks, than a rate gives.
    ///
    /// Not what the node and sources have: there one too many is counted and taken back, so that only what is
    /// [kept](Field::kept) says something.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn watch(&self, group: &Group, stop: &AtomicBool) -> Result<u64> {
        let kernel = Inspector::open(&self.world.lab.pin_root())?;
        let of_each = group.tenants.iter().map(|one| (one.number, one.max));
        let bounds: Vec<(u32, u32)> = of_each.chain([(group.number, group.max)]).collect();
        let (mut most, epoch) = (0, Instant::now());
        let paced = group.rate.map(|rate| Pace::new(rate, rate, epoch));
        // Who has a rate is alone.
        let mut paced = paced.zip(group.tenants.first());
        while !stop.load(Ordering::SeqCst) {
            let before = Instant::now();
            let tenants = kernel.tenants()?;
            let after = Instant::now();
            for (number, _, counts) in tenants {
                let mut bounds = bounds.iter();
                if let Some((_, max)) = bounds.find(|(of, _)| *of == number) {
                    most = most.max(counts.usage.conns.saturating_sub((*max).into()));
                }
                if let Some((pace, tenant)) = &mut paced
                    && tenant.number == number
                {
                    most = most.max(pace.see(before, counts.usage.admitted, after));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(most)
    }

    /// By how much the kernel counts more for the node, or a source of a group's, than it may have, when nobody
    /// comes.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn kept(&self, group: &Group) -> Result<u64> {
        let mut most = 0;
        if group.number == NODE {
            let all = self.kernel.counts(NODE)?.usage.conns;
            most = all.saturating_sub(group.max.into());
        }
        if let Some(max) = group.per_source {
            let is_ours = |number| group.tenants.iter().any(|one| one.number == number);
            for (key, source) in self.kernel.sources()? {
                if is_ours(key.tenant) && key.kind == SOURCE_CONNS && !is_forgotten(source.conns) {
                    most = most.max(source.conns.saturating_sub(max.into()));
                }
            }
        }
        Ok(most)
    }

    /// What the kernel counts for a group, in all the places where it counts.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn left(&self, group: &Group) -> Result<u64> {
        let numbers: Vec<u32> = group.tenants.iter().map(|one| one.number).collect();
        let is_ours = |number: u32| numbers.contains(&number);
        let all = self.kernel.tenants()?;
        let counted = all.iter();
        let counted =
            counted.filter(|(number, ..)| is_ours(*number) || *number == group.tenants[0].parent);
        let conns = sum(counted.map(|(_, _, counts)| counts.usage.conns));
        let (ports, ours) = (self.kernel.ports()?, group.ports());
        let leased = ports
            .iter()
            .filter(|(key, ..)| key.proto == TCP && ours.contains(&key.port));
        let on_ports = sum(leased.map(|(_, _, usage)| usage.conns));
        let sources = self.kernel.sources()?;
        let of_sources = sources
            .iter()
            .filter(|(key, source)| is_ours(key.tenant) && !is_forgotten(source.conns));
        let of_sources = sum(of_sources.map(|(_, source)| source.conns));
        let table = self.kernel.connections()?;
        let rows = table.iter().filter(|row| is_ours(row.conn.tenant));
        // Nobody else is on the node.
        let all = self.kernel.counts(NODE)?.usage.conns;
        Ok(sum([conns, on_ports, of_sources, rows.count() as u64, all]))
    }
}

/// A count that went below 0 is a huge one: the sum stays huge, and does not come round to 0.
fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Whether a source that has this count is being removed.
fn is_forgotten(count: u64) -> bool {
    count.abs_diff(FORGOTTEN) <= KNOCKS
}

#[cfg(test)]
mod tests {
    use super::{FORGOTTEN, is_forgotten, sum};

    #[test]
    fn a_count_below_zero_is_left_over() {
        for (count, forgotten) in [
            (0, false),
            (1 << 32, false),
            (FORGOTTEN - 1, true),
            (FORGOTTEN + 2, true),
            (u64::MAX, false),
        ] {
            assert_eq!(is_forgotten(count), forgotten, "{count}");
        }
        assert_eq!(sum([u64::MAX, 1, 0]), u64::MAX);
    }
}
