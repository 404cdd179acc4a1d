//! What an invite allows: as written (every field optional), and as it holds (every field set).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ports::{PortSet, Protocol};

/// The largest `max_conns`, `max_flows` and `max_conns_per_source`.
pub const MAX_CONNS: u32 = 65_536;
/// The largest `max_clients` and `max_proxies`.
pub const MAX_CLIENTS: u32 = 4_096;
/// The largest `conn_rate`, new connections per second.
pub const MAX_CONN_RATE: u32 = 100_000;
/// The longest `session_max`, seconds (30 days).
pub const MAX_SESSION_S: u64 = 30 * 86_400;
/// The shortest `session_max`, seconds.
pub const MIN_SESSION_S: u64 = 10;

/// The field of the allowed types.
const TYPES: &str = "types";

/// Limits as written by people and sent on the wire. Absent = the node's default.
///
/// Fields that this version does not know are kept in `unknown`: what people write is refused with
/// their names ([`Limits::check`]), and a node that is pushed a limit it does not know refuses that
/// invite instead of admitting it unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(from = "Read")]
pub struct Limits {
    /// Concurrent TCP user connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65_536))]
    pub max_conns: Option<u32>,
    /// Concurrent UDP flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65_536))]
    pub max_flows: Option<u32>,
    /// Concurrent TCP user connections from one IPv4 address or IPv6 /64; as many answered UDP flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65_536))]
    pub max_conns_per_source: Option<u32>,
    /// Concurrent frpc sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 4_096))]
    pub max_clients: Option<u32>,
    /// Concurrent proxies, all sessions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 4_096))]
    pub max_proxies: Option<u32>,
    /// New TCP user connections per second; the burst is one second's worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100_000))]
    pub conn_rate: Option<u32>,
    /// Allowed proxy types.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 2))]
    pub types: Option<Vec<Protocol>>,
    /// Allowed ports, within the node's pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::ports::PortRange>>, min_items = 1))]
    pub ports: Option<PortSet>,
    /// The longest life of one session, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 2_592_000))]
    pub session_max: Option<u64>,
    /// What this version does not know.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub unknown: BTreeMap<String, Value>,
}

/// [`Limits`] as they come. Types that this version does not know are an unknown limit as well: one
/// invite with such a type must not make all the others unreadable.
#[derive(Deserialize)]
struct Read {
    max_conns: Option<u32>,
    max_flows: Option<u32>,
    max_conns_per_source: Option<u32>,
    max_clients: Option<u32>,
    max_proxies: Option<u32>,
    conn_rate: Option<u32>,
    types: Option<Value>,
    ports: Option<PortSet>,
    session_max: Option<u64>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

impl From<Read> for Limits {
    fn from(mut read: Read) -> Self {
        let types = read.types.and_then(|types| {
            let known = Vec::<Protocol>::deserialize(&types).ok();
            if known.is_none() {
                read.unknown.insert(TYPES.to_owned(), types);
            }
            known
        });
        Limits {
            max_conns: read.max_conns,
            max_flows: read.max_flows,
            max_conns_per_source: read.max_conns_per_source,
            max_clients: read.max_clients,
            max_proxies: read.max_proxies,
            conn_rate: read.conn_rate,
            types,
            ports: read.ports,
            session_max: read.session_max,
            unknown: read.unknown,
        }
    }
}

/// Limits that cannot hold: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits.{field}: {problem}")]
pub struct BadLimit {
    /// The field's name.
    pub field: String,
    /// What is wrong with it, and what is allowed.
    pub problem: String,
}

impl Limits {
    /// Checks what a person wrote: no unknown field, every number within its stated range.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), BadLimit> {
        let bad = |field: &str, problem: String| {
            Err(BadLimit {
                field: field.to_owned(),
                problem,
            })
        };
        if let Some(types) = self.unknown.get(TYPES) {
            let types: String = types.to_string().chars().take(40).collect();
            return bad(TYPES, format!("must be a list of tcp and udp, not {types}"));
        }
        if let Some(name) = self.unknown.keys().next() {
            return bad(
                &name.chars().take(40).collect::<String>(),
                "unknown field".to_owned(),
            );
        }
        for (field, value, max) in [
            ("max_conns", self.max_conns, MAX_CONNS),
            ("max_flows", self.max_flows, MAX_CONNS),
            ("max_conns_per_source", self.max_conns_per_source, MAX_CONNS),
            ("max_clients", self.max_clients, MAX_CLIENTS),
            ("max_proxies", self.max_proxies, MAX_CLIENTS),
            ("conn_rate", self.conn_rate, MAX_CONN_RATE),
        ] {
            if value.is_some_and(|value| value == 0 || value > max) {
                return bad(field, format!("must be 1 to {max}"));
            }
        }
        if self
            .session_max
            .is_some_and(|s| !(MIN_SESSION_S..=MAX_SESSION_S).contains(&s))
        {
            return bad(
                "session_max",
                format!("must be {MIN_SESSION_S} to {MAX_SESSION_S} seconds"),
            );
        }
        if self.types.as_ref().is_some_and(Vec::is_empty) {
            return bad("types", "must name tcp, udp or both".to_owned());
        }
        if self.ports.as_ref().is_some_and(PortSet::is_empty) {
            return bad("ports", "must name at least one port".to_owned());
        }
        Ok(())
    }

    /// These limits with what is absent taken from `defaults`, and what is absent there too from
    /// [`Effective::FALLBACK`].
    #[must_use]
    pub fn over(&self, defaults: &Limits) -> Effective {
        let number =
            |ours: Option<u32>, theirs: Option<u32>, last: u32| ours.or(theirs).unwrap_or(last);
        let last = Effective::fallback();
        let max_conns = number(self.max_conns, defaults.max_conns, last.max_conns);
        let max_flows = number(self.max_flows, defaults.max_flows, last.max_flows);
        Effective {
            max_conns,
            max_flows,
            // It counts connections and flows apart: one source may then have all of either.
            max_conns_per_source: self
                .max_conns_per_source
                .or(defaults.max_conns_per_source)
                .unwrap_or(max_conns.max(max_flows)),
            max_clients: number(self.max_clients, defaults.max_clients, last.max_clients),
            max_proxies: number(self.max_proxies, defaults.max_proxies, last.max_proxies),
            conn_rate: number(self.conn_rate, defaults.conn_rate, last.conn_rate),
            types: self
                .types
                .clone()
                .or_else(|| defaults.types.clone())
                .unwrap_or(last.types),
            ports: self.ports.clone().or_else(|| defaults.ports.clone()),
            session_max: self
                .session_max
                .or(defaults.session_max)
                .unwrap_or(last.session_max),
        }
    }
}

/// Limits as they hold for one tenant: nothing left open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Effective {
    /// Concurrent TCP user connections.
    pub max_conns: u32,
    /// Concurrent UDP flows.
    pub max_flows: u32,
    /// Concurrent TCP user connections, and as many answered UDP flows, from one source.
    pub max_conns_per_source: u32,
    /// Concurrent frpc sessions.
    pub max_clients: u32,
    /// Concurrent proxies.
    pub max_proxies: u32,
    /// New TCP user connections per second.
    pub conn_rate: u32,
    /// Allowed proxy types.
    pub types: Vec<Protocol>,
    /// Allowed ports; `None` = the whole pool.
    pub ports: Option<PortSet>,
    /// The longest life of one session, seconds.
    pub session_max: u64,
}

impl Effective {
    /// What holds when neither the invite nor the node says anything: enough for a person, too
    /// little to hurt a small machine.
    #[must_use]
    pub fn fallback() -> Self {
        Effective {
            max_conns: 100,
            max_flows: 100,
            max_conns_per_source: 100,
            max_clients: 2,
            max_proxies: 5,
            conn_rate: 200,
            types: Protocol::ALL.to_vec(),
            ports: None,
            session_max: 86_400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_named_and_numbers_bounded() {
        let read = |text: &str| serde_json::from_str::<Limits>(text).unwrap().check();
        assert_eq!(
            read(r#"{"max_conns": 5, "types": ["tcp"], "ports": ["20000-20009"]}"#),
            Ok(())
        );
        assert_eq!(read(r#"{"max_cons": 5}"#).unwrap_err().field, "max_cons");
        assert_eq!(read(r#"{"max_conns": 0}"#).unwrap_err().field, "max_conns");
        for types in ["[]", "[\"stcp\"]", "5"] {
            let text = format!("{{\"types\": {types}}}");
            assert_eq!(read(&text).unwrap_err().field, "types");
        }
        assert_eq!(
            read(r#"{"session_max": 1}"#).unwrap_err().field,
            "session_max"
        );
    }

    #[test]
    fn absent_means_the_nodes_default_then_the_fallback() {
        let defaults = Limits {
            max_conns: Some(7),
            ..Limits::default()
        };
        let holds = Limits {
            max_proxies: Some(2),
            ..Limits::default()
        }
        .over(&defaults);
        assert_eq!(
            (holds.max_conns, holds.max_proxies, holds.max_clients),
            (7, 2, 2)
        );
        assert_eq!(
            (holds.max_flows, holds.max_conns_per_source),
            (100, 100),
            "a source may have all connections and all flows by default"
        );
    }
}
