//! The model's ports: who gets which, and who may have it back.

use super::model::{LATE_MS, Lease, Model, Port, Session, Wait};

impl Model {
    /// A session that is asked about by a Login of its own.
    pub(super) fn asked_by(&self, login: usize) -> Option<(usize, &Session)> {
        let mut sessions = self.sessions.iter();
        sessions
            .find(|(_, session)| session.login == login)
            .map(|(run, session)| (*run, session))
    }

    /// What a proxy gets; changes nothing.
    pub(super) fn proxy(&self, login: usize, name: u8, port: u16) -> Result<Port, &'static str> {
        let (run, session) = self.asked_by(login).ok_or("session_expired")?;
        let standing = self.standing(&self.tickets[session.ticket])?;
        if standing.end(session.begun_ms) <= self.now() {
            return Err("session_expired");
        }
        let tenant = session.tenant;
        let ours = |lease: &Lease| lease.tenant == tenant && lease.name == name;
        if self
            .leases
            .values()
            .any(|lease| ours(lease) && lease.run != run)
        {
            return Err("proxy_name_denied");
        }
        let has = self.leases.iter().find(|(_, lease)| ours(lease));
        let has = has.map(|(port, _)| *port);
        if has.is_some() && (port == 0 || has == Some(port)) {
            return Ok(Port::One(has.into_iter().collect()));
        }
        let of_tenant = self.leases.values().filter(|lease| lease.tenant == tenant);
        if of_tenant.count() - usize::from(has.is_some()) >= standing.most[1] as usize {
            return Err("max_proxies");
        }
        let mine = self
            .waits
            .iter()
            .filter(|(_, wait)| wait.tenant == tenant && wait.name == Some(name));
        let newest = mine.clone().map(|(_, wait)| wait.reserved_ms).max();
        // Two that were given up at once, as near as this clock can tell.
        let last = mine.filter(|(_, wait)| newest.is_some_and(|at| at - wait.reserved_ms < 3_000));
        let last: Vec<u16> = last.map(|(port, _)| *port).collect();
        let gets = match port {
            0 if last.is_empty() => Port::Free,
            0 => Port::One(last),
            port if self.leases.contains_key(&port) => return Err("port_in_use"),
            port if self.cools(port, tenant) => return Err("port_cooling"),
            port => Port::One(vec![port]),
        };
        let cooling = |wait: &&Wait| wait.tenant == tenant && self.now_ms < wait.cooling_ms;
        let of_tenant = self.leases.values().filter(|lease| lease.tenant == tenant);
        let kept = of_tenant.count() + self.waits.values().filter(cooling).count();
        let is_more = match &gets {
            Port::One(ports) => !ports
                .iter()
                .all(|port| self.waits.get(port).as_ref().is_some_and(cooling)),
            Port::Free => true,
        };
        if is_more && kept >= 2 * standing.most[1] as usize + 8 {
            return Err("rate_limited");
        }
        let back = |port: &u16| {
            self.waits.get(port).is_some_and(|wait| {
                let is_its = wait.tenant == tenant && wait.name == Some(name);
                is_its && self.now_ms < wait.reserved_ms
            })
        };
        match (&gets, standing.held) {
            (Port::One(ports), Some(held)) if !ports.iter().all(back) => Err(held),
            (Port::Free, Some(held)) => Err(held),
            _ => Ok(gets),
        }
    }

    /// Whether a port was another's a moment ago.
    fn cools(&self, port: u16, tenant: usize) -> bool {
        let wait = self.waits.get(&port);
        wait.is_some_and(|wait| wait.tenant != tenant && self.now_ms < wait.cooling_ms)
    }

    /// Whether somebody who has no port may get this one.
    pub(super) fn is_free(&self, port: u16, login: usize) -> bool {
        let tenant = self.asked_by(login).map(|(_, session)| session.tenant);
        let waits = |tenant| match self.waits.get(&port) {
            None => false,
            Some(wait) if wait.tenant == tenant => self.now_ms < wait.reserved_ms,
            Some(wait) => self.now_ms < wait.cooling_ms,
        };
        !self.leases.contains_key(&port) && tenant.is_some_and(|tenant| !waits(tenant))
    }

    /// A proxy was granted this port, by its number or as any.
    pub(super) fn opened(&mut self, login: usize, name: u8, port: u16, as_any: bool) {
        let Some((run, session)) = self.asked_by(login) else {
            return;
        };
        let tenant = session.tenant;
        let until = self.now_ms + LATE_MS;
        let ours = |lease: &Lease| lease.tenant == tenant && lease.name == name;
        let has = self.leases.iter().find(|(_, lease)| ours(lease));
        let has = has.map(|(port, _)| *port);
        if has == Some(port) {
            let still = self
                .late
                .get(&port)
                .filter(|(_, until)| self.now_ms < *until);
            let still = still.map_or(0, |(count, _)| *count);
            self.late.insert(port, (still + 1, until));
            return;
        }
        if let Some(before) = has {
            self.release(before);
        }
        let lease = Lease {
            run,
            tenant,
            name,
            unseen: as_any,
        };
        self.waits.remove(&port);
        self.tell_port("proxy.opened", port, &lease);
        self.leases.insert(port, lease);
        if has.is_some() {
            self.late.insert(port, (1, until));
        }
    }

    /// A CloseProxy of some Login.
    pub(super) fn closed(&mut self, login: usize, name: u8) {
        let Some((run, _)) = self.asked_by(login) else {
            return;
        };
        let named = |lease: &Lease| lease.run == run && lease.name == name;
        let Some((port, _)) = self.leases.iter().find(|(_, lease)| named(lease)) else {
            return;
        };
        let port = *port;
        if let Some((count, until)) = self.late.get_mut(&port)
            && *count > 0
            && self.now_ms < *until
        {
            *count -= 1;
            return;
        }
        self.release(port);
    }
}
