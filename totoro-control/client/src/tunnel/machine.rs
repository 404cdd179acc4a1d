//! What frpc's words mean for a tunnel: pure, so that every order of them can be tried.

use totoro_api::Reason;
use totoro_api::frpc::host_port;

use super::event::{Event, Why};
use super::state::{Phase, ProxyState, Snapshot};
use crate::access::{is_brief, is_final};
use crate::frpc::admin::Status;
use crate::frpc::log::{Line, bare};
use crate::told::Told;

/// frpc tries again within so many seconds before it was ever logged in.
const FIRST_WAIT_S: u64 = 10;
/// The same afterwards.
const WAIT_S: u64 = 20;

/// A tunnel's state, and whether it has to end.
#[derive(Debug)]
pub(super) struct Machine {
    /// How it stands.
    pub(super) snapshot: Snapshot,
    /// frpc's `user`, which it may put before names.
    user: String,
    /// A proxy has run.
    ran: bool,
    /// Why it has to end.
    pub(super) fate: Option<Told>,
}

impl Machine {
    pub(super) fn new(snapshot: Snapshot, user: &str) -> Self {
        Machine {
            snapshot,
            user: user.to_owned(),
            ran: false,
            fate: None,
        }
    }

    /// A line of the log at this time, Unix seconds.
    pub(super) fn line(&mut self, line: Line, now: u64) -> Vec<Event> {
        match line {
            Line::Connecting if self.snapshot.phase == Phase::Running => {
                vec![self.away(Why::Lost, WAIT_S, now)]
            }
            Line::LoggedIn => {
                self.set(Phase::Running, now);
                self.snapshot.why = None;
                for proxy in &mut self.snapshot.proxies {
                    (proxy.up, proxy.announced, proxy.refused) = (false, false, None);
                }
                Vec::new()
            }
            Line::LoginFailed(text) => vec![self.login_failed(&text, now)],
            Line::ProxyUp(name) => {
                if let Some(proxy) = self.proxy(&name) {
                    (proxy.up, proxy.refused) = (true, None);
                    self.ran = true;
                }
                Vec::new()
            }
            Line::ProxyFailed(name, text) => self.proxy_failed(&name, &text).into_iter().collect(),
            Line::LocalFailed(text) => vec![Event::LocalFailed {
                detail: crate::told::clean(&text),
            }],
            Line::Connecting | Line::Other => Vec::new(),
        }
    }

    /// Whether the admin API has to be asked for an address.
    pub(super) fn wants_address(&self) -> bool {
        let wants = |proxy: &ProxyState| proxy.up && !proxy.announced;
        self.snapshot.proxies.iter().any(wants)
    }

    /// What the admin API says.
    pub(super) fn status(&mut self, listed: &[Status]) -> Vec<Event> {
        if self.snapshot.phase != Phase::Running {
            // It speaks of the connection before.
            return Vec::new();
        }
        let mut events = Vec::new();
        for status in listed.iter().filter(|status| status.status == "running") {
            let port = status.remote_addr.rsplit(':').next();
            let port = port.and_then(|port| port.parse::<u16>().ok());
            let host = host_port(&self.snapshot.server).map(|(host, _)| host.to_owned());
            let (Some(port), Some(host)) = (port.filter(|&port| port != 0), host) else {
                continue;
            };
            let address = crate::target::Target { host, port }.to_string();
            let (limits, left) = (self.snapshot.limits.clone(), self.snapshot.left);
            let Some(proxy) = self.proxy(&status.name) else {
                continue;
            };
            if !proxy.up || proxy.announced {
                continue;
            }
            (proxy.announced, proxy.address) = (true, Some(address.clone()));
            events.push(Event::Running {
                proxy: proxy.name.clone(),
                protocol: proxy.protocol,
                local: proxy.local.clone(),
                address,
                limits,
                left,
            });
        }
        events
    }

    /// It is not connected.
    pub(super) fn away(&mut self, why: Why, within_s: u64, now: u64) -> Event {
        for proxy in &mut self.snapshot.proxies {
            proxy.up = false;
        }
        if self.ran {
            if self.snapshot.phase == Phase::Running {
                self.snapshot.reconnects += 1;
            }
            self.set(Phase::Reconnecting, now);
        } else {
            self.set(Phase::Connecting, now);
        }
        self.snapshot.why = Some(why.clone());
        Event::Reconnecting { why, within_s }
    }

    /// Whether frpc is refused because its session has ended, by a kick or in its time: it would show the same
    /// ticket again and again, and one that is started anew begins another.
    pub(super) fn session_is_over(&self) -> bool {
        let Some(Why::Refused(told)) = &self.snapshot.why else {
            return false;
        };
        told.reason() == Some(Reason::SessionExpired)
    }

    /// Something that the control plane said of it, when it was asked again.
    pub(super) fn refused(&mut self, told: Told) {
        if told.reason().is_some_and(is_final) {
            self.fate = Some(told);
        }
    }

    /// It is over.
    pub(super) fn stopped(&mut self, now: u64) -> Event {
        for proxy in &mut self.snapshot.proxies {
            proxy.up = false;
        }
        self.set(Phase::Stopped, now);
        self.snapshot.ended.clone_from(&self.fate);
        Event::Stopped {
            why: self.fate.clone(),
        }
    }

    fn login_failed(&mut self, text: &str, now: u64) -> Event {
        let why = Why::of_login(text);
        let within = if self.ran { WAIT_S } else { FIRST_WAIT_S };
        let Why::Refused(told) = &why else {
            return self.away(why, within, now);
        };
        if self.ends_by(told) {
            let told = told.clone();
            self.fate = Some(told.clone());
            let proxy = None;
            let last = true;
            return Event::Refused { proxy, told, last };
        }
        self.away(why, within, now)
    }

    fn proxy_failed(&mut self, name: &str, text: &str) -> Option<Event> {
        let told = Told::by_frps(text);
        let proxy = self.proxy(name)?;
        (proxy.up, proxy.refused) = (false, Some(told.clone()));
        let name = proxy.name.clone();
        // As long as one of several runs or may yet run, so does the tunnel.
        let mut all = self.snapshot.proxies.iter();
        let hopeless = all.all(|proxy| {
            proxy
                .refused
                .as_ref()
                .is_some_and(|told| self.ends_by(told))
        });
        if hopeless {
            self.fate = Some(told.clone());
        }
        Some(Event::Refused {
            proxy: Some(name),
            told,
            last: hopeless,
        })
    }

    /// Whether this refusal ends a tunnel that is where this one is.
    fn ends_by(&self, told: &Told) -> bool {
        match told.reason() {
            Some(reason) => is_final(reason) || !self.ran && !is_brief(reason),
            None => !self.ran,
        }
    }

    fn proxy(&mut self, name: &str) -> Option<&mut ProxyState> {
        let name = bare(name, &self.user);
        let mut proxies = self.snapshot.proxies.iter_mut();
        proxies.find(|proxy| proxy.name == name)
    }

    fn set(&mut self, phase: Phase, now: u64) {
        if self.snapshot.phase != phase {
            (self.snapshot.phase, self.snapshot.since) = (phase, now);
        }
    }
}
