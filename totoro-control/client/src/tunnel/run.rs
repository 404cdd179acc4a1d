//! The task that keeps a tunnel: starts frpc, listens to it, and starts it again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::event::{Event, Stats, Why};
use super::machine::Machine;
use super::state::{Phase, Snapshot};
use super::{Spec, watching};
use crate::access::Access;
use crate::error::Error;
use crate::frpc::admin::Admin;
use crate::frpc::{config, log, process::Process};
use crate::nodes::reached;
use crate::private::PrivateDir;
use crate::told::{Told, clean};

/// How often it is looked whether frpc answers, and an address is there.
const TICK: Duration = Duration::from_secs(2);
/// The same while an address is awaited.
const SOON: Duration = Duration::from_millis(20);
/// frpc hangs when it has not answered for so long.
const HANGS: Duration = Duration::from_secs(20);
/// The wait before frpc is started again, and the longest: it doubles.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After a run of this length the wait is short again.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// An frpc that ends sooner than this, never having tried to connect, does not work here at all.
const MAX_STILLBORN: u32 = 3;

/// Everything that a tunnel's task has.
pub(super) struct Runner {
    pub(super) spec: Spec,
    pub(super) access: Access,
    pub(super) machine: Machine,
    state: watch::Sender<Snapshot>,
    events: broadcast::Sender<Event>,
    ending: Arc<Notify>,
    dir: PrivateDir,
    pub(super) looks: watching::Looks,
}

/// How a run of frpc ended.
enum Ended {
    /// It was asked for, or has to be.
    Over,
    /// frpc ended, or had to be ended.
    Again(Why),
    /// frpc ended before it did anything; its words.
    Stillborn(String),
}

impl Runner {
    pub(super) fn new(
        spec: Spec,
        access: Access,
        events: broadcast::Sender<Event>,
        ending: Arc<Notify>,
    ) -> Result<Self, Error> {
        let snapshot = Snapshot::new(spec.control.url(), &access, &spec.proxies, now());
        let state = watch::Sender::new(snapshot.clone());
        Ok(Runner {
            machine: Machine::new(snapshot, &access.user),
            dir: PrivateDir::new()?,
            looks: watching::Looks::new(),
            spec,
            access,
            state,
            events,
            ending,
        })
    }

    pub(super) fn state(&self) -> watch::Receiver<Snapshot> {
        self.state.subscribe()
    }

    /// Until it is over; why.
    pub(super) async fn run(mut self) -> Option<Told> {
        let (mut wait, mut stillborn) = (WAITS.0, 0);
        while self.machine.fate.is_none() {
            let begun = Instant::now();
            let why = match self.run_frpc().await {
                Ok(Ended::Over) => break,
                Ok(Ended::Again(why)) => {
                    stillborn = 0;
                    why
                }
                // Its port may have been taken in between; a second time that is not why.
                Ok(Ended::Stillborn(said)) => {
                    stillborn += 1;
                    if stillborn >= MAX_STILLBORN {
                        let error = Error::FrpcFails {
                            path: self.spec.frpc.path.clone(),
                            said,
                        };
                        self.machine.fate = Some(fails(&error));
                        break;
                    }
                    Why::FrpcEnded { detail: said }
                }
                Err(error) => {
                    self.machine.fate = Some(fails(&error));
                    break;
                }
            };
            if begun.elapsed() > GOOD_RUN {
                wait = WAITS.0;
            }
            let event = self.machine.away(why, wait.as_secs(), now());
            self.tell([event]);
            tokio::select! {
                () = self.ending.notified() => break,
                () = sleep(wait) => {}
            }
            wait = (wait * 2).min(WAITS.1);
        }
        let event = self.machine.stopped(now());
        self.tell([event]);
        self.machine.fate
    }

    /// One run of frpc, from its start to its end.
    async fn run_frpc(&mut self) -> Result<Ended, Error> {
        let ending = Arc::clone(&self.ending);
        let server = tokio::select! {
            () = ending.notified() => return Ok(Ended::Over),
            server = self.reachable() => server,
        };
        self.machine.snapshot.server.clone_from(&server);
        let node = self.access.node_name.clone();
        self.tell([Event::Connecting {
            node,
            server: server.clone(),
        }]);
        let admin = Admin::on_free_port().map_err(|error| Error::file("127.0.0.1", error))?;
        let file = self.write(&server, &admin)?;
        let mut frpc = Process::start(&self.spec.frpc, &file)?;
        let ended = self.listen(&mut frpc, &admin).await;
        frpc.stop().await;
        ended
    }

    fn write(&self, server: &str, admin: &Admin) -> Result<std::path::PathBuf, Error> {
        let ca = match self.access.tls_ca.trim() {
            "" => None,
            pem => Some(self.dir.write("ca.pem", pem)?),
        };
        let file = config::File {
            access: &self.access,
            server_addr: server,
            control: self.spec.control.url(),
            proxies: &self.spec.proxies,
            admin,
            ca_file: ca.as_deref().and_then(Path::to_str),
        };
        let text = file
            .toml()
            .map_err(|error| Error::file("frpc.toml", error))?;
        self.dir.write("frpc.toml", &text)
    }

    /// Listens to frpc until it or the tunnel ends.
    async fn listen(&mut self, frpc: &mut Process, admin: &Admin) -> Result<Ended, Error> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ending = Arc::clone(&self.ending);
        let mut answered = Instant::now();
        let (mut last, mut tried) = (String::new(), false);
        loop {
            if self.machine.fate.is_some() {
                return Ok(Ended::Over);
            }
            let soon = self.machine.wants_address();
            tokio::select! {
                () = ending.notified() => return Ok(Ended::Over),
                line = frpc.line() => match line {
                    Some(line) => {
                        let line = self.hidden(&line);
                        let read = log::read(&line);
                        tried |= read == log::Line::Connecting;
                        if read != log::Line::Other || !tried {
                            last = clean(&line);
                        }
                        self.heard(read);
                    }
                    None => {
                        // Both its pipes are closed: it is gone, or as good as that.
                        let status = timeout(TICK, frpc.ended()).await.ok().flatten();
                        let status = status.map(|status| status.to_string()).unwrap_or_default();
                        let detail = format!("{status}: {last}");
                        return Ok(match tried {
                            true => Ended::Again(Why::FrpcEnded { detail }),
                            false => Ended::Stillborn(last),
                        });
                    }
                },
                () = sleep(SOON), if soon => self.ask(admin, &mut answered).await,
                _ = tick.tick() => {
                    // A control plane that takes its time must not keep whoever wants to stop.
                    let away = tokio::select! {
                        () = ending.notified() => return Ok(Ended::Over),
                        away = self.tick(admin, &mut answered) => away,
                    };
                    if let Some(why) = away {
                        return Ok(Ended::Again(why));
                    }
                }
            }
        }
    }

    /// What is looked at from time to time; why frpc has to be started anew.
    async fn tick(&mut self, admin: &Admin, answered: &mut Instant) -> Option<Why> {
        self.ask(admin, answered).await;
        if answered.elapsed() > HANGS {
            return Some(Why::FrpcHangs);
        }
        self.look().await.then_some(Why::Lost)
    }

    /// Asks frpc how its proxies stand.
    async fn ask(&mut self, admin: &Admin, answered: &mut Instant) {
        if let Some(listed) = admin.status().await {
            *answered = Instant::now();
            let events = self.machine.status(&listed);
            self.tell(events);
        }
    }

    fn heard(&mut self, line: log::Line) {
        let running = line == log::Line::LoggedIn;
        let events = self.machine.line(line, now());
        if running {
            self.looks.begin();
        }
        self.tell(events);
    }

    /// The first of the node's addresses that answers, in their order; the first of all where none
    /// does, so that frpc says why.
    async fn reachable(&self) -> String {
        let addresses = &self.access.server_addr;
        let first = addresses.first().cloned().unwrap_or_default();
        if addresses.len() < 2 {
            return first;
        }
        match reached(addresses).await {
            Some((address, _)) => address.to_owned(),
            None => first,
        }
    }

    /// frpc's words without the secret, should it ever quote its file.
    fn hidden(&self, line: &str) -> String {
        line.replace(self.access.secret.reveal(), "…")
    }

    /// Shows the state, then tells what happened: who hears of it finds the state as it says.
    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Event>) {
        self.state.send_if_modified(|shown| {
            let changed = *shown != self.machine.snapshot;
            if changed {
                shown.clone_from(&self.machine.snapshot);
            }
            changed
        });
        for event in events {
            // Nobody may be listening.
            self.events.send(event).ok();
        }
    }

    /// New figures.
    pub(super) fn figures(&mut self, stats: Stats) {
        self.machine.snapshot.left = stats.left;
        self.machine.snapshot.stats = Some(stats.clone());
        self.tell([Event::Stats(stats)]);
    }

    /// Whether frpc is logged in.
    pub(super) fn runs(&self) -> bool {
        self.machine.snapshot.phase == Phase::Running
    }
}

/// What ends a tunnel on our side of it.
fn fails(error: &Error) -> Told {
    use crate::lang::Lang;
    Told::new("", &error.what(Lang::En), &error.next(Lang::En))
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
