//! What clients know to be acknowledged, and whether a server still has it: what kills and power
//! cuts are measured by.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Control, Node};

/// Clients that write at once.
const WRITERS: u64 = 8;

/// How many rounds: as many as fit into a commit's check, or what a soak says.
pub(crate) struct Scale {
    pub(crate) variable: &'static str,
    pub(crate) usual: u64,
}

impl Scale {
    pub(crate) fn get(&self) -> u64 {
        number(self.variable).unwrap_or(self.usual)
    }

    /// Shares of the rounds, about equal, for as many at once as keep two cores busy.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = u64> {
        let rounds = self.get();
        (0..LANES).map(move |lane| (rounds + lane) / LANES)
    }
}

/// Rounds that run at once, each on a server of its own: what one waits for, another uses.
const LANES: u64 = 4;

/// Chance that can be repeated: SplitMix64 from a seed, which `TOTORO_SEED` sets.
pub(crate) struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    pub(crate) fn from_env() -> Self {
        let seed = number("TOTORO_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
        Dice { seed, state: seed }
    }

    /// Another one by the same seed, which rolls otherwise.
    pub(crate) fn fork(&mut self) -> Self {
        Dice {
            seed: self.seed,
            state: self.below(u64::MAX),
        }
    }

    /// From 0 to one below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

impl fmt::Display for Dice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TOTORO_SEED={}", self.seed)
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: {text:?} is no number")),
    )
}

/// What the writers of one server have had acknowledged so far.
#[derive(Default)]
pub(crate) struct Ledger {
    known: Mutex<Acknowledged>,
    /// How many were refused with `internal`: all other refusals are no way to end.
    refused: AtomicUsize,
    /// Each writer ends with the answer that it waits for.
    over: AtomicBool,
}

/// Each with the time of a clock that the caller has, read after the answer had come.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged {
    pub(crate) invites: Vec<(u64, String, String)>,
    pub(crate) seqs: Vec<(u64, String, u64)>,
}

impl Ledger {
    /// Writes invites and a node's events until the future is dropped; a server that has gone away
    /// ends nothing.
    pub(crate) async fn write(
        &self,
        control: &Control,
        node: &Node,
        round: u64,
        clock: impl Fn() -> u64,
    ) {
        self.write_out(control, node, round, clock).await;
        std::future::pending().await
    }

    /// Writes for that long, to a server that must live: nothing is under way when it ends, so that
    /// what is listed one after the other belongs together.
    pub(crate) async fn write_for(&self, control: &Control, node: &Node, life: Duration) {
        let life = async {
            tokio::time::sleep(life).await;
            self.over.store(true, Ordering::Relaxed);
        };
        tokio::join!(self.write_out(control, node, 0, || 0), life);
    }

    /// The same until no writer gets a good answer any more.
    pub(crate) async fn write_out(
        &self,
        control: &Control,
        node: &Node,
        round: u64,
        clock: impl Fn() -> u64,
    ) {
        let clock = &clock;
        let writers =
            (0..WRITERS).map(|writer| self.write_one(control, node, round, writer, clock));
        futures_util::future::join_all(writers).await;
    }

    /// How many were refused.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// One writer, until an answer does not come.
    async fn write_one(
        &self,
        control: &Control,
        node: &Node,
        round: u64,
        writer: u64,
        clock: &impl Fn() -> u64,
    ) -> Option<()> {
        let post = async |path: &str, body: Value| {
            let url = format!("{}/api/v1/nodes/{path}", control.api);
            let request = control.http.post(url).bearer_auth(&node.key).json(&body);
            let answer = request.send().await.ok()?;
            let good = answer.status().is_success();
            let body = answer.json::<Value>().await.ok()?;
            if !good {
                // A server that ends may say that it has closed; nothing else may fail.
                assert_eq!(body["code"], "internal", "{body}");
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            good.then_some(body)
        };
        let spool = format!("{round:016x}{writer:016x}");
        for seq in 1.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let label = format!("{round}/{writer}/{seq}");
            let made = post("invites", json!({ "label": label })).await?;
            let text = |field: &str| Some(made[field].as_str()?.to_owned());
            let invite = (clock(), text("id")?, text("code")?);
            self.lock().invites.push(invite);

            let event =
                json!({ "seq": seq, "at_ms": 0, "boot": "b", "kind": "x.y", "session": spool });
            let taken = post("events", json!({ "spool": spool, "events": [event] })).await?;
            assert_eq!(taken["seq"], seq);
            let position = (clock(), spool.clone(), seq);
            self.lock().seqs.push(position);
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Acknowledged> {
        self.known.lock().unwrap()
    }

    pub(crate) fn acknowledged(&self) -> Acknowledged {
        self.lock().clone()
    }
}

impl Acknowledged {
    /// What was acknowledged up to then.
    pub(crate) fn until(&self, time: u64) -> Self {
        let (mut invites, mut seqs) = (self.invites.clone(), self.seqs.clone());
        invites.retain(|(at, ..)| *at <= time);
        seqs.retain(|(at, ..)| *at <= time);
        Acknowledged { invites, seqs }
    }

    /// Whether the server has all of it, and nothing half.
    pub(crate) async fn check(&self, control: &Control, node: &Node) {
        let invites = all(control, "/nodes/invites?limit=1000", &node.key).await;
        let events = all(control, "/nodes/audit?limit=1000", &node.key).await;
        self.compare(&invites, &events);
    }

    /// The same for many nodes, each with what was acknowledged of it, in one look at everything.
    pub(crate) async fn check_all(of: &[(Node, Self)], control: &Control) {
        let mut invites = HashMap::<String, Vec<Value>>::new();
        for invite in all(control, "/admin/invites?limit=1000", &control.admin).await {
            let node = text(&invite["node"]);
            invites.entry(node).or_default().push(invite);
        }
        let mut events = HashMap::<String, Vec<Value>>::new();
        for event in all(control, "/admin/audit?limit=1000", &control.admin).await {
            let node = event["node"].as_str().unwrap_or_default().to_owned();
            events.entry(node).or_default().push(event);
        }
        for (node, known) in of {
            let invites = invites.remove(&node.id).unwrap_or_default();
            let events = events.remove(&node.id).unwrap_or_default();
            known.compare(&invites, &events);
        }
    }

    /// Each invite has its one event, each event its invite, and a spool has no gap and nothing
    /// twice.
    fn compare(&self, invites: &[Value], events: &[Value]) {
        let listed: HashSet<String> = invites.iter().map(|invite| text(&invite["id"])).collect();
        for (_, id, _) in &self.invites {
            assert!(listed.contains(id), "acknowledged invite {id} is lost");
        }
        let ids: Vec<String> = events.iter().map(|event| text(&event["id"])).collect();
        assert!(
            ids.is_sorted_by(|one, next| one < next),
            "events out of order"
        );
        let mut told = HashSet::new();
        let mut seqs = HashMap::<String, Vec<u64>>::new();
        for event in events {
            if event["kind"] == "invite.created" {
                let invite = text(&event["invite"]);
                assert!(told.insert(invite.clone()), "{invite} was created twice");
            }
            if event["kind"] == "x.y" {
                let of_spool = seqs.entry(text(&event["spool"])).or_default();
                of_spool.push(event["seq"].as_u64().unwrap());
            }
        }
        assert_eq!(told, listed, "invites and their events differ");
        for (spool, got) in &seqs {
            let whole: Vec<u64> = (1..=got.len() as u64).collect();
            assert_eq!(*got, whole, "spool {spool} has a gap");
        }
        for (_, spool, seq) in &self.seqs {
            let last = seqs.get(spool).map_or(0, Vec::len) as u64;
            assert!(last >= *seq, "acknowledged seq {seq} of {spool} is lost");
        }
    }

    /// Whether codes work: their index was written with them.
    pub(crate) async fn check_code(&self, control: &Control) {
        if let Some((_, id, code)) = self.invites.last() {
            let usage = control.post("/invites/usage", "", json!({ "code": code }));
            assert_eq!(usage.await.with(200)["invite"], id.as_str());
        }
    }
}

/// All items of a paged list.
async fn all(control: &Control, path: &str, key: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = control.get(&format!("{path}{cursor}"), key).await.with(200);
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
