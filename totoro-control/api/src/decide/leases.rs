//! Who has which port: leases, and ports that wait for their last holder or cool down. Pure.

mod index;
mod lease;
mod told;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Asked, Avoided, Choice, Held, choose_port};
use crate::limits::Effective;
use crate::ports::{Pool, PortRange, Protocol};
use crate::{Reason, Refusal};
use index::{Shared, Single};

pub use lease::{Lease, PortId, Summed, parse_key, record_key};
pub use told::{Holder, LeaseTold, Opened};
pub(super) use waiting::most_kept;
pub use waiting::{Patience, Waiting};

/// What is asked for, by whom, under what.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The tenant's id.
    pub tenant: &'a str,
    /// The session.
    pub run_id: &'a str,
    /// The proxy's name in frps.
    pub wire: &'a str,
    /// What is asked for.
    pub asked: &'a Asked,
    /// The tenant's limits.
    pub limits: &'a Effective,
    /// What the node lends.
    pub pool: &'a Pool,
    /// Where the search for a free port begins.
    pub start: usize,
    /// Now, Unix ms.
    pub now_ms: i64,
}

/// What becomes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The proxy has this port already.
    Same(u16),
    /// A new lease; the proxy's old one, if there is one, is closed first.
    Open {
        /// The port.
        port: u16,
        /// The port that it had.
        instead_of: Option<PortId>,
    },
}

/// Leases by their port, each on its own: a tree's nodes are half empty.
pub type Leases = BTreeMap<PortId, Box<Lease>>;

/// All ports of the node that are not free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    leases: Leases,
    waiting: BTreeMap<PortId, Waiting>,
    /// Leases by session.
    by_session: Shared,
    /// Leases by tenant.
    by_tenant: Shared,
    /// Leases by their proxy's name in frps.
    by_wire: Single,
    /// What waits, by the session that had it last.
    waiting_by_session: Shared,
    /// What waits, by the tenant that had it last.
    waiting_by_tenant: Shared,
}

impl Ports {
    /// The table as it was stored.
    #[must_use]
    pub fn new(
        leases: impl IntoIterator<Item = (PortId, Lease)>,
        waiting: impl IntoIterator<Item = (PortId, Waiting)>,
    ) -> Self {
        let mut ports = Ports::default();
        for (port, lease) in leases {
            ports.add(port, lease);
        }
        for (port, waiting) in waiting {
            ports.wait(port, waiting);
        }
        ports
    }

    /// Leases now.
    #[must_use]
    pub const fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Ports that wait or cool, or whose last holder is only remembered.
    #[must_use]
    pub const fn waiting(&self) -> &BTreeMap<PortId, Waiting> {
        &self.waiting
    }

    /// The lease of a proxy of a session.
    #[must_use]
    pub fn of_proxy(&self, run_id: &str, wire: &str) -> Option<(PortId, &Lease)> {
        self.with_wire(wire)
            .find(|(_, lease)| *lease.run_id == *run_id)
    }

    fn with_wire<'a>(&'a self, wire: &str) -> impl Iterator<Item = (PortId, &'a Lease)> {
        let named = move |port| {
            let lease = self.leases.get(&port).filter(|of| of.wire() == wire);
            Some((port, &**lease?))
        };
        self.by_wire.of(wire).filter_map(named)
    }

    /// The ports that a session leases.
    #[must_use]
    pub fn of_session(&self, run_id: &str) -> Vec<PortId> {
        self.by_session.of(run_id).collect()
    }

    /// How many ports a tenant leases.
    #[must_use]
    pub fn count_of(&self, tenant: &str) -> usize {
        self.by_tenant.count(tenant)
    }

    /// The ports that a tenant leases.
    pub fn of_tenant(&self, tenant: &str) -> impl Iterator<Item = (PortId, &Lease)> {
        let ports = self.by_tenant.of(tenant);
        ports.filter_map(|port| Some((port, &**self.leases.get(&port)?)))
    }

    /// How many ports cool down that a tenant had: nobody else may have them.
    #[must_use]
    pub fn cooling_of(&self, tenant: &str, now_ms: i64) -> usize {
        let waiting = self.waiting_by_tenant.of(tenant);
        let waiting = waiting.filter_map(|port| self.waiting.get(&port));
        waiting.filter(|waiting| waiting.cools(now_ms)).count()
    }

    /// Ports that cool down, and whose they were.
    pub fn cooling(&self, now_ms: i64) -> impl Iterator<Item = (PortId, &str)> {
        let cooling = self.waiting.iter();
        let cooling = cooling.filter(move |(_, waiting)| waiting.cools(now_ms));
        cooling.map(|(port, waiting)| (*port, &*waiting.tenant))
    }

    /// How many ports of a pool could be leased by somebody new.
    #[must_use]
    pub fn free(&self, protocol: Protocol, pool: &Pool, now_ms: i64) -> usize {
        let ranges = || pool.of(protocol).ranges().iter();
        let ids = |of: &PortRange| (protocol, of.first())..=(protocol, of.last());
        let leased: usize = ranges().map(|of| self.leases.range(ids(of)).count()).sum();
        let cooling = |(port, waiting): &(&PortId, &Waiting)| {
            waiting.cools(now_ms) && !self.leases.contains_key(port)
        };
        let waiting = ranges().flat_map(|of| self.waiting.range(ids(of)));
        pool.of(protocol).iter().count() - leased - waiting.filter(cooling).count()
    }

    /// What is with a port, for a proxy of a tenant.
    #[must_use]
    pub fn held(&self, port: PortId, tenant: &str, name: &str, now_ms: i64) -> Held {
        if self.leases.contains_key(&port) {
            return Held::Leased;
        }
        match self.waiting.get(&port) {
            None => Held::Free,
            Some(waiting) if *waiting.tenant != *tenant => {
                if waiting.cools(now_ms) {
                    Held::Cooling
                } else {
                    Held::Free
                }
            }
            Some(waiting) if *waiting.name == *name => Held::Kept,
            Some(waiting) if now_ms < waiting.reserved_ms => Held::Sibling,
            Some(_) => Held::Free,
        }
    }

    /// What is to be done about a wish; changes nothing.
    ///
    /// # Errors
    /// `proxy_name_denied`, `max_proxies`, `rate_limited`, or as [`choose_port`].
    pub fn plan(
        &self,
        wish: Wish<'_>,
        avoid: impl Fn(u16) -> Option<Avoided>,
    ) -> Result<Plan, Refusal> {
        let Wish {
            tenant,
            run_id,
            wire,
            asked,
            limits,
            pool,
            start,
            now_ms,
        } = wish;
        let foreign = |(_, lease): &(PortId, &Lease)| *lease.run_id != *run_id;
        if let Some((_, lease)) = self.with_wire(wire).find(foreign) {
            let whose = if *lease.tenant == *tenant {
                "another session"
            } else {
                "somebody else"
            };
            let detail = format!("{whose} has a proxy of this name");
            return Err(Refusal::with(Reason::ProxyNameDenied, detail));
        }
        let before = self.of_proxy(run_id, wire).map(|(port, _)| port);
        if let Some((protocol, port)) = before
            && protocol == asked.protocol
            && asked.port.is_none_or(|asked| asked == port)
            && pool.of(protocol).contains(port)
        {
            return Ok(Plan::Same(port));
        }
        let others = self.count_of(tenant) - usize::from(before.is_some());
        if others >= limits.max_proxies as usize {
            let detail = match limits.max_proxies {
                1 => "this invite allows one proxy and it is in use".to_owned(),
                2 => "this invite allows 2 proxies and both are in use".to_owned(),
                many => format!("this invite allows {many} proxies and all are in use"),
            };
            return Err(Refusal::with(Reason::MaxProxies, detail));
        }
        let last = self
            .waiting_by_tenant
            .of(tenant)
            .filter_map(|port| Some((port, self.waiting.get(&port)?)))
            .filter(|((of, _), waiting)| *of == asked.protocol && *waiting.name == *asked.name)
            .max_by_key(|(_, waiting)| waiting.reserved_ms)
            .map(|((_, port), _)| port);
        let choice = Choice {
            asked,
            limits,
            pool,
            last,
            start,
        };
        let held = |port| self.held((asked.protocol, port), tenant, &asked.name, now_ms);
        let port = choose_port(choice, held, avoid)?;
        let id = (asked.protocol, port);
        let is_theirs = |waiting: &Waiting| *waiting.tenant == *tenant && waiting.cools(now_ms);
        // What is theirs already makes none more: most ask for that, and need not be counted.
        if !self.waiting.get(&id).is_some_and(is_theirs)
            && let kept = self.count_of(tenant) + self.cooling_of(tenant, now_ms)
            && kept >= most_kept(limits.max_proxies)
        {
            let detail = format!(
                "{kept} ports wait for this invite's proxies, those that it left lately among them: ask \
                 for one of these, or wait until they are free again"
            );
            return Err(Refusal::with(Reason::RateLimited, detail));
        }
        Ok(Plan::Open {
            port,
            instead_of: before,
        })
    }

    /// Whether a plan only gives a proxy back what it has, or what waits for it.
    #[must_use]
    pub fn comes_back(&self, wish: Wish<'_>, plan: Plan) -> bool {
        match plan {
            Plan::Same(_) => true,
            Plan::Open { port, .. } => {
                let Wish { tenant, asked, .. } = wish;
                self.waiting
                    .get(&(asked.protocol, port))
                    .is_some_and(|waiting| {
                        *waiting.tenant == *tenant
                            && *waiting.name == *asked.name
                            && wish.now_ms < waiting.reserved_ms
                    })
            }
        }
    }

    /// Leases a port: nobody waits for it any more. What waited there comes back.
    ///
    /// # Panics
    /// When the port is leased: [`Ports::plan`] never says so.
    pub fn open(&mut self, port: PortId, lease: Lease) -> Option<Waiting> {
        assert!(
            !self.leases.contains_key(&port),
            "{port:?} was leased already"
        );
        let waiting = self.forget(port);
        self.add(port, lease);
        waiting
    }

    fn add(&mut self, port: PortId, mut lease: Lease) {
        self.by_wire.add(lease.wire(), port);
        lease.run_id = self.by_session.add(lease.run_id, port);
        lease.tenant = self.by_tenant.add(lease.tenant, port);
        self.leases.insert(port, Box::new(lease));
    }

    fn take(&mut self, port: PortId) -> Option<Lease> {
        let lease = self.leases.remove(&port)?;
        self.by_session.remove(&lease.run_id, port);
        self.by_tenant.remove(&lease.tenant, port);
        self.by_wire.remove(lease.wire(), port);
        Some(*lease)
    }

    /// Ends a lease: its port waits for its proxy, then cools down.
    pub fn close(
        &mut self,
        port: PortId,
        now_ms: i64,
        patience: Patience,
    ) -> Option<(Lease, Waiting)> {
        let lease = self.take(port)?;
        let (reserved_ms, cooling_ms) = patience.from(now_ms);
        let waiting = Waiting {
            tenant: Arc::clone(&lease.tenant),
            name: lease.name().into(),
            run_id: Arc::clone(&lease.run_id),
            reserved_ms,
            cooling_ms,
        };
        self.wait(port, waiting.clone());
        Some((lease, waiting))
    }

    /// Ends a lease that never came to be: its port is as it was before [`Ports::open`].
    pub fn take_back(&mut self, port: PortId, waiting: Option<Waiting>) {
        self.take(port);
        if let Some(waiting) = waiting {
            self.wait(port, waiting);
        }
    }

    /// Notes what of a lease was told.
    pub fn sum(&mut self, port: PortId, summed: Summed) -> Option<&Lease> {
        let lease = self.leases.get_mut(&port)?;
        lease.sum(summed);
        Some(lease)
    }

    /// No lease began, and none waits or cools longer than one that ends now, in what is to come: what says so was
    /// dated by a clock that was ahead. Those that it changed.
    pub fn no_later(&mut self, patience: Patience, now_ms: i64) -> (Vec<PortId>, Vec<PortId>) {
        let (mut leases, mut waits) = (Vec::new(), Vec::new());
        for (port, lease) in &mut self.leases {
            if lease.since_ms > now_ms {
                lease.since_ms = now_ms;
                leases.push(*port);
            }
        }
        for (port, waiting) in &mut self.waiting {
            if waiting.no_later(patience, now_ms) {
                waits.push(*port);
            }
        }
        (leases, waits)
    }

    /// The ports that wait for a session's proxies, as they are once it is `tenant`'s.
    #[must_use]
    pub fn moved(&self, run_id: &str, tenant: &str) -> Vec<(PortId, Waiting)> {
        let to: Arc<str> = tenant.into();
        let moved = |waiting: &Waiting| Waiting {
            tenant: Arc::clone(&to),
            ..waiting.clone()
        };
        self.waiting_by_session
            .of(run_id)
            .filter_map(|port| Some((port, self.waiting.get(&port)?)))
            .filter(|(_, waiting)| *waiting.tenant != *tenant)
            .map(|(port, waiting)| (port, moved(waiting)))
            .collect()
    }

    /// Has a port wait as told; what waited there before comes back.
    pub fn wait(&mut self, port: PortId, waiting: Waiting) -> Option<Waiting> {
        let before = self.forget(port);
        let waiting = Waiting {
            run_id: self.waiting_by_session.add(waiting.run_id, port),
            tenant: self.waiting_by_tenant.add(waiting.tenant, port),
            ..waiting
        };
        self.waiting.insert(port, waiting);
        before
    }

    /// A port that waits does so for no proxy any more: its tenant gets it by its number, or where there is no
    /// other. What waits there now.
    pub fn wait_for_none(&mut self, port: PortId) -> Option<&Waiting> {
        let waiting = self.waiting.get_mut(&port)?;
        waiting.name = Box::default();
        Some(waiting)
    }

    /// Forgets a port's last holder, once nothing holds the port any more.
    pub fn forget(&mut self, port: PortId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&port)?;
        self.waiting_by_session.remove(&waiting.run_id, port);
        self.waiting_by_tenant.remove(&waiting.tenant, port);
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
