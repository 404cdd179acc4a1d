//! Grade `callback`: a stock frps without our daemon asks here what it would ask the daemon.
//!
//! The decisions are the ones that the daemon takes ([`totoro_api::decide`]); this module reads what
//! they depend on, and makes them hold in one commit each. All changes of one node's sessions and
//! leases go through one key ([`desk::Desk`]), so they are one after the other.

mod book;
mod daemon;
mod desk;
mod ending;
mod house;
mod kick;
mod living;
mod login;
mod named;
mod policy;
mod proxy;
mod rate;
mod refused;
mod report;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use totoro_api::decide::{check_text, unreadable};
use totoro_api::wire::plugin::{Answer, User};
use totoro_api::{Reason, Refusal};

use super::transact::Turns;
use super::{App, Failure};
use crate::audit::Author;
use crate::records::NodeRecord;

pub(super) use self::kick::all_of;
use self::named::Named;
pub(super) use self::policy::Asker;
use self::rate::Rates;
use self::refused::Gathered;
use self::table::Tables;

/// Logins per second at one node from one IPv4 address or IPv6 /64, before any signature is looked at.
const LOGINS: (u32, u32) = (5, 60);
/// What one session may ask per second, and at once beside two requests for each of its proxies.
const ASKS: (u32, u32) = (10, 50);

/// What is kept in memory of all nodes at grade `callback`. What must survive is in the store.
pub(super) struct Callback {
    /// Logins by node and source: an IPv4 address, or the first of an IPv6 /64. By node too, since a
    /// client's address is what its node says that it is.
    doors: Rates<(String, IpAddr)>,
    /// New user connections by node and tenant.
    conns: Rates,
    /// Requests by session.
    asks: Rates,
    /// When a session last pinged.
    pings: Mutex<HashMap<SessionId, Instant>>,
    /// Closes that are still under way for a proxy that was opened again since: how many, and until
    /// when they are expected, Unix ms.
    late: Mutex<HashMap<(SessionId, String), (u32, i64)>>,
    /// One session's proxies are opened and closed one after the other.
    turns: Turns,
    /// One node's changes come one after the other.
    desks: Turns,
    /// What the busy nodes have.
    tables: Tables,
    /// Refusals that are told of together.
    gathered: Gathered,
    /// The ports that invites name.
    named: Named,
    /// When this process began to listen to pings.
    started: Instant,
}

impl Default for Callback {
    fn default() -> Self {
        Callback {
            doors: Rates::default(),
            conns: Rates::default(),
            asks: Rates::default(),
            pings: Mutex::default(),
            late: Mutex::default(),
            turns: Turns::default(),
            desks: Turns::default(),
            tables: Tables::default(),
            gathered: Gathered::default(),
            named: Named::default(),
            started: Instant::now(),
        }
    }
}

/// A node and a run_id.
type SessionId = (String, String);

/// The frps that asks: its node's key was shown.
#[derive(Clone, Debug)]
pub struct Frps<'a> {
    /// The node.
    pub node: Arc<NodeRecord>,
    /// Where it asks from.
    pub address: IpAddr,
    /// The request's id.
    pub request_id: &'a str,
}

impl Frps<'_> {
    /// Who its events are by.
    fn author(&self) -> Author {
        Author::remote("node", &self.node.id, self.address, self.request_id)
    }
}

/// Which of the two addresses was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Login, Ping, NewWorkConn.
    Handshake,
    /// NewProxy, CloseProxy, NewUserConn.
    Proxy,
}

impl Door {
    /// The operations that it takes.
    #[must_use]
    pub const fn ops(self) -> [&'static str; 3] {
        match self {
            Door::Handshake => ["Login", "Ping", "NewWorkConn"],
            Door::Proxy => ["NewProxy", "CloseProxy", "NewUserConn"],
        }
    }
}

impl App {
    /// The node whose key an frps shows: with the node's id, or its name.
    ///
    /// # Errors
    /// `not_authorized`, whatever is wrong with them.
    pub fn node_of_frps(&self, user: &str, key: &str) -> Result<Arc<NodeRecord>, Failure> {
        let node = self.node_by_key(key)?;
        // Whoever has the key knows the id: this tells a file that was mixed up.
        if node.id != user && node.said.name != user {
            return Err(Reason::NotAuthorized.into());
        }
        Ok(node)
    }

    /// Answers frps. Whatever is wrong with a request is a refusal with a reason: frpc prints that.
    pub async fn frps_asks(&self, frps: &Frps<'_>, door: Door, op: &str, body: &[u8]) -> Answer {
        let content = match read_request(door, op, body) {
            Ok(content) => content,
            Err(refusal) => {
                tracing::warn!(
                    node_id = frps.node.id,
                    invite_id = "-",
                    proxy_name = "-",
                    reason = refusal.reason.code(),
                    detail = refusal.what(),
                    "a plugin request was refused"
                );
                return Answer::refuse(&refusal);
            }
        };
        let answer = match op {
            "Login" => self.login_asked(frps, content).await,
            "Ping" => self.ping_asked(frps, content).await,
            "NewWorkConn" => self.work_conn_asked(frps, content).await,
            "NewProxy" => self.proxy_asked(frps, content).await,
            "CloseProxy" => self.close_asked(frps, content).await,
            _ => self.user_conn_asked(frps, content).await,
        };
        if let Err(error) = self.note_call(frps).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                node_id = frps.node.id,
                "a node's presence could not be noted"
            );
        }
        answer
    }
}

/// A request of frps, as [`totoro_api::wire::plugin::Request`], with its content as it came.
#[derive(Deserialize)]
struct Request<'a> {
    #[expect(dead_code, reason = "a request without it is none of frps's")]
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The content of a request for this operation.
fn read_request<'a>(door: Door, op: &str, body: &'a [u8]) -> Result<&'a RawValue, Refusal> {
    let refuse = |reason, detail: String| Err(Refusal::with(reason, detail));
    if !door.ops().contains(&op) {
        let op: String = op.chars().filter(char::is_ascii_graphic).take(40).collect();
        let ops = door.ops().join(", ");
        let detail = format!("the operation {op} is not served here, only {ops}");
        return refuse(Reason::Unsupported, detail);
    }
    let request: Request<'_> = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    if request.op != op {
        let detail = "the op in the address and the op in the body differ";
        return refuse(Reason::RequestMalformed, detail.to_owned());
    }
    Ok(request.content)
}

/// An operation's content. Never with what stood in it: it may carry a ticket.
fn read<T: DeserializeOwned>(content: &RawValue) -> Result<T, Refusal> {
    serde_json::from_str(content.get()).map_err(|error| unreadable(&error))
}

/// The answer that is made of an operation's whole content.
fn answer_with(content: &RawValue, answer: impl FnOnce(Value) -> Answer) -> Answer {
    match read(content) {
        Ok(content) => answer(content),
        Err(refusal) => Answer::refuse(&refusal),
    }
}

/// Checks every length of who asks.
fn check_user(user: &User) -> Result<(), Refusal> {
    check_text("user", &user.user)?;
    check_text("run_id", &user.run_id)
}

/// The refusal in a failure; what failed otherwise goes to the log, and frpc is told no more.
fn refusal_of(failure: Failure) -> Refusal {
    match failure {
        Failure::Refused(refusal) => refusal,
        failed => {
            tracing::error!(
                error = &failed as &dyn std::error::Error,
                "a plugin request failed"
            );
            Reason::Internal.into()
        }
    }
}

fn lock<T>(table: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    table
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
