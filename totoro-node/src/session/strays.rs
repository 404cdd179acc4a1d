//! frps's proxies that no lease covers. Only the end of its client's connection ends one, so that is what is
//! brought about; and until then nobody gets its port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compare::REGISTERS_MS;
use super::desk::{Desk, Inner};
use super::ending::{cant_list, sessionless};
use super::ports::{PortId, record_key};
use crate::kernel::boot_ns;

/// How long frps may have one whose client can't be told, ms. Connections that carry no session are ended by
/// then, but for those that may be a session's without tcpMux.
const UNOWNED_MS: i64 = 30_000;

/// A live proxy of frps's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Its port.
    pub port: PortId,
    /// The run_id of its client, or what that calls itself; empty where frps does not say (0.65).
    pub client: String,
}

/// What is known of one that no lease covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stray {
    /// When frps was first asked that had it, Unix ms.
    since_ms: i64,
    /// When it answered, boot-time ns: its client's connection is older.
    seen_ns: u64,
    /// It was there when frps was asked again: it was not just being closed.
    stays: bool,
    /// Nothing is left to end that may be its client's.
    is_stuck: bool,
}

impl Stray {
    /// It was not seen in what is to come.
    pub(super) fn no_later(&mut self, now_ms: i64) {
        self.since_ms = self.since_ms.min(now_ms);
    }
}

impl Desk {
    /// Proxies of frps's whose end nothing here can bring about, a line each.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        let inner = self.lock();
        let stuck = inner.strays.iter().filter(|(_, stray)| stray.is_stuck);
        stuck
            .map(|((name, port), _)| format!("{} {name}", record_key(*port)))
            .collect()
    }

    /// Ends the connections of clients whose proxies no lease covers; how many such proxies are too
    /// young to tell. One that was closed while frps was asked is not there the next time.
    pub(super) fn end_strays(
        &self,
        inner: &mut Inner,
        strays: &BTreeMap<String, Proxied>,
        asked_ms: i64,
    ) -> usize {
        let seen = std::mem::take(&mut inner.strays);
        let (mut young, mut unowned) = (0, Vec::new());
        for (name, proxy) in strays {
            if covered(inner, name, proxy.port).is_some() {
                continue;
            }
            let key = (name.clone(), proxy.port);
            let mut stray = match seen.get(&key) {
                Some(stray) => Stray {
                    stays: true,
                    ..*stray
                },
                None => Stray {
                    since_ms: asked_ms,
                    seen_ns: boot_ns(),
                    stays: false,
                    is_stuck: false,
                },
            };
            if asked_ms < stray.since_ms + REGISTERS_MS {
                young += 1;
            } else {
                let owners = owners(inner, name, proxy);
                if !owners.is_empty() {
                    stray.is_stuck = false;
                    self.mended.add("proxy_without_lease", 1);
                    tracing::warn!(node_id = self.rules.node, proxy_name = name, port = %record_key(proxy.port), sessions = owners.len(), "frps has a proxy that no lease covers");
                } else if asked_ms >= stray.since_ms + UNOWNED_MS {
                    unowned.push(key.clone());
                }
                for run_id in owners {
                    self.disconnect(inner, &run_id);
                }
            }
            inner.strays.insert(key, stray);
        }
        self.end_unowned(inner, unowned);
        young
    }

    /// Ends what may be the connections of these proxies' clients, and says once of which there is nothing to
    /// end.
    fn end_unowned(&self, inner: &mut Inner, unowned: Vec<(String, PortId)>) {
        let seen = unowned.iter().filter_map(|key| inner.strays.get(key));
        let Some(newest_ns) = seen.map(|stray| stray.seen_ns).max() else {
            return;
        };
        match self.end_sessionless(inner, newest_ns) {
            Some(0) => {}
            Some(ended) => {
                self.mended.add("idle_connection", ended);
                tracing::warn!(
                    node_id = self.rules.node,
                    ended,
                    proxies = unowned.len(),
                    "frps has proxies that no lease covers, of clients that can't be told: connections \
                     that carry no session were ended"
                );
                return;
            }
            // Tried again.
            None => return,
        }
        for key in unowned {
            let Some(stray) = inner.strays.get_mut(&key).filter(|stray| !stray.is_stuck) else {
                continue;
            };
            stray.is_stuck = true;
            let (proxy_name, port) = (&key.0, record_key(key.1));
            tracing::error!(
                node_id = self.rules.node,
                proxy_name,
                %port,
                "frps has a proxy that no lease covers, and no connection is left that may be its \
                 client's: nobody gets in or is lent its port; to have that back: systemctl restart \
                 totoro-frps"
            );
        }
    }

    /// Ends connections to frps that carry no session and were there before this instant, those too that may be
    /// a session's without tcpMux; how many. `None` = not all could be.
    fn end_sessionless(&self, inner: &Inner, before_ns: u64) -> Option<usize> {
        let controls = self.kernel.controls();
        let controls = controls.inspect_err(cant_list).ok()?;
        let mut ended = Some(0);
        for control in sessionless(inner, &controls, before_ns) {
            let was_there = self.destroy(control);
            ended = ended
                .zip(was_there)
                .map(|(ended, one)| ended + usize::from(one));
        }
        ended
    }
}

/// By name and port.
pub(super) type Strays = BTreeMap<(String, PortId), Stray>;

/// Whether a port is that of a proxy of another name that stays.
pub(super) fn is_anothers(strays: &Strays, port: PortId, name: &str) -> bool {
    let mut all = strays.iter();
    all.any(|((of, at), stray)| stray.stays && *at == port && of != name)
}

/// The number of the lease that covers a proxy of frps's.
pub(super) fn covered(inner: &Inner, name: &str, port: PortId) -> Option<u64> {
    let lease = inner.ports.leases().get(&port);
    lease
        .filter(|lease| lease.wire() == name)
        .map(|lease| lease.number)
}

/// The sessions that a proxy of frps's may belong to: the one that frps says, where it does; else the one that
/// had its port last, else those of its user, where they are one tenant's.
fn owners(inner: &Inner, name: &str, proxy: &Proxied) -> Vec<Arc<str>> {
    let session = inner.sessions.get(&proxy.client);
    if session.is_some() || is_run_id(&proxy.client) {
        let connected = session.filter(|session| session.connected());
        let id = connected.and_then(|_| inner.sessions.key(&proxy.client));
        return id.into_iter().collect();
    }
    let user = name.rsplit_once('.').map_or("", |(user, _)| user);
    let of_user: Vec<_> = inner
        .sessions
        .iter()
        .filter(|(_, session)| session.connected() && session.user == user)
        .collect();
    let last = inner.ports.waiting().get(&proxy.port);
    if let Some(last) = last.filter(|last| of_user.iter().any(|(id, _)| **id == last.run_id)) {
        return vec![Arc::clone(&last.run_id)];
    }
    let tenants: BTreeSet<&str> = of_user
        .iter()
        .map(|(_, session)| &*session.tenant)
        .collect();
    if tenants.len() > 1 {
        return Vec::new();
    }
    let ids = of_user.into_iter();
    ids.map(|(id, _)| Arc::clone(id)).collect()
}

/// Whether this is a run_id as nodes give them: then it is no name that a client chose for itself, as one that
/// logged in under an earlier version of this program may have.
fn is_run_id(client: &str) -> bool {
    client.len() == 32 && client.bytes().all(|byte| byte.is_ascii_hexdigit())
}
