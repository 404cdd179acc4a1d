//! The rounds: each measures all in turn, so that what else the machine does hits all alike.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use totoro_control::store::{SledStore, Store};

use crate::bare::{Bare, record};
use crate::client::Request;
use crate::frps::Nodes;
use crate::series::{Series, cpu_of, median};
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
pub(crate) struct Calls(Vec<(String, Vec<Series>)>);

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
    /// Measures.
    pub(crate) async fn run(&self) -> Calls {
        let certificate = self.tls.then(Certificate::new);
        let real = Real::start(certificate.as_ref()).await;
        // More than clients: on one node logins come one after the other, and tickets are remembered.
        let nodes = Nodes::start(real.control(), 4 * self.clients).await;
        let keys = nodes.keys(real.control()).await;
        let (dir, bare_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let certificate = certificate.as_ref().map(|made| made.dir.path());
        let bare = Bare::start(&keys, None, certificate);
        let durable = Bare::start(&keys, Some(bare_dir.path()), certificate);
        // Twice what was ever measured.
        let logins = 2 * 12 * usize::try_from(self.length.as_millis()).unwrap() * (self.count + 1);
        let wanted = |name: &str| name.contains(&self.only);
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
            asked.push((name.to_owned(), ours, real.control().pid()));
            asked.push((bare_of(name), request(&bare.address), bare.pid()));
            if writes {
                let request = request(&durable.address);
                asked.push((durable_of(name), request, durable.pid()));
            }
        }
        let mut calls = Calls(
            asked
                .iter()
                .map(|(name, ..)| (name.clone(), Vec::new()))
                .collect(),
        );
        calls.0.push((STORE.to_owned(), Vec::new()));
        // The first round warms up and does not count.
        for round in 0..=self.count {
            let mut measured = Vec::new();
            for (_, request, server) in &asked {
                measured.push(request.measure(self.clients, self.length, *server).await);
            }
            measured.push(self.group_commit(&store, round).await);
            if round > 0 {
                for (series, one) in calls.0.iter_mut().zip(measured) {
                    series.1.push(one);
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

impl Calls {
    fn of(&self, name: &str) -> &[Series] {
        let found = self.0.iter().find(|(of, _)| *of == name);
        found.map_or(&[], |(_, series)| series)
    }

    /// The median of the rounds' own ratios.
    fn ratio(&self, call: &str, base: &str) -> f64 {
        let pairs = self.of(call).iter().zip(self.of(base));
        median(pairs.map(|(call, base)| call.rate / base.rate))
    }

    /// What was measured of each call: over what, the ratio, the goal.
    fn ratios(&self) -> Vec<(&'static str, String, f64, Option<f64>)> {
        let mut ratios = Vec::new();
        for (call, writes, over_bare, over_store) in CALLS {
            if self.of(call).is_empty() {
                continue;
            }
            let mut add = |base: String, goal| {
                let ratio = self.ratio(call, &base);
                ratios.push((call, base, ratio, goal));
            };
            if writes {
                add(durable_of(call), over_bare);
                add(STORE.to_owned(), over_store);
            }
            add(bare_of(call), over_bare.filter(|_| !writes));
        }
        ratios
    }

    pub(crate) fn json(&self) -> Value {
        let one = |(name, series): &(String, Vec<Series>)| {
            json!({
                "name": name,
                "per_second": median(series.iter().map(|one| one.rate)),
                "p50_ms": median(series.iter().map(|one| one.p50)),
                "p99_ms": median(series.iter().map(|one| one.p99)),
                "cpu_us": median(series.iter().map(|one| one.cpu)),
            })
        };
        let ratios = self.ratios().into_iter();
        let ratio = |(call, base, ratio, goal)| json!({ "call": call, "base": base, "ratio": ratio, "goal": goal });
        json!({
            "figures": self.0.iter().map(one).collect::<Vec<_>>(),
            "ratios": ratios.map(ratio).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| what | per second | p50 ms | p99 ms | µs of a core |\n|---|---:|---:|---:|---:|"
        )?;
        for (name, series) in &self.0 {
            writeln!(
                out,
                "| {name} | {:.0} | {:.2} | {:.2} | {:.0} |",
                median(series.iter().map(|one| one.rate)),
                median(series.iter().map(|one| one.p50)),
                median(series.iter().map(|one| one.p99)),
                median(series.iter().map(|one| one.cpu)),
            )?;
        }
        writeln!(
            out,
            "\n| call | over | ratio | goal | |\n|---|---|---:|---:|---|"
        )?;
        for (call, base, ratio, goal) in self.ratios() {
            let (wanted, verdict) = match goal {
                None => (String::new(), ""),
                Some(goal) if ratio >= goal => (format!("{goal}"), "met"),
                Some(goal) => (format!("{goal}"), "missed"),
            };
            writeln!(
                out,
                "| {call} | {base} | {ratio:.2} | {wanted} | {verdict} |"
            )?;
        }
        Ok(())
    }
}
