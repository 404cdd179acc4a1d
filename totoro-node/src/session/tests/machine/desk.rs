//! The desk and its model, side by side.

use std::collections::BTreeSet;

use totoro_api::limits::Limits;
use totoro_api::wire::event::NodeEvent;

use super::super::world::{On, World, online, wire, world};
use super::model::{ANYONE, Model, PUBLIC, Port, SESSION_S, Session, State, TENANTS, Ticket};
use super::{Change, Run, Step};

/// How near an instant the two clocks could see different things, ms.
const NEAR_MS: i64 = 3_000;
/// The visitor's address: an anonymous tenant is one.
pub(super) const VISITOR: u8 = 9;

pub(super) struct Pair {
    /// Always there but for a restart.
    pub(super) world: Option<World>,
    pub(super) model: Model,
    /// run_ids by their numbers.
    pub(super) runs: Vec<String>,
    logins: Vec<On>,
    /// Connections that carry no session.
    pub(super) idle: BTreeSet<u64>,
    cookies: u64,
    /// A push was lost: the next one is everything.
    pub(super) stale: bool,
    /// What the control plane has of the spool.
    pub(super) had: Vec<NodeEvent>,
    /// How many events were looked at.
    pub(super) looked: usize,
}

impl Pair {
    pub(super) fn new() -> Pair {
        let mut world = world();
        world.node.public_limits = limits(PUBLIC);
        let model = Model::new(world.clock.now_ms());
        let mut pair = Pair {
            world: Some(world),
            model,
            runs: Vec::new(),
            logins: Vec::new(),
            idle: BTreeSet::new(),
            cookies: 0,
            stale: true,
            had: Vec::new(),
            looked: 0,
        };
        pair.change(Change::Nothing, false);
        for tenant in 0..TENANTS.len() {
            pair.issue(tenant, false);
        }
        pair
    }

    pub(super) fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("between steps there is one")
    }

    /// Lets the model's clock be the desk's, and no instant be near.
    fn now(&mut self) {
        loop {
            let now_ms = self.world().clock.now_ms();
            self.model.now_ms = now_ms;
            let near = |at: &i64| (at - now_ms).abs() < NEAR_MS;
            if !self.model.instants().iter().any(near) {
                return;
            }
            self.world().pass(NEAR_MS);
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        self.now();
        match step {
            Step::Issue { tenant, forged } => self.issue(tenant, forged),
            Step::Login {
                ticket,
                run,
                ip,
                wrong_user,
            } => self.login(ticket, run, ip, wrong_user),
            Step::Proxy { login, name, port } => self.proxy(login, name, port),
            Step::Close { login, name } => self.close(login, name),
            Step::HangUp { session, told } => self.hang_up(session, told),
            Step::Kick { session } => self.kick(session),
            Step::Change { what, lost } => self.change(what, lost),
            Step::Pass(seconds) => self.world().pass(1000 * seconds),
            Step::Set(seconds) => {
                self.world().pass(1000 * seconds);
                self.now();
                self.world().desk.reclock(1000 * seconds);
                self.model.reclock(seconds);
            }
            Step::Compare { lacks } => self.compare(lacks),
            Step::Tick => self.tick(),
            Step::Look => {
                self.world().desk.look_for_lost();
                self.model.look_for_lost(None);
            }
            Step::Forget => {
                self.world().desk.forget();
                self.world().desk.adopt_spent();
                let hash =
                    |ticket: &Ticket| blake3::hash(ticket.text.as_bytes()).to_hex().to_string();
                self.model.forget(hash);
            }
            Step::Restart => {
                let world = self.world.take().expect("between steps there is one");
                self.world = Some(world.restart());
                self.model.restart();
            }
            Step::Deliver { heard } => self.deliver(heard),
        }
        self.agree();
    }

    pub(super) fn tick(&mut self) {
        self.world().desk.tick();
        self.world().desk.second();
        self.model.tick();
    }

    /// One of these, the newest being the first.
    const fn newest(count: usize, number: usize) -> Option<usize> {
        if count == 0 {
            return None;
        }
        Some(count - 1 - number % count)
    }

    fn issue(&mut self, tenant: usize, forged: bool) {
        if let Some(invite) = self.model.control.invites.get(tenant)
            && invite.state == State::Revoked
        {
            // Nobody gets one for it.
            return;
        }
        let control = self.model.control.clone();
        let invite = control.invites.get(tenant);
        let (epoch, most) = invite.map_or((0, PUBLIC), |invite| (invite.epoch, invite.most));
        let mut times = (0, 0);
        let mut text = self.world().ticket_with(TENANTS[tenant], |claims| {
            claims.epoch = epoch;
            claims.limits = limits(most);
            claims.session_until = claims.iat + 4 * 3_600;
            times = (claims.exp, claims.session_until);
        });
        if forged {
            let other = if text.as_bytes()[40] == b'A' {
                "B"
            } else {
                "A"
            };
            text.replace_range(40..41, other);
        }
        self.model.tickets.push(Ticket {
            tenant,
            text,
            forged,
            epoch,
            rev: control.rev,
            key: control.key,
            most,
            exp: times.0,
            until: times.1,
            seen: None,
        });
    }

    fn login(&mut self, ticket: usize, run: Run, ip: u8, wrong_user: bool) {
        let Some(number) = Pair::newest(self.model.tickets.len(), ticket) else {
            return;
        };
        let ticket = self.model.tickets[number].clone();
        let run = match run {
            Run::None => None,
            Run::Own => ticket.seen.map(|seen| seen.run),
            Run::Other(number) => Pair::newest(self.runs.len(), number),
        };
        let run_id = run.map_or(String::new(), |run| self.runs[run].clone());
        let visits = ticket.tenant == ANYONE;
        let ip = if visits { VISITOR } else { ip };
        let user = match (visits, wrong_user) {
            (true, false) => "me",
            (true, true) => "a",
            (false, false) => TENANTS[ticket.tenant],
            (false, true) => "x",
        };
        self.cookies += 1;
        let cookie = self.cookies;
        let from = format!("192.0.2.{ip}:{}", 10_000 + cookie);
        let expected = self.model.login(number, run, ip, wrong_user);
        let granted = self
            .world()
            .login(user, &ticket.text, &run_id, (&from, cookie));
        let on = match (expected, granted) {
            (Err(expected), Err(refused)) => {
                assert_eq!(refused, expected);
                self.idle.insert(cookie);
                return;
            }
            (Ok(target), Ok(on)) => {
                let goes_on = target.map(|run| self.runs[run].clone());
                assert!(
                    goes_on.is_none_or(|run_id| run_id == on.run_id),
                    "{target:?}: {on:?}"
                );
                on
            }
            (expected, granted) => panic!("expected {expected:?}, and it was {granted:?}"),
        };
        let known = self.runs.iter().position(|run_id| *run_id == on.run_id);
        assert_eq!(known, expected.unwrap_or_default());
        let run = known.unwrap_or_else(|| {
            self.runs.push(on.run_id.clone());
            self.runs.len() - 1
        });
        let found = self.world().desk.lock().sessions.get(&on.run_id).cloned();
        let id = found.expect("it was granted").id;
        let session = Session {
            id,
            tenant: ticket.tenant,
            ticket: number,
            login: self.logins.len(),
            cookie,
            begun_ms: 0,
            lost_ms: None,
            silent: false,
        };
        self.model.logged_in(run, session, ip);
        self.logins.push(on);
    }

    /// A Login that something is asked by: mostly one whose session goes on by it.
    fn asking(&self, number: usize) -> Option<usize> {
        let mut live: Vec<usize> = self.model.sessions.values().map(|of| of.login).collect();
        live.sort_unstable();
        match Pair::newest(live.len(), number) {
            Some(at) if number < live.len() => Some(live[at]),
            _ => Pair::newest(self.logins.len(), number),
        }
    }

    fn proxy(&mut self, login: usize, name: u8, port: u16) {
        let Some(login) = self.asking(login) else {
            return;
        };
        let on = self.logins[login].clone();
        let expected = self.model.proxy(login, name, port);
        let granted = self.world().new_proxy(&on, &format!("p{name}"), port);
        let got = match (expected, granted) {
            (Err(expected), Err(refused)) => return assert_eq!(refused, expected),
            (Ok(Port::One(ports)), Ok(port)) if ports.contains(&port) => port,
            (Ok(Port::Free), Ok(port)) if self.model.is_free(port, login) => port,
            (expected, granted) => panic!("expected {expected:?}, and it was {granted:?}"),
        };
        self.model.opened(login, name, got, port == 0);
    }

    fn close(&mut self, login: usize, name: u8) {
        let Some(login) = self.asking(login) else {
            return;
        };
        let on = self.logins[login].clone();
        self.world().close_proxy(&on, &format!("p{name}"));
        self.model.closed(login, name);
    }

    /// frps is looked at, which has had the time to open all proxies, and has but for one.
    fn compare(&mut self, lacks: Option<usize>) {
        self.world().pass(NEAR_MS + 1_000);
        self.now();
        let lacks = lacks.and_then(|number| {
            let at = Pair::newest(self.model.leases.len(), number)?;
            self.model.leases.keys().nth(at).copied()
        });
        let there = self.model.leases.iter();
        let there = there.filter(|(port, _)| Some(**port) != lacks);
        let named = there.map(|(port, lease)| {
            let login = self.model.sessions[&lease.run].login;
            (
                wire(&self.logins[login], &format!("p{}", lease.name)),
                *port,
            )
        });
        let there = online(&named.collect::<Vec<_>>());
        assert_eq!(self.world().compare(&there), 0, "none is too young");
        self.model.compare(lacks);
    }

    /// One of the sessions that there are.
    fn session(&self, number: usize) -> Option<usize> {
        let runs: Vec<usize> = self.model.sessions.keys().copied().collect();
        Pair::newest(runs.len(), number).map(|at| runs[at])
    }

    fn hang_up(&mut self, session: usize, told: bool) {
        let Some(run) = self.session(session) else {
            return;
        };
        let cookie = self.model.sessions[&run].cookie;
        if self.model.sessions[&run].lost_ms.is_some() {
            return;
        }
        if told {
            self.world().hang_up(cookie);
            self.model.lose(run);
            return;
        }
        let mut maps = self.world().kernel.maps();
        maps.controls
            .retain(|_, control| control.socket.cookie != cookie);
        drop(maps);
        if let Some(session) = self.model.sessions.get_mut(&run) {
            session.silent = true;
        }
    }

    fn kick(&mut self, session: usize) {
        let Some(run) = self.session(session) else {
            return;
        };
        let id = self.model.sessions[&run].id.clone();
        self.world().desk.kick(&id).expect("it is there");
        self.model.end_tickets(run);
        self.model.close(run);
    }
}

pub(super) fn limits([clients, proxies]: [u32; 2]) -> Limits {
    Limits {
        max_clients: Some(clients),
        max_proxies: Some(proxies),
        session_max: Some(SESSION_S.unsigned_abs()),
        ..Limits::default()
    }
}
