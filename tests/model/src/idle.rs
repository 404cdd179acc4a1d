//! What has been silent for too long ends.

use totoro_ebpf::abi::{FLOW_CONFIRMED, Flow, FlowKey, NODE, SOURCE_FLOWS, SourceKey};

use crate::world::source;
use crate::{Span, Unsure, World};

/// How long a flow that is not confirmed may be silent, ns.
const UNCONFIRMED: u64 = 10_000_000_000;
/// How long a source that has nothing is remembered, ns.
const REMEMBERED: u64 = 5_000_000_000;
/// A source whose count has this bit is on its way out.
const LEAVING: u64 = 1 << 63;

impl World {
    /// Ends idle flows, and forgets idle sources.
    pub(crate) fn end_idle(&mut self, now: Span) -> Result<(), Unsure> {
        if let Some(node) = self.usage.get_mut(&NODE) {
            node.at = now;
        }
        for key in self.idle(&self.flows, now)? {
            let flow = self.flows.remove(&key).expect("it was there");
            let payers = [flow.tenant, flow.parent];
            for payer in payers.into_iter().filter(|payer| *payer != 0) {
                if let Some(closed) = self.flows_closed.get_mut(&payer) {
                    *closed += 1;
                }
            }
            let of = SourceKey {
                prefix: source(&key.remote),
                tenant: flow.tenant,
                kind: SOURCE_FLOWS,
            };
            if let Some(source) = self.sources.get_mut(&of) {
                // On who is leaving nothing is counted.
                if (1..LEAVING).contains(&source.is) {
                    source.is -= 1;
                }
                source.at = now;
            }
        }
        for key in self.idle(&self.candidates, now)? {
            self.candidates.remove(&key);
        }
        let mut gone = Vec::new();
        for (key, source) in &self.sources {
            let has_nothing = source.is == 0 || source.is >= LEAVING;
            if has_nothing && now.is_after(source.at.later(REMEMBERED))? {
                gone.push(*key);
            }
        }
        for key in gone {
            self.sources.remove(&key);
        }
        Ok(())
    }

    /// The flows that are idle.
    fn idle(
        &self,
        flows: &std::collections::HashMap<FlowKey, Flow>,
        now: Span,
    ) -> Result<Vec<FlowKey>, Unsure> {
        let mut idle = Vec::new();
        for (key, flow) in flows {
            let silent = match flow.state {
                FLOW_CONFIRMED => self.config.flow_idle_ns,
                _ => self.config.flow_idle_ns.min(UNCONFIRMED),
            };
            if now.is_after(Span::exactly(flow.last_ns.saturating_add(silent)))? {
                idle.push(*key);
            }
        }
        Ok(idle)
    }
}
