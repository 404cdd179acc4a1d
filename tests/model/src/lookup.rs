//! The socket lookup: who may open a connection or a flow to a pool port. It reads limits and spends
//! nothing.

use totoro_api::Reason;
use totoro_ebpf::abi::{
    ACTIVE, Addr, CANARY, CUT, FLOW_CONFIRMED, FlowKey, NODE, OutboundKey, SITE_SOURCES,
    SOURCE_CONNS, SOURCE_FLOWS, SOURCE_SITES, SourceKey, TCP, Tenant, UDP, v4_mapped,
};

use crate::world::{Subject, port_key, source};
use crate::{Outcome, Span, Unsure, World};

/// What the stack looks a socket up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Whether by an IPv6 header.
    pub v6: bool,
    /// TCP or UDP.
    pub proto: u8,
    /// The sender.
    pub remote: Addr,
    /// The sender's port.
    pub remote_port: u16,
    /// The receiver.
    pub local: Addr,
    /// The receiver's port.
    pub port: u16,
}

/// Nobody has looked for what is idle for longer than this, ns: it is overdue.
const OVERDUE: u64 = 2_000_000_000;

impl World {
    /// What becomes of a lookup.
    ///
    /// # Errors
    /// When it turns on the moment.
    pub fn lookup(&mut self, who: &Lookup, now: Span) -> Result<Outcome, Unsure> {
        if !self.guards(who.proto, who.port) || !self.is_configured() {
            return Ok(Outcome::passes());
        }
        let mut subject = Subject {
            tenant: 0,
            lease: 0,
            remote: who.remote,
            remote_port: who.remote_port,
            port: who.port,
            proto: who.proto,
        };
        let reason = if self.is_control(who.proto, who.port) {
            self.at_frps(who, now)?
        } else {
            self.at_a_lease(who, &mut subject, now)?
        };
        match reason {
            None => Ok(Outcome::passes()),
            Some(reason) => Ok(self.refuse(&subject, reason, now)),
        }
    }

    fn at_frps(&self, who: &Lookup, now: Span) -> Result<Option<u32>, Unsure> {
        let most = self.config.control_per_source;
        Ok(if self.is_banned(&who.remote, now)? {
            Some(Reason::ClientBanned.number())
        } else if most != 0
            && (self.of_source(&who.remote, 0, SOURCE_CONNS) >= u64::from(most)
                || self.of_source(&who.remote, 0, SOURCE_SITES)
                    >= u64::from(most.saturating_mul(SITE_SOURCES)))
        {
            Some(Reason::RateLimited.number())
        } else {
            None
        })
    }

    fn at_a_lease(
        &mut self,
        who: &Lookup,
        subject: &mut Subject,
        now: Span,
    ) -> Result<Option<u32>, Unsure> {
        let no_lease = Ok(Some(Reason::NoLease.number()));
        let Some(lease) = self.ports.get(&port_key(who.proto, who.port)).copied() else {
            let asked = OutboundKey {
                remote: who.remote,
                local: who.local,
                remote_port: who.remote_port,
                local_port: who.port,
                pad: 0,
            };
            if who.proto == UDP && self.is_answer(&asked, now)? {
                return Ok(None);
            }
            return no_lease;
        };
        (subject.tenant, subject.lease) = (lease.tenant, lease.lease);
        let Some(tenant) = self.tenants.get(&lease.tenant).copied() else {
            return no_lease;
        };
        let expired = |over| match over {
            true => Some(Reason::InviteExpired.number()),
            false => None,
        };
        let ended = |over| match over {
            true => Some(Reason::SessionExpired.number()),
            false => None,
        };
        let flow = FlowKey {
            remote: who.remote,
            remote_port: who.remote_port,
            port: who.port,
            pad: 0,
        };
        if who.proto == UDP && self.flows.contains_key(&flow) {
            // What flows goes on under a paused tenant, until it is cut or its time is over.
            if tenant.state == CUT {
                return Ok(Some(tenant.reason));
            }
            return match expired(now.ends(tenant.expires_ns)?) {
                None => Ok(ended(now.ends(lease.expires_ns)?)),
                reason => Ok(reason),
            };
        }
        // The daemon tries it meanwhile.
        if self.config.hold != 0 && lease.tenant != CANARY {
            return Ok(Some(self.config.hold));
        }
        if tenant.state != ACTIVE {
            return Ok(Some(tenant.reason));
        }
        if let Some(reason) = expired(now.ends(tenant.expires_ns)?) {
            return Ok(Some(reason));
        }
        if let Some(reason) = ended(now.ends(lease.expires_ns)?) {
            return Ok(Some(reason));
        }
        if lease.hold != 0 {
            return Ok(Some(lease.hold));
        }
        if self.is_banned(&who.remote, now)? {
            return Ok(Some(Reason::ClientBanned.number()));
        }
        // Who is idle takes nobody's place, even when the daemon is away.
        if let Some(node) = self.usage.get(&NODE)
            && now.is_after(node.at.later(OVERDUE))?
        {
            self.end_idle(now)?;
        }
        let mut reason = self.over_a_limit(who, lease.tenant, &tenant, now)?;
        // Who was answered and never wrote again may not exist, and gives its place up.
        let room = match reason {
            Some(Reason::MaxFlows) => self.has_unconfirmed(lease.tenant),
            Some(Reason::PublicFull) => self.has_unconfirmed(tenant.parent),
            Some(Reason::MaxConnsPerSource) => self.has_one_of(&who.remote, lease.tenant),
            _ => false,
        };
        if who.proto == UDP && room {
            reason = None;
        }
        Ok(reason.map(Reason::number))
    }

    /// Which limit one more would pass.
    fn over_a_limit(
        &self,
        who: &Lookup,
        number: u32,
        tenant: &Tenant,
        now: Span,
    ) -> Result<Option<Reason>, Unsure> {
        let Some(usage) = self.usage.get(&number) else {
            return Ok(Some(Reason::NoLease));
        };
        let is_tcp = who.proto == TCP;
        let (has, most, over, kind) = if is_tcp {
            let over = Reason::MaxConns;
            (usage.is.conns, tenant.max_conns, over, SOURCE_CONNS)
        } else {
            let over = Reason::MaxFlows;
            (
                self.live_flows(number),
                tenant.max_flows,
                over,
                SOURCE_FLOWS,
            )
        };
        let of_source = self.of_source(&who.remote, number, kind);
        let source_is_full = of_source >= u64::from(tenant.max_conns_per_source);
        // A flow for which there is no room takes another's place: not for who may have none.
        if !is_tcp && source_is_full {
            return Ok(Some(Reason::MaxConnsPerSource));
        }
        if has >= u64::from(most) {
            return Ok(Some(over));
        }
        if source_is_full {
            return Ok(Some(Reason::MaxConnsPerSource));
        }
        if is_tcp {
            let (interval, burst) = (tenant.conn_interval_ns, tenant.conn_burst_ns);
            let arrival = Span::exactly(usage.is.conn_tat_ns);
            if interval != 0 && !now.fits(arrival, interval, burst)? {
                return Ok(Some(Reason::ConnRate));
            }
            let most = u64::from(self.config.max_conns_total);
            let all = self.usage.get(&NODE).map(|node| node.is.conns);
            if most != 0 && number != CANARY && all.is_none_or(|all| all >= most) {
                return Ok(Some(Reason::NodeFull));
            }
        }
        let parent = (self.tenants.get(&tenant.parent)).zip(self.usage.get(&tenant.parent));
        if tenant.parent != 0
            && let Some((above, usage)) = parent
        {
            let is_full = if is_tcp {
                usage.is.conns >= u64::from(above.max_conns)
            } else {
                self.live_flows(tenant.parent) >= u64::from(above.max_flows)
            };
            if is_full {
                return Ok(Some(Reason::PublicFull));
            }
        }
        Ok(None)
    }

    /// Whether a newcomer finds a flow of a tenant's (or parent's) that is not confirmed: where no more may be than are
    /// looked at.
    fn has_unconfirmed(&self, tenant: u32) -> bool {
        let noted = self.answered.iter().filter_map(|key| self.flows.get(key));
        let mut its = noted.filter(|flow| flow.tenant == tenant || flow.parent == tenant);
        its.any(|flow| flow.state != FLOW_CONFIRMED)
    }

    /// Whether one of them is of the newcomer's own source, and of the same tenant.
    fn has_one_of(&self, remote: &Addr, tenant: u32) -> bool {
        let noted = self.answered.iter();
        let of_source = noted.filter(|key| source(&key.remote) == source(remote));
        let mut its = of_source.filter_map(|key| self.flows.get(key));
        its.any(|flow| flow.tenant == tenant && flow.state != FLOW_CONFIRMED)
    }

    /// UDP flows of a tenant that have not ended.
    fn live_flows(&self, tenant: u32) -> u64 {
        let opened = self
            .usage
            .get(&tenant)
            .map_or(0, |usage| usage.is.flows_opened);
        let closed = self.flows_closed.get(&tenant).copied().unwrap_or(0);
        opened.saturating_sub(closed)
    }

    /// What a source has.
    fn of_source(&self, remote: &Addr, tenant: u32, kind: u32) -> u64 {
        let mut prefix = source(remote);
        // An IPv6 site is a /48, and an IPv4 address its own.
        if kind == SOURCE_SITES && prefix[..12] != v4_mapped([0; 4])[..12] {
            prefix[6..].fill(0);
        }
        let key = SourceKey {
            prefix,
            tenant,
            kind,
        };
        // The highest bit says that nothing is counted any more, and the entry about to go.
        let counted = |is: u64| if is >> 63 == 0 { is } else { 0 };
        self.sources
            .get(&key)
            .map_or(0, |source| counted(source.is))
    }
}
