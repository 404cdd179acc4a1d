//! What happens at grade `callback` by the passing of time: pings stop, sessions end, ports cool.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use totoro_api::Reason;
use totoro_api::decide::{SeenTicket, Waiting, parse_key};

use super::book::{self, Seat};
use super::desk::Desk;
use super::ending::word;
use super::lock;
use crate::app::{App, Failure};
use crate::audit::Author;
use crate::records::NodeRecord;
use crate::store::{Tx, names, records};

/// Pings that may be missed: one is lost easily, three are not.
const MISSED: u32 = 3;
/// A port's last holder is remembered for this long after it has cooled down, ms: it gets the port
/// again if it is free.
const REMEMBER_MS: i64 = 7 * 86_400_000;
/// Ports and tickets that are forgotten in one commit at most.
const MAX_FORGOTTEN: usize = 1000;

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its pings stopped.
    Lose,
    /// It is over, and its tickets may open another.
    Close(&'static str),
    /// It has no right any more.
    End(Reason),
}

impl App {
    /// The interval at which frpc pings nodes of this grade.
    pub(in crate::app) fn ping_every(&self) -> Duration {
        self.config.callback_ping.0
    }

    /// The same for the file of a node's client, seconds; `None` where a daemon knows who lives.
    pub(in crate::app) fn ping_for(&self, node: &NodeRecord) -> Option<u64> {
        node.callback.then(|| self.config.callback_ping.secs())
    }

    /// How long silence is no sign yet.
    pub(in crate::app) fn ping_patience(&self) -> Duration {
        self.ping_every().saturating_mul(MISSED)
    }

    /// Ends what is over on all nodes.
    pub(in crate::app) async fn keep_sessions(&self) -> Result<(), Failure> {
        for node in self.callback_nodes()? {
            let mut fates = Vec::new();
            for (run_id, seat) in book::seats(&*self.store, &node)? {
                if let Some(fate) = self.fate(&node, &run_id, &seat)? {
                    fates.push((run_id, fate));
                }
            }
            for (run_id, _) in fates {
                self.meet_fate(&node, &run_id).await?;
            }
        }
        Ok(())
    }

    /// The nodes that have anything here.
    fn callback_nodes(&self) -> Result<BTreeSet<String>, Failure> {
        let all = names(&*self.store, crate::records::key::NODES)?.into_iter();
        let heads = all.filter_map(|node| {
            let head = self.store.get(book::head(&node).as_bytes());
            match head {
                Ok(None) => None,
                Ok(Some(_)) => Some(Ok(node)),
                Err(error) => Some(Err(error)),
            }
        });
        Ok(heads.collect::<Result<_, _>>()?)
    }

    /// Decides again, and makes it hold.
    async fn meet_fate(&self, node: &str, run_id: &str) -> Result<(), Failure> {
        self.at_desk(node, &Author::system(), |desk| {
            let Some(session) = desk.sessions.get(run_id) else {
                return Ok(());
            };
            match self.fate(node, run_id, session)? {
                None => {}
                Some(Fate::Lose) => desk.lose(run_id)?,
                Some(Fate::Close(why)) => desk.end_session(run_id, why, None, false)?,
                Some(Fate::End(reason)) => {
                    let for_good = reason == Reason::SessionExpired;
                    desk.end_session(run_id, word(reason), Some(reason), for_good)?;
                }
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    fn fate(&self, node: &str, run_id: &str, session: &Seat) -> Result<Option<Fate>, Failure> {
        let mut tx = Tx::new(&*self.store);
        match self.holding_of(&mut tx, node, session) {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) => return Ok(Some(Fate::End(refusal.reason))),
            Err(failed) => return Err(failed),
        }
        let record = self.node_now(node)?;
        if record.is_some_and(|record| self.live.is_online(node) && !record.value.callback) {
            return Ok(Some(Fate::Close("daemon")));
        }
        let silent = session.pinged && self.missed_pings(node, run_id);
        let reserved = i64::try_from(self.config.port_reserve.0.as_millis()).unwrap_or(i64::MAX);
        Ok(match (session.lost_ms, session.idle_ms) {
            // As long as its ports wait for it.
            (Some(lost), _) if lost.saturating_add(reserved) <= self.now_ms() => {
                Some(Fate::Close("connection_lost"))
            }
            (Some(_), _) => None,
            (None, Some(_)) if silent => Some(Fate::Close("closed")),
            (None, Some(idle)) if !session.pinged => {
                (idle.saturating_add(reserved) <= self.now_ms()).then_some(Fate::Close("closed"))
            }
            (None, _) => silent.then_some(Fate::Lose),
        })
    }

    fn missed_pings(&self, node: &str, run_id: &str) -> bool {
        let id = (node.to_owned(), run_id.to_owned());
        let last = lock(&self.callback.pings).get(&id).copied();
        let last = last.unwrap_or(self.callback.started);
        last.elapsed() > self.ping_patience()
    }

    /// Forgets tickets that open nothing any more, and ports that have long cooled down.
    pub(in crate::app) async fn forget_callback(&self) -> Result<(), Failure> {
        self.callback.doors.forget();
        self.callback.conns.forget();
        self.callback.asks.forget();
        let (now, now_ms) = (self.now(), self.now_ms());
        let patience = self.ping_patience();
        lock(&self.callback.pings).retain(|_, at: &mut Instant| at.elapsed() <= patience * 2);
        lock(&self.callback.late).retain(|_, (_, until)| now_ms < *until);
        for node in self.callback_nodes()? {
            let _turn = self.desk_turn(&node).await;
            let stood = self.store.revision(book::head(&node).as_bytes())?;
            let sessions = names(&*self.store, &book::sessions(&node))?;
            let sessions: BTreeSet<String> = sessions.into_iter().collect();
            let tickets = records::<SeenTicket>(&*self.store, &book::tickets(&node))?;
            let tickets = tickets.into_iter().map(|(hash, found)| (hash, found.value));
            let tickets = past(tickets.collect(), &sessions, now);
            let held = records::<Waiting>(&*self.store, &book::held(&node))?.into_iter();
            let held = held.filter(|(_, found)| found.value.cooling_ms + REMEMBER_MS < now_ms);
            let keys = tickets
                .into_iter()
                .map(|hash| book::ticket(&node, &hash))
                .chain(held.filter_map(|(at, _)| Some(book::waiting(&node, parse_key(&at)?))));
            let keys: Vec<String> = keys.take(MAX_FORGOTTEN).collect();
            if keys.is_empty() {
                continue;
            }
            let author = Author::system();
            self.transact(|tx| {
                let mut desk = Desk::open(self, tx, &node, &author)?;
                // Where something was written meanwhile, this waits for the next round.
                if desk.revision == stood {
                    for key in &keys {
                        desk.tx.delete(key);
                    }
                    desk.touch();
                }
                desk.leave()?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// The hashes of tickets that open nothing any more. As long as its session may come back, the newest
/// is what it comes back with.
fn past(
    tickets: BTreeMap<String, SeenTicket>,
    sessions: &BTreeSet<String>,
    now: i64,
) -> Vec<String> {
    let mut newest = BTreeMap::<String, (i64, String)>::new();
    for (hash, ticket) in &tickets {
        let candidate = (ticket.exp, hash.clone());
        let best = newest.entry(ticket.run_id.clone()).or_default();
        if *best < candidate {
            *best = candidate;
        }
    }
    let resumes = |hash: &String, ticket: &SeenTicket| {
        let of = newest.get(&ticket.run_id);
        sessions.contains(&ticket.run_id) && of.is_some_and(|(_, of)| of == hash)
    };
    tickets
        .into_iter()
        .filter(|(hash, ticket)| ticket.past(now) && !resumes(hash, ticket))
        .map(|(hash, _)| hash)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use totoro_api::decide::Voucher;
    use totoro_api::limits::Limits;
    use totoro_api::ticket::{Grant, Revision};

    #[test]
    fn the_newest_ticket_of_a_session_is_kept() {
        let ticket = |run_id: &str, exp| SeenTicket {
            jti: String::new(),
            run_id: run_id.to_owned(),
            tenant: "inv".into(),
            voucher: Arc::new(Voucher {
                grant: Grant::Invite("inv".to_owned()),
                epoch: 1,
                limits: Limits::default(),
                revision: Revision::default(),
                session_until: 0,
            }),
            exp,
            client: [127, 0, 0, 1].into(),
            ended: false,
        };
        let tickets = [
            ("a", ticket("lives", 10)),
            ("b", ticket("lives", 20)),
            ("c", ticket("lives", 9_000)),
            ("d", ticket("over", 30)),
            ("e", ticket("comes-back", 5)),
        ];
        let tickets = tickets.map(|(hash, ticket)| (hash.to_owned(), ticket));
        let sessions = ["lives", "comes-back"].map(str::to_owned);
        let gone = past(tickets.into(), &sessions.into(), 1_000);
        assert_eq!(gone, ["a", "b", "d"]);
    }
}
