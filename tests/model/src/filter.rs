//! XDP and TC ingress: drops what opens a flow to a pool port without a lease, what is banned, and
//! floods. Whatever it lets through, the socket lookup judges again.

use totoro_api::Reason;
use totoro_ebpf::abi::{FlowKey, OutboundKey, TCP, UDP};

use crate::world::{Subject, port_key, source};
use crate::{Outcome, Seen, Span, Unsure, World};

impl World {
    /// What becomes of a frame that comes in.
    ///
    /// # Errors
    /// When it turns on the moment.
    pub fn filter(&mut self, frame: &[u8], now: Span) -> Result<Outcome, Unsure> {
        let Some(seen) = Seen::read(frame) else {
            return Ok(Outcome::passes());
        };
        if !self.guards(seen.proto, seen.to_port) || !self.is_configured() {
            return Ok(Outcome::passes());
        }
        if seen.proto == TCP && !seen.is_opening() {
            return self.greeting(frame, &seen, now);
        }
        let mut subject = Subject {
            tenant: 0,
            lease: 0,
            remote: seen.from,
            remote_port: seen.from_port,
            port: seen.to_port,
            proto: seen.proto,
        };
        match self.opening(&seen, &mut subject, now)? {
            None => Ok(Outcome::passes()),
            Some(reason) => Ok(self.refuse(&subject, reason.number(), now)),
        }
    }

    /// Why a frame that opens a flow (or may: UDP) to a guarded port is refused.
    fn opening(
        &mut self,
        seen: &Seen,
        subject: &mut Subject,
        now: Span,
    ) -> Result<Option<Reason>, Unsure> {
        // What is forwarded is not the node's.
        if !self.locals.contains(&seen.to) {
            return Ok(None);
        }
        if self.is_control(seen.proto, seen.to_port) {
            return Ok(self
                .is_banned(&seen.from, now)?
                .then_some(Reason::ClientBanned));
        }
        let port = port_key(seen.proto, seen.to_port);
        let Some(lease) = self.ports.get(&port).copied() else {
            let asked = OutboundKey {
                remote: seen.from,
                local: seen.to,
                remote_port: seen.from_port,
                local_port: seen.to_port,
                pad: 0,
            };
            let answers = seen.proto == UDP && self.is_answer(&asked, now)?;
            return Ok((!answers).then_some(Reason::NoLease));
        };
        (subject.tenant, subject.lease) = (lease.tenant, lease.lease);
        if seen.proto == UDP {
            let flow = FlowKey {
                remote: seen.from,
                remote_port: seen.from_port,
                port: seen.to_port,
                pad: 0,
            };
            // What flows is no opening, answered or not.
            if self.flows.contains_key(&flow) || self.candidates.contains_key(&flow) {
                return Ok(None);
            }
        }
        if self.is_banned(&seen.from, now)? {
            return Ok(Some(Reason::ClientBanned));
        }
        if self.is_source_over(seen, now)? {
            return Ok(Some(Reason::RateLimited));
        }
        if lease.syn_interval_ns != 0
            && let Some(usage) = self.port_usage.get_mut(&port)
            && !now.take(&mut usage.at, lease.syn_interval_ns, lease.syn_burst_ns)?
        {
            return Ok(Some(Reason::ConnRate));
        }
        Ok(None)
    }

    /// Spends one of the source's new flows to the port in both of its cells; it is over when neither had one.
    fn is_source_over(&mut self, seen: &Seen, now: Span) -> Result<bool, Unsure> {
        let (interval, burst) = (self.config.source_interval_ns, self.config.source_burst_ns);
        if interval == 0 {
            return Ok(false);
        }
        let (mut had, port) = (false, port_key(seen.proto, seen.to_port));
        for cell in (self.cells)(&source(&seen.from), port, self.config.sketch_seed) {
            had |= now.take(self.sketch.entry(cell).or_default(), interval, burst)?;
        }
        Ok(!had)
    }
}
