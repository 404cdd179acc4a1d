//! The rounds: each measures all in turn, so that what else the machine does hits all alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use totoro_control::store::{SledStore, Store};
use totoro_report::{Better, Figure, Relative, Run, locked};

use crate::bare::{Bare, record};
use crate::client::Request;
use crate::frps::Nodes;
use crate::series::{Series, cpu_of};
use crate::server::Real;
use crate::tls::Certificate;

/// How the rounds are made.
pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) clients: usize,
    pub(crate) length: Duration,
    /// Only calls whose name has this in it.
    pub(crate) only: String,
    /// Over TLS.
    pub(crate) tls: bool,
    /// What all calls have in common that another run may not have: those of the one are not the other's.
    pub(crate) how: String,
}

/// The name of a call's baseline.
fn bare_of(call: &str) -> String {
    format!("bare {call}")
}

/// The name of a call's baseline that writes one record.
fn durable_of(call: &str) -> String {
    format!("bare and durable {call}")
}

/// What was measured: by name, one of each round.
struct Calls(Vec<(String, Vec<Series>)>);

const BARE: &str = "bare handler";
const DURABLE: &str = "bare, durable handler";
const STORE: &str = "store's group commit";
/// What is measured, whether it has a durable part, and the goals: over its bare handler (with one
/// durable record each, where it has such a part), and over the store's group commit.
const CALLS: [(&str, bool, Option<f64>, Option<f64>); 7] = [
    ("oauth/token", true, Some(0.7), None),
    ("invites/resolve", true, None, Some(0.7)),
    ("invite creation", true, None, Some(0.7)),
    ("heartbeat", false, None, None),
    ("frps/auth/handshake: Login", true, Some(0.7), None),
    (
        "frps/auth/proxy: NewProxy, CloseProxy",
        true,
        Some(0.7),
        None,
    ),
    ("frps/auth/proxy: NewUserConn", false, Some(0.7), None),
];

impl Rounds {
    /// Measures, and adds the figures.
    pub(crate) async fn run(&self, run: &mut Run) {
        self.tell(run);
        self.measure().await.add(&self.how, run);
    }

    /// Says how it is measured, and beside what.
    fn tell(&self, run: &mut Run) {
        let warp = locked("warp");
        run.baseline(
            BARE,
            &format!(
                "warp {warp}, in a process of its own: parses the body, does the call's one signature \
                 operation, and answers; no store, no audit, no limits"
            ),
        );
        run.baseline(
            DURABLE,
            "the same, and commits one key of 300 bytes to a store of its own, which is ours, before it answers",
        );
        run.baseline(
            STORE,
            &format!(
                "this commit's store on sled {}, within the bench: the same key per commit, without HTTP, from \
                 as many writers as there are clients",
                locked("sled")
            ),
        );
        run.note(format!(
            "Calls: {} clients, each on its own connection{}; {} rounds of {} ms, all in turns, in another order \
             each, and each once the server's events are in segments.",
            self.clients,
            self.how,
            self.count,
            self.length.as_millis()
        ));
    }

    async fn measure(&self) -> Calls {
        let certificate = self.tls.then(Certificate::new);
        let wanted = |name: &str| name.contains(&self.only);
        let has_codes = CALLS[..2].iter().any(|(name, ..)| wanted(name));
        let real = Real::start(certificate.as_ref(), has_codes).await;
        // More than clients: on one node logins come one after the other, and tickets are remembered.
        let nodes = Nodes::start(real.control(), 4 * self.clients).await;
        let keys = nodes.keys(real.control()).await;
        let (dir, bare_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let certificate = certificate.as_ref().map(|made| made.dir.path());
        let bare = Bare::start(&keys, None, certificate);
        let durable = Bare::start(&keys, Some(bare_dir.path()), certificate);
        // Twice what was ever measured.
        let logins = 2 * 12 * usize::try_from(self.length.as_millis()).unwrap() * (self.count + 1);
        let logins = if wanted(CALLS[4].0) { logins } else { 1 };
        let tickets = nodes.tickets(real.control(), logins).await;
        let store: Arc<dyn Store> = Arc::new(SledStore::open(dir.path(), 64 << 20).unwrap());
        let mut asked = Vec::new();
        for (name, writes, _, _) in CALLS {
            if !wanted(name) {
                continue;
            }
            let request = |server: &str| match name {
                "oauth/token" => real.token(server),
                "invites/resolve" => real.resolve(server),
                "invite creation" => real.invite(server),
                "heartbeat" => real.heartbeat(server),
                "frps/auth/handshake: Login" => nodes.login_requests(server, &tickets),
                "frps/auth/proxy: NewUserConn" => Request::again(server, nodes.conns(server)),
                _ => Request::own(server, nodes.proxies(server), 2),
            };
            let ours = match name {
                // A ticket opens one session; the bare handlers don't mind.
                "frps/auth/handshake: Login" => request(real.address()).once(),
                _ => request(real.address()),
            };
            let mut all = vec![
                (name.to_owned(), ours, real.control().pid()),
                (bare_of(name), request(&bare.address), bare.pid()),
            ];
            if writes {
                let request = request(&durable.address);
                all.push((durable_of(name), request, durable.pid()));
            }
            asked.push(all);
        }
        let names = asked.iter().flatten().map(|(name, ..)| name.clone());
        let names = names.chain([STORE.to_owned()]);
        let mut calls = Calls(names.map(|name| (name, Vec::new())).collect());
        // The first round warms up and does not count.
        for round in 0..=self.count {
            let mut measured = Vec::new();
            for all in &asked {
                // Another is first in each round, and nobody has what the one before left to do.
                for nth in turns(round, all.len()) {
                    let (name, request, server) = &all[nth];
                    real.settled().await;
                    let one = request.measure(self.clients, self.length, *server).await;
                    measured.push((name.as_str(), one));
                }
            }
            real.settled().await;
            measured.push((STORE, self.group_commit(&store, round).await));
            if round > 0 {
                for (name, one) in measured {
                    calls.push(name, one);
                }
            }
        }
        store.close().await;
        calls
    }

    /// One small durable write after the other, from as many writers as there are clients.
    async fn group_commit(&self, store: &Arc<dyn Store>, round: usize) -> Series {
        let this = i32::try_from(std::process::id()).unwrap();
        let (began, before) = (Instant::now(), cpu_of(this));
        let writing = (0..self.clients).map(|writer| {
            let (store, length) = (Arc::clone(store), self.length);
            tokio::spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < length {
                    let commit = record(&format_args!("{round}/{writer}/{}", took.len()));
                    let asked = Instant::now();
                    store.commit(commit).await.unwrap();
                    took.push(asked.elapsed());
                }
                took
            })
        });
        let mut took = Vec::new();
        for writer in writing.collect::<Vec<_>>() {
            took.extend(writer.await.unwrap());
        }
        Series::new(took, began.elapsed(), cpu_of(this) - before)
    }
}

/// The order of so many in a round.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |nth| (nth + round) % count)
}

impl Calls {
    fn push(&mut self, name: &str, one: Series) {
        let found = self.0.iter_mut().find(|(of, _)| of == name);
        found.expect("all have a place").1.push(one);
    }

    fn of(&self, name: &str) -> &[Series] {
        let found = self.0.iter().find(|(of, _)| *of == name);
        found.map_or(&[], |(_, series)| series)
    }

    /// Adds what was measured of each call, beside its baselines, and what the store itself does.
    fn add(&self, how: &str, run: &mut Run) {
        for (call, writes, over_bare, over_store) in CALLS {
            if self.of(call).is_empty() {
                continue;
            }
            for (nth, (name, unit, better, part)) in PARTS.into_iter().enumerate() {
                let of = |name: &str| -> Vec<f64> { self.of(name).iter().map(part).collect() };
                // Goals are rates'.
                let goal = |goal: Option<f64>| goal.filter(|_| nth == 0).map(Relative::at_least);
                let mut figure = Figure::new(&format!("{call}{how}"), name, unit, better, of(call));
                if writes {
                    figure = figure.against(DURABLE, &of(&durable_of(call)), goal(over_bare));
                }
                // It answers nobody: what a commit within the process takes is no answer's time.
                if writes && nth == 0 {
                    figure = figure.against(STORE, &of(STORE), goal(over_store));
                }
                let over_bare = over_bare.filter(|_| !writes);
                run.add(figure.against(BARE, &of(&bare_of(call)), goal(over_bare)));
            }
        }
        for (name, unit, better, part) in PARTS {
            let samples = self.of(STORE).iter().map(part).collect();
            run.add(Figure::new(
                &format!("{STORE}{how}"),
                name,
                unit,
                better,
                samples,
            ));
        }
    }
}

/// Its name, its unit, which side is good, and where it is.
type Part = (&'static str, &'static str, Better, fn(&Series) -> f64);

/// What is told of each.
const PARTS: [Part; 4] = [
    ("answered", "/s", Better::More, |one| one.rate),
    ("p50", "ms", Better::Less, |one| one.p50),
    ("p99", "ms", Better::Less, |one| one.p99),
    (
        "the answering processor for each",
        "µs",
        Better::Less,
        |one| one.cpu,
    ),
];
