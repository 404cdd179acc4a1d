//! What stands in the store of a node at grade `callback`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use totoro_api::decide::{Holder, PortId, Voucher, invite_of, record_key};

use crate::store::{Record, Store, StoreError, records};

/// Under it: all that nodes at this grade have, node by node.
pub(super) const ALL: &str = "callback/";
const SESSION: &str = "/session/";
const TICKET: &str = "/ticket/";
const LEASE: &str = "/lease/";
const HELD: &str = "/held/";
const IDLE: &str = "/idle/";

/// The key that every change of the node's sessions and leases moves.
pub(super) fn head(node: &str) -> String {
    [ALL, node, "/head"].concat()
}

/// Under it: sessions by run_id.
pub(super) fn sessions(node: &str) -> String {
    [ALL, node, SESSION].concat()
}

/// Under it: tickets that were seen, by the hash of their text.
pub(super) fn tickets(node: &str) -> String {
    [ALL, node, TICKET].concat()
}

/// Under it: leases by protocol and port.
pub(super) fn leases(node: &str) -> String {
    [ALL, node, LEASE].concat()
}

/// Under it: ports that wait for their last holder, or cool down.
pub(super) fn held(node: &str) -> String {
    [ALL, node, HELD].concat()
}

/// A session.
pub(super) fn session(node: &str, run_id: &str) -> String {
    [ALL, node, SESSION, run_id].concat()
}

/// Under it: since when sessions are idle, Unix ms, by run_id. By themselves, since that changes with
/// each proxy that is the only one, and a session with its voucher is long.
pub(super) fn idles(node: &str) -> String {
    [ALL, node, IDLE].concat()
}

/// Since when a session is idle.
pub(super) fn idle(node: &str, run_id: &str) -> String {
    [ALL, node, IDLE, run_id].concat()
}

/// A ticket.
pub(super) fn ticket(node: &str, hash: &str) -> String {
    [ALL, node, TICKET, hash].concat()
}

/// A lease: one for each port of each protocol, so there can't be two.
pub(super) fn lease(node: &str, port: PortId) -> String {
    [ALL, node, LEASE, &record_key(port)].concat()
}

/// A port that waits.
pub(super) fn waiting(node: &str, port: PortId) -> String {
    [ALL, node, HELD, &record_key(port)].concat()
}

/// Whether it is one of ours: 128 bits in hex. Nothing else reaches a key.
pub(super) fn is_run_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What the node counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The last lease's number.
    pub(super) lease: u64,
}

/// One frpc login under a ticket, and its resumptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::app) struct Session {
    /// What the audit calls it. (The run_id is a bearer secret in frp.)
    pub(super) id: String,
    /// The tenant's id.
    pub(super) tenant: String,
    /// What the newest ticket vouches for.
    pub(super) voucher: Arc<Voucher>,
    /// Changes with each Login, and comes back in every later request: tells a late request of a
    /// replaced connection from one of its successor.
    pub(super) nonce: String,
    /// frpc's `user`.
    pub(super) user: String,
    /// Where frpc comes from.
    pub(super) client: SocketAddr,
    /// When it was opened, Unix ms.
    pub(super) opened_ms: i64,
    /// From when its longest life counts, Unix ms.
    pub(super) begun_ms: i64,
    /// When its pings stopped; its leases are given up, and it may come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lost_ms: Option<i64>,
    /// [`Seat::idle_ms`] as an earlier version wrote it.
    #[serde(default, skip_serializing)]
    pub(super) idle_ms: Option<i64>,
    /// Whether this login has pinged: only then do missing pings say anything.
    #[serde(default)]
    pub(super) pinged: bool,
    /// Tickets that were bound to it.
    #[serde(default)]
    pub(super) tickets: u32,
    /// frpc's version.
    pub(super) frpc_version: String,
}

impl Session {
    /// The invite, unless the session is anonymous.
    pub(super) fn invite(&self) -> Option<&str> {
        invite_of(&self.voucher.grant)
    }

    /// As events about its leases name it.
    pub(super) fn as_holder(&self) -> Holder<'_> {
        Holder {
            session: &self.id,
            invite: self.invite(),
            client: self.client,
        }
    }
}

/// A session, and whether it does anything.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::app) struct Seat {
    pub(super) session: Arc<Session>,
    /// Since when all its proxies are closed, Unix ms. frp tells no plugin that a session has ended,
    /// but then it closes its proxies: such a session takes no room from others.
    pub(super) idle_ms: Option<i64>,
}

impl Deref for Seat {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Seat {
    /// Whether it is on, as far as is known.
    pub(super) fn connected(&self) -> bool {
        self.lost_ms.is_none() && self.idle_ms.is_none()
    }
}

/// A node's sessions by run_id.
pub(super) fn seats(store: &dyn Store, node: &str) -> Result<BTreeMap<String, Seat>, StoreError> {
    let sessions = records::<Session>(store, &sessions(node))?.into_iter();
    let seat = |(run_id, found): (String, Record<Session>)| {
        let idle_ms = found.value.idle_ms;
        let session = Arc::new(found.value);
        (run_id, Seat { session, idle_ms })
    };
    let mut seats: BTreeMap<String, Seat> = sessions.map(seat).collect();
    for (run_id, found) in records::<i64>(store, &idles(node))? {
        if let Some(seat) = seats.get_mut(&run_id) {
            seat.idle_ms = Some(found.value);
        }
    }
    Ok(seats)
}
