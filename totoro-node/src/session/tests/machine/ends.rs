//! The model's ends: of connections, sessions, leases, and of what is remembered.

use std::collections::BTreeMap;

use super::model::{
    ANYONE, COOL_MS, GRACE_MS, IDLE_MS, LATE_MS, Lease, Model, RESERVE_MS, SKEW_S, Session, State,
    TOMB_S, Ticket, Wait,
};

impl Model {
    pub(super) fn release(&mut self, port: u16) {
        let Some(lease) = self.leases.remove(&port) else {
            return;
        };
        self.late.remove(&port);
        let reserved_ms = self.now_ms + RESERVE_MS;
        let wait = Wait {
            tenant: lease.tenant,
            name: Some(lease.name),
            reserved_ms,
            cooling_ms: reserved_ms + COOL_MS,
        };
        self.waits.insert(port, wait);
        self.tell_port("proxy.closed", port, &lease);
    }

    pub(super) fn tell_port(&mut self, kind: &'static str, port: u16, lease: &Lease) {
        let id = &self.sessions[&lease.run].id;
        let of = format!("{id} p{} {port}", lease.name);
        self.told.push((kind, of));
    }

    /// frps was seen to have every proxy but the one of this port.
    pub(super) fn compare(&mut self, lacks: Option<u16>) {
        if let Some(port) = lacks {
            let unseen = self.leases[&port].unseen;
            self.release(port);
            if let Some(wait) = self.waits.get_mut(&port).filter(|_| unseen) {
                wait.name = None;
            }
        }
        self.seen();
    }

    /// Whatever is leased now: it is not known to be missing in frps.
    fn seen(&mut self) {
        for lease in self.leases.values_mut() {
            lease.unseen = false;
        }
    }

    fn release_all(&mut self, run: usize) {
        let ports = self.leases.iter().filter(|(_, lease)| lease.run == run);
        let ports: Vec<u16> = ports.map(|(port, _)| *port).collect();
        for port in ports {
            self.release(port);
        }
    }

    /// A session's connection is gone, and that is known.
    pub(super) fn lose(&mut self, run: usize) {
        self.release_all(run);
        if let Some(session) = self.sessions.get_mut(&run) {
            session.lost_ms = Some(self.now_ms);
            session.silent = false;
        }
    }

    pub(super) fn look_for_lost(&mut self, tenant: Option<usize>) {
        let gone = self.sessions.iter().filter(|(_, session)| {
            session.silent && tenant.is_none_or(|tenant| session.tenant == tenant)
        });
        let gone: Vec<usize> = gone.map(|(run, _)| *run).collect();
        for run in gone {
            self.lose(run);
        }
    }

    pub(super) fn close(&mut self, run: usize) {
        self.release_all(run);
        if let Some(session) = self.sessions.remove(&run) {
            self.told.push(("session.closed", session.id));
            if session.tenant == ANYONE {
                self.visited_ms = Some(self.now_ms);
            }
        }
    }

    pub(super) fn end_tickets(&mut self, run: usize) {
        let seen = self
            .tickets
            .iter_mut()
            .filter_map(|ticket| ticket.seen.as_mut());
        seen.filter(|seen| seen.run == run)
            .for_each(|seen| seen.ended = true);
    }

    /// Who has no standing is cut.
    pub(super) fn enforce(&mut self) {
        let judged =
            |(run, session): (&usize, &Session)| Some((*run, self.may_live(session).err()?));
        let doomed: Vec<_> = self.sessions.iter().filter_map(judged).collect();
        for (run, why) in doomed {
            if why == "session_expired" {
                self.end_tickets(run);
            }
            self.close(run);
        }
    }

    /// What time has ended.
    pub(super) fn tick(&mut self) {
        self.enforce();
        let over = self.sessions.iter().filter(|(_, session)| {
            session
                .lost_ms
                .is_some_and(|lost_ms| lost_ms + GRACE_MS <= self.now_ms)
        });
        let over: Vec<usize> = over.map(|(run, _)| *run).collect();
        for run in over {
            self.close(run);
        }
    }

    /// The clock was set: nothing was dated by what is to come, and who is lost has the whole grace.
    pub(super) fn reclock(&mut self, by_s: i64) {
        let now_ms = self.now_ms;
        let is_wrong = |lost_ms: i64| by_s != 0 || lost_ms > now_ms;
        for session in self.sessions.values_mut() {
            session.begun_ms = session.begun_ms.min(now_ms);
            let lost_ms = session.lost_ms;
            session.lost_ms = lost_ms.map(|at| if is_wrong(at) { now_ms } else { at });
        }
        for wait in self.waits.values_mut() {
            let reserved_ms = now_ms + RESERVE_MS;
            wait.reserved_ms = wait.reserved_ms.min(reserved_ms);
            wait.cooling_ms = wait.cooling_ms.min(reserved_ms + COOL_MS);
        }
        for (_, until) in self.late.values_mut() {
            *until = (*until).min(now_ms + LATE_MS);
        }
        self.visited_ms = self.visited_ms.map(|at| at.min(now_ms));
        self.enforce();
    }

    /// The applied policy is the control plane's; these invites came with it.
    pub(super) fn apply(&mut self, came: &[usize]) {
        self.applied = self.control.clone();
        let now = self.now();
        for tenant in came {
            let invite = &self.applied.invites[*tenant];
            if invite.state == State::Revoked {
                self.tombs[*tenant] = Some((invite.epoch, now + TOMB_S));
            }
        }
        for tomb in &mut self.tombs {
            *tomb = tomb.filter(|(_, until)| *until > now);
        }
        self.enforce();
    }

    pub(super) fn restart(&mut self) {
        self.late.clear();
        self.seen();
        self.look_for_lost(None);
        self.enforce();
    }

    /// Tickets that open nothing, ports that nobody waits for. `hash` tells tickets' order.
    pub(super) fn forget(&mut self, hash: impl Fn(&Ticket) -> String) {
        let now = self.now();
        let mut newest = BTreeMap::<usize, (i64, String, usize)>::new();
        for (number, ticket) in self.tickets.iter().enumerate() {
            if let Some(seen) = ticket.seen {
                let this = (ticket.exp, hash(ticket), number);
                let best = newest.entry(seen.run).or_insert_with(|| this.clone());
                *best = best.clone().max(this);
            }
        }
        for (number, ticket) in self.tickets.iter_mut().enumerate() {
            let Some(seen) = ticket.seen else { continue };
            let resumes = newest[&seen.run].2 == number && self.sessions.contains_key(&seen.run);
            if !resumes && ticket.exp + SKEW_S < now {
                ticket.seen = None;
            }
        }
        let here = |tenant| {
            self.sessions
                .values()
                .any(|session| session.tenant == tenant)
                || self.leases.values().any(|lease| lease.tenant == tenant)
        };
        if self.visited_ms.is_some_and(|at| at + IDLE_MS < self.now_ms) && !here(ANYONE) {
            self.visited_ms = None;
        }
        let known = self.visited_ms.is_some();
        self.waits
            .retain(|_, wait| known || wait.tenant != ANYONE || wait.cooling_ms >= self.now_ms);
    }
}
