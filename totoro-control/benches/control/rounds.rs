//! The rounds: each measures all in turn, so that what else the machine does hits all alike.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use totoro_control::store::{Commit, Op, SledStore, Store};

use crate::bare::Bare;
use crate::client::Request;
use crate::frps::Nodes;
use crate::series::{Series, median};
use crate::server::Real;

/// How the rounds are made.
pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) clients: usize,
    pub(crate) length: Duration,
}

/// What was measured: by name, one of each round.
pub(crate) struct Calls(Vec<(&'static str, Vec<Series>)>);

const STORE: &str = "store's group commit";
/// What is compared with what, and the ratio that is the goal.
const RATIOS: [(&str, &str, Option<f64>); 11] = [
    ("oauth/token", "bare token", Some(0.7)),
    ("oauth/token", STORE, None),
    ("invites/resolve", "bare resolve", None),
    ("invites/resolve", STORE, Some(0.7)),
    ("invite creation", STORE, Some(0.7)),
    ("heartbeat", "bare heartbeat", None),
    ("frps/auth/handshake: Login", "bare Login", Some(0.7)),
    ("frps/auth/handshake: Login", STORE, None),
    (
        "frps/auth/proxy: NewProxy, CloseProxy",
        "bare NewProxy, CloseProxy",
        Some(0.7),
    ),
    ("frps/auth/proxy: NewProxy, CloseProxy", STORE, None),
    (
        "frps/auth/proxy: NewUserConn",
        "bare NewUserConn",
        Some(0.7),
    ),
];

impl Rounds {
    /// Measures.
    pub(crate) async fn run(&self) -> Calls {
        let real = Real::start().await;
        let nodes = Nodes::start(real.control(), self.clients).await;
        let bare = Bare::start(&nodes.keys(real.control()).await);
        // Twice what was ever measured.
        let logins = 2 * 8 * usize::try_from(self.length.as_millis()).unwrap() * (self.count + 1);
        let tickets = nodes.tickets(real.control(), logins).await;
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SledStore::open(dir.path(), 64 << 20).unwrap());
        let asked = [
            ("oauth/token", real.token(real.address())),
            ("bare token", real.token(&bare.address)),
            ("invites/resolve", real.resolve(real.address())),
            ("bare resolve", real.resolve(&bare.address)),
            ("invite creation", real.invite()),
            ("heartbeat", real.heartbeat(real.address())),
            ("bare heartbeat", real.heartbeat(&bare.address)),
            (
                "frps/auth/handshake: Login",
                Request::once(real.address(), nodes.logins(real.address(), &tickets)),
            ),
            (
                "bare Login",
                Request::again(&bare.address, nodes.logins(&bare.address, &tickets)),
            ),
            (
                "frps/auth/proxy: NewProxy, CloseProxy",
                Request::own(real.address(), nodes.proxies(real.address()), 2),
            ),
            (
                "bare NewProxy, CloseProxy",
                Request::own(&bare.address, nodes.proxies(&bare.address), 2),
            ),
            (
                "frps/auth/proxy: NewUserConn",
                Request::again(real.address(), nodes.conns(real.address())),
            ),
            (
                "bare NewUserConn",
                Request::again(&bare.address, nodes.conns(&bare.address)),
            ),
        ];
        let mut calls = Calls(asked.iter().map(|(name, _)| (*name, Vec::new())).collect());
        calls.0.push((STORE, Vec::new()));
        // The first round warms up and does not count.
        for round in 0..=self.count {
            let mut measured = Vec::new();
            for (_, request) in &asked {
                measured.push(request.measure(self.clients, self.length).await);
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
        let began = Instant::now();
        let writing = (0..self.clients).map(|writer| {
            let (store, length) = (Arc::clone(store), self.length);
            tokio::spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < length {
                    let key = format!("bench/{round}/{writer}/{}", took.len());
                    let ops = vec![Op::Put(key.into_bytes(), vec![b'x'; 300])];
                    let asked = Instant::now();
                    let commit = Commit {
                        expect: Vec::new(),
                        ops,
                    };
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
        Series::new(took, began.elapsed())
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

    pub(crate) fn json(&self) -> Value {
        let one = |(name, series): &(&str, Vec<Series>)| {
            json!({
                "name": name,
                "per_second": median(series.iter().map(|one| one.rate)),
                "p50_ms": median(series.iter().map(|one| one.p50)),
                "p99_ms": median(series.iter().map(|one| one.p99)),
            })
        };
        let ratio = |(call, base, goal): &(&str, &str, Option<f64>)| json!({ "call": call, "base": base, "ratio": self.ratio(call, base), "goal": goal });
        json!({
            "figures": self.0.iter().map(one).collect::<Vec<_>>(),
            "ratios": RATIOS.iter().map(ratio).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| what | per second | p50 ms | p99 ms |\n|---|---:|---:|---:|"
        )?;
        for (name, series) in &self.0 {
            writeln!(
                out,
                "| {name} | {:.0} | {:.2} | {:.2} |",
                median(series.iter().map(|one| one.rate)),
                median(series.iter().map(|one| one.p50)),
                median(series.iter().map(|one| one.p99)),
            )?;
        }
        writeln!(
            out,
            "\n| call | over | ratio | goal | |\n|---|---|---:|---:|---|"
        )?;
        for (call, base, goal) in RATIOS {
            let ratio = self.ratio(call, base);
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
