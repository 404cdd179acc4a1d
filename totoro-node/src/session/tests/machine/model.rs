//! What the desk must be, in plain tables and as the contract has it: nothing of the desk's own code,
//! nor of the decisions that it takes by, is used here.

use std::collections::BTreeMap;

/// Tenants: two invites, and a visitor without one.
pub(super) const TENANTS: [&str; 3] = ["a", "b", ""];
/// The number of the last of them.
pub(super) const ANYONE: usize = 2;
/// What the visitor may have of sessions and of proxies.
pub(super) const PUBLIC: [u32; 2] = [2, 2];
/// The longest life of a session, seconds.
pub(super) const SESSION_S: i64 = 9_000;
pub(super) const GRACE_MS: i64 = 30_000;
pub(super) const RESERVE_MS: i64 = 600_000;
pub(super) const COOL_MS: i64 = 600_000;
pub(super) const LATE_MS: i64 = 5_000;
/// How long a tenant without anything is known, ms.
pub(super) const IDLE_MS: i64 = 600_000;
/// How far clocks may be apart, seconds.
pub(super) const SKEW_S: i64 = 60;
/// How long a revocation is remembered, seconds.
pub(super) const TOMB_S: i64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Paused,
    Revoked,
}

/// An invite of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invite {
    pub(super) state: State,
    pub(super) epoch: u32,
    /// The most sessions and proxies.
    pub(super) most: [u32; 2],
    /// Unix seconds.
    pub(super) expires_at: Option<i64>,
}

/// A policy, the control plane's or the one that is applied.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) rev: u64,
    pub(super) invites: [Invite; 2],
    pub(super) draining: bool,
    /// The number of the key that tickets are signed with.
    pub(super) key: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) tenant: usize,
    pub(super) text: String,
    pub(super) forged: bool,
    pub(super) epoch: u32,
    pub(super) rev: u64,
    pub(super) key: u32,
    pub(super) most: [u32; 2],
    /// Unix seconds.
    pub(super) exp: i64,
    pub(super) until: i64,
    pub(super) seen: Option<Seen>,
}

/// A ticket that opened something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The session's run_id, by its number.
    pub(super) run: usize,
    pub(super) ip: u8,
    pub(super) ended: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) tenant: usize,
    /// The number of the ticket that it came back with last.
    pub(super) ticket: usize,
    /// The number of the Login that it had last.
    pub(super) login: usize,
    pub(super) cookie: u64,
    pub(super) begun_ms: i64,
    pub(super) lost_ms: Option<i64>,
    /// Its connection is gone, and nobody has told of it.
    pub(super) silent: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) run: usize,
    pub(super) tenant: usize,
    pub(super) name: u8,
    /// The node chose the port, and has not seen yet that frps opened it.
    pub(super) unseen: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Wait {
    pub(super) tenant: usize,
    /// `None`: it waits for no proxy.
    pub(super) name: Option<u8>,
    pub(super) reserved_ms: i64,
    pub(super) cooling_ms: i64,
}

/// What holds for a ticket.
pub(super) struct Standing {
    pub(super) held: Option<&'static str>,
    pub(super) most: [u32; 2],
    /// Unix seconds.
    end: Option<i64>,
}

impl Standing {
    /// When a session that began then (Unix ms) must end, Unix seconds.
    pub(super) fn end(&self, begun_ms: i64) -> i64 {
        let longest = begun_ms.div_euclid(1000) + SESSION_S;
        self.end.map_or(longest, |end| end.min(longest))
    }
}

/// Which port a proxy gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// One of these.
    One(Vec<u16>),
    /// Any that is free.
    Free,
}

/// What is told: the kind, and of whom or what.
pub(super) type Told = (&'static str, String);

#[derive(Debug)]
pub(super) struct Model {
    pub(super) now_ms: i64,
    pub(super) control: Policy,
    pub(super) applied: Policy,
    pub(super) tickets: Vec<Ticket>,
    pub(super) sessions: BTreeMap<usize, Session>,
    pub(super) leases: BTreeMap<u16, Lease>,
    pub(super) waits: BTreeMap<u16, Wait>,
    /// Closes that may still come for a port's earlier lease, and until when.
    pub(super) late: BTreeMap<u16, (u32, i64)>,
    /// By invite: the epoch that was revoked, and until when that is known, Unix seconds.
    pub(super) tombs: [Option<(u32, i64)>; 2],
    /// When the visitor last had a session.
    pub(super) visited_ms: Option<i64>,
    /// What happened since it was last looked at.
    pub(super) told: Vec<Told>,
}

impl Model {
    pub(super) fn new(now_ms: i64) -> Model {
        let invite = Invite {
            state: State::Active,
            epoch: 1,
            most: [2, 2],
            expires_at: None,
        };
        let policy = Policy {
            rev: 0,
            invites: [invite; 2],
            draining: false,
            key: 0,
        };
        Model {
            now_ms,
            control: policy.clone(),
            applied: policy,
            tickets: Vec::new(),
            sessions: BTreeMap::new(),
            leases: BTreeMap::new(),
            waits: BTreeMap::new(),
            late: BTreeMap::new(),
            tombs: [None; 2],
            visited_ms: None,
            told: Vec::new(),
        }
    }

    pub(super) const fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    /// Every instant at which something changes by itself, Unix ms.
    pub(super) fn instants(&self) -> Vec<i64> {
        let policies = [&self.control, &self.applied];
        let expiries = policies
            .into_iter()
            .flat_map(|policy| policy.invites)
            .filter_map(|invite| invite.expires_at);
        let tickets = self
            .tickets
            .iter()
            .flat_map(|ticket| [ticket.exp + SKEW_S, ticket.until]);
        let tombs = self.tombs.iter().flatten().map(|(_, until)| *until);
        let seconds = expiries.chain(tickets).chain(tombs).map(|at| at * 1000);
        let lost = self.sessions.values().filter_map(|session| session.lost_ms);
        let waits = self.waits.values();
        let longest = self
            .sessions
            .values()
            .map(|of| of.begun_ms + 1000 * SESSION_S);
        let visited = self.visited_ms.map(|at| at + IDLE_MS);
        seconds
            .chain(lost.map(|at| at + GRACE_MS))
            .chain(waits.flat_map(|wait| [wait.reserved_ms, wait.cooling_ms]))
            .chain(self.late.values().map(|(_, until)| *until))
            .chain(longest)
            .chain(visited)
            .collect()
    }

    pub(super) fn standing(&self, ticket: &Ticket) -> Result<Standing, &'static str> {
        let applied = &self.applied;
        let drains = applied.draining.then_some("node_draining");
        if ticket.tenant == ANYONE {
            return Ok(Standing {
                held: drains,
                most: PUBLIC,
                end: Some(ticket.until),
            });
        }
        if self.tombs[ticket.tenant].is_some_and(|(epoch, _)| ticket.epoch <= epoch) {
            return Err("invite_revoked");
        }
        if ticket.rev > applied.rev {
            // It knows more than the node has heard.
            return Ok(Standing {
                held: drains,
                most: ticket.most,
                end: Some(ticket.until),
            });
        }
        let invite = &applied.invites[ticket.tenant];
        if invite.state == State::Revoked {
            return Err("invite_revoked");
        }
        if invite.expires_at.is_some_and(|at| at <= self.now()) {
            return Err("invite_expired");
        }
        if ticket.epoch < invite.epoch {
            return Err("ticket_expired");
        }
        let paused = (invite.state == State::Paused).then_some("invite_paused");
        Ok(Standing {
            held: drains.or(paused),
            most: invite.most,
            end: invite.expires_at,
        })
    }

    /// Whether a session may live.
    pub(super) fn may_live(&self, session: &Session) -> Result<(), &'static str> {
        let standing = self.standing(&self.tickets[session.ticket])?;
        match standing.end(session.begun_ms) <= self.now() {
            true => Err("session_expired"),
            false => Ok(()),
        }
    }

    /// A Login with a ticket, the run_id of another and from an address; the number of its run_id, or
    /// `None` for a new one.
    pub(super) fn login(
        &mut self,
        number: usize,
        run: Option<usize>,
        ip: u8,
        wrong_user: bool,
    ) -> Result<Option<usize>, &'static str> {
        let ticket = self.tickets[number].clone();
        if ticket.seen.is_none() {
            if ticket.key != self.applied.key {
                return Err("ticket_key_unknown");
            }
            if ticket.forged {
                return Err("ticket_forged");
            }
        }
        let standing = self.standing(&ticket)?;
        if wrong_user {
            return Err("proxy_name_denied");
        }
        self.look_for_lost(Some(ticket.tenant));
        let target = self.target(&ticket, run, ip)?;
        let known = target.and_then(|run| self.sessions.get(&run));
        if let Some(held) = standing.held.filter(|_| known.is_none()) {
            return Err(held);
        }
        // A newer ticket begins the session's time anew.
        let goes_on = known.filter(|_| ticket.seen.is_some());
        let begun_ms = goes_on.map_or(self.now_ms, |session| session.begun_ms);
        if standing.end(begun_ms) <= self.now() {
            return Err("session_expired");
        }
        let others = self.sessions.iter().filter(|(run, session)| {
            session.tenant == ticket.tenant && session.lost_ms.is_none() && Some(**run) != target
        });
        if others.count() >= standing.most[0] as usize {
            return Err("max_clients");
        }
        Ok(target)
    }

    /// The contract's table of logins.
    fn target(
        &self,
        ticket: &Ticket,
        run: Option<usize>,
        ip: u8,
    ) -> Result<Option<usize>, &'static str> {
        let expired = ticket.exp + SKEW_S < self.now();
        let whose = run
            .and_then(|run| self.sessions.get(&run))
            .map(|session| session.tenant == ticket.tenant);
        let Some(seen) = ticket.seen else {
            return match whose {
                Some(false) => Err("ticket_in_use"),
                _ if expired => Err("ticket_expired"),
                Some(true) => Ok(run),
                None => Ok(None),
            };
        };
        if run == Some(seen.run) {
            return match seen.ended {
                true => Err("session_expired"),
                false => Ok(run),
            };
        }
        if whose.is_some() {
            return Err("ticket_in_use");
        }
        if expired {
            return Err("ticket_expired");
        }
        if seen.ended {
            return Err("session_expired");
        }
        let session = self.sessions.get(&seen.run);
        let connected = session.is_some_and(|session| session.lost_ms.is_none());
        if connected && seen.ip != ip {
            return Err("ticket_in_use");
        }
        Ok(Some(seen.run))
    }

    /// A Login was granted.
    pub(super) fn logged_in(&mut self, run: usize, session: Session, ip: u8) {
        let now_ms = self.now_ms;
        let old = self.sessions.get(&run).cloned();
        if old.as_ref().is_some_and(|old| old.lost_ms.is_none()) {
            self.lose(run);
        }
        let seen = self.tickets[session.ticket].seen;
        let resumed = seen.is_some();
        self.tickets[session.ticket].seen = Some(Seen {
            run,
            ip,
            ended: false,
        });
        if session.tenant == ANYONE {
            self.visited_ms = Some(now_ms);
        }
        let kind = match &old {
            Some(_) => "session.resumed",
            None => "session.opened",
        };
        self.told.push((kind, session.id.clone()));
        let begun_ms = match old {
            Some(old) if resumed => old.begun_ms,
            _ => now_ms,
        };
        let session = Session {
            begun_ms,
            ..session
        };
        self.sessions.insert(run, session);
    }
}
