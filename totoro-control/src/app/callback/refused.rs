//! Refusals that come in any number: counted as they happen, told of together a little later.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use serde_json::json;
use totoro_api::Reason;
use totoro_api::wire::event::Subject;

use super::{Frps, lock};
use crate::app::{App, Failure};
use crate::audit::{self, Author};

/// How long refusals are gathered, ms.
const EVERY_MS: i64 = 10_000;
/// Different ones of one node that are gathered at once, and of all nodes; the rest go under one name.
const MAX_GATHERED: usize = 1000;
const MAX_ALL: usize = 10_000;
/// Tenants whose refusals are counted.
const MAX_COUNTED: usize = 100_000;
/// Events in one commit.
const CHUNK: usize = 200;

/// Refusals of one kind.
#[derive(Clone)]
struct Several {
    author: Author,
    node: String,
    subject: Subject,
    count: u64,
    first_ms: i64,
    last_ms: i64,
}

/// What happened since it was last told, and counts since the start.
#[derive(Default)]
pub(super) struct Gathered {
    several: Mutex<Waiting>,
    counts: Mutex<HashMap<(String, String), BTreeMap<Reason, u64>>>,
}

/// What is to be told, by node.
#[derive(Default)]
struct Waiting {
    of: HashMap<String, HashMap<String, Several>>,
    /// How many in all.
    count: usize,
}

impl Waiting {
    /// Where one refusal of `whose` is gathered. Where there are too many different ones already it goes
    /// together with others, and then tells nothing of whose it is.
    fn at(
        &mut self,
        node: &str,
        whose: &str,
        mut subject: Subject,
        new: impl FnOnce(Subject) -> Several,
    ) -> &mut Several {
        let Waiting { of, count } = self;
        let of = of.entry(node.to_owned()).or_default();
        let reason = subject.reason.map_or("", Reason::code);
        let proxy = subject.proxy.as_deref().unwrap_or("");
        let mut key = format!("{whose}\n{}\n{proxy}\n{reason}", subject.kind);
        let is_full = of.len() >= MAX_GATHERED || *count >= MAX_ALL;
        if is_full && !of.contains_key(&key) {
            key = format!("\n{}\n\n{reason}", subject.kind);
            subject = Subject {
                kind: subject.kind,
                reason: subject.reason,
                detail: json!({}),
                ..Subject::default()
            };
        }
        of.entry(key).or_insert_with(|| {
            *count += 1;
            new(subject)
        })
    }

    /// Takes out those that are due.
    fn take(&mut self, due: impl Fn(&Several) -> bool) -> Vec<Several> {
        let mut taken = Vec::new();
        self.of.retain(|_, several| {
            taken.extend(several.extract_if(|_, of| due(of)).map(|(_, of)| of));
            !several.is_empty()
        });
        self.count -= taken.len();
        taken
    }
}

impl App {
    /// Gathers a refusal of `whose`: a tenant, or an address.
    pub(super) fn gather(&self, frps: &Frps<'_>, whose: &str, subject: Subject) {
        let now_ms = self.now_ms();
        let node = &frps.node.id;
        let mut waiting = lock(&self.callback.gathered.several);
        let of = waiting.at(node, whose, subject, |subject| Several {
            author: frps.author(),
            node: node.clone(),
            subject,
            count: 0,
            first_ms: now_ms,
            last_ms: now_ms,
        });
        of.count += 1;
        of.last_ms = now_ms;
    }

    /// Tells of what was gathered for long enough; of all of it when the process ends.
    pub(in crate::app) async fn tell_refusals(&self, all: bool) -> Result<(), Failure> {
        let now_ms = self.now_ms();
        let due = lock(&self.callback.gathered.several)
            .take(|of| all || of.first_ms + EVERY_MS <= now_ms);
        for several in due.chunks(CHUNK) {
            self.transact(|tx| {
                for of in several {
                    let mut subject = of.subject.clone();
                    if let Some(detail) = subject.detail.as_object_mut() {
                        detail.insert("count".to_owned(), of.count.into());
                        detail.insert("first".to_owned(), audit::rfc3339_ms(of.first_ms).into());
                        detail.insert("last".to_owned(), audit::rfc3339_ms(of.last_ms).into());
                    }
                    let event = of.author.about(subject).node(&of.node);
                    audit::record(tx, event, now_ms)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Counts a refusal for the tenant's usage.
    pub(super) fn count_refused(&self, node: &str, tenant: &str, reason: Reason) {
        let mut counts = lock(&self.callback.gathered.counts);
        let of = (node.to_owned(), tenant.to_owned());
        if counts.len() >= MAX_COUNTED && !counts.contains_key(&of) {
            // Which of them nobody asks for can't be told: all begin anew.
            counts.clear();
        }
        *counts.entry(of).or_default().entry(reason).or_default() += 1;
    }

    /// A tenant's refusals by reason since the start.
    pub(super) fn refused_of(&self, node: &str, tenant: &str) -> BTreeMap<Reason, u64> {
        let of = (node.to_owned(), tenant.to_owned());
        let counts = lock(&self.callback.gathered.counts);
        counts.get(&of).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use totoro_api::wire::event::kind;

    use super::*;

    fn gather(waiting: &mut Waiting, node: &str, proxy: usize) {
        let subject = Subject {
            kind: kind::PROXY_REFUSED.to_owned(),
            invite: Some(format!("inv-{proxy}")),
            session: Some(format!("ses-{proxy}")),
            client: Some("192.0.2.7:1".to_owned()),
            proxy: Some(proxy.to_string()),
            port: Some(20_000),
            reason: Some(Reason::RateLimited),
            detail: json!({ "what": proxy }),
            ..Subject::default()
        };
        let of = waiting.at(node, "a tenant", subject, |subject| Several {
            author: Author::remote("node", node, IpAddr::V4(Ipv4Addr::LOCALHOST), "r"),
            node: node.to_owned(),
            subject,
            count: 0,
            first_ms: 0,
            last_ms: 0,
        });
        of.count += 1;
    }

    #[test]
    fn one_node_fills_only_its_own_and_what_is_merged_names_nobody() {
        let mut waiting = Waiting::default();
        for proxy in 0..MAX_ALL + 10 {
            gather(&mut waiting, "loud", proxy);
        }
        gather(&mut waiting, "quiet", 7);
        assert_eq!(waiting.count, MAX_GATHERED + 2);
        let told = waiting.take(|_| true);
        assert_eq!((told.len(), waiting.count), (MAX_GATHERED + 2, 0));
        let quiet = told.iter().find(|of| of.node == "quiet").unwrap();
        assert_eq!(quiet.subject.invite.as_deref(), Some("inv-7"));
        let merged: Vec<_> = told.iter().filter(|of| of.count > 1).collect();
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].count, (MAX_ALL + 10 - MAX_GATHERED) as u64);
        let nobody = Subject {
            kind: kind::PROXY_REFUSED.to_owned(),
            reason: Some(Reason::RateLimited),
            detail: json!({}),
            ..Subject::default()
        };
        assert_eq!(merged[0].subject, nobody);
    }

    #[test]
    fn many_nodes_take_no_more_memory() {
        let mut waiting = Waiting::default();
        let nodes = 2 * MAX_ALL / MAX_GATHERED;
        for node in 0..nodes {
            for proxy in 0..MAX_GATHERED {
                gather(&mut waiting, &node.to_string(), proxy);
            }
        }
        // One more for each, under which the rest goes.
        assert!(waiting.count <= MAX_ALL + nodes, "{}", waiting.count);
        waiting.take(|of| of.node == "0");
        assert!(!waiting.of.contains_key("0"), "nothing is left of it");
    }
}
