//! One lease, and the port that it is of. A node may have one for each port of two protocols, so that it is
//! small: its session's and its tenant's names are shared, and the proxy's name is kept once.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::ports::Protocol;

/// A port of one protocol.
pub type PortId = (Protocol, u16);

/// A port as the store has it.
#[must_use]
pub fn record_key((protocol, port): PortId) -> String {
    format!("{protocol}/{port}")
}

/// Reads what [`record_key`] wrote.
#[must_use]
pub fn parse_key(key: &str) -> Option<PortId> {
    let (protocol, port) = key.split_once('/')?;
    let protocol = Protocol::ALL
        .into_iter()
        .find(|known| known.as_str() == protocol)?;
    Some((protocol, port.parse().ok()?))
}

/// One pool port held by one proxy of one session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Record<Arc<str>, Box<str>>")]
pub struct Lease {
    /// Rises, never used twice.
    pub number: u64,
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The session.
    pub run_id: Arc<str>,
    names: Names,
    /// Since when, Unix ms.
    pub since_ms: i64,
    /// `None`: nothing, as of most leases that there are.
    summed: Option<Box<Summed>>,
}

/// What of a lease's user connections was told, counted from the lease's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summed {
    /// Connections that ended.
    pub conns: u64,
    /// From users, IP bytes.
    pub bytes_in: u64,
    /// To users, IP bytes.
    pub bytes_out: u64,
}

impl Summed {
    /// Nothing was told yet; grade `callback` never tells anything.
    fn is_nothing(&self) -> bool {
        *self == Summed::default()
    }

    fn kept(self) -> Option<Box<Summed>> {
        (!self.is_nothing()).then(|| Box::new(self))
    }
}

/// A proxy's name in frps, and the part of it that is the name without the user's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    /// The name in frps; the other one behind it, where it is no end of it.
    text: Box<str>,
    wire_ends: u32,
    name_begins: u32,
}

impl Names {
    fn new(wire: &str, name: &str) -> Self {
        let (text, begins) = match wire.strip_suffix(name) {
            Some(prefix) => (wire.into(), prefix.len()),
            None => ([wire, name].concat().into(), wire.len()),
        };
        // A request that tells of a name of 4 GiB is not read.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Names {
            text,
            wire_ends: place(wire.len()),
            name_begins: place(begins),
        }
    }
}

/// A lease as it is stored.
#[derive(Serialize, Deserialize)]
struct Record<Shared, Own> {
    number: u64,
    tenant: Shared,
    run_id: Shared,
    /// Nothing any more, but an earlier version that is put back reads no record without it.
    #[serde(skip_deserializing)]
    nonce: &'static str,
    name: Own,
    wire: Own,
    since_ms: i64,
    #[serde(default, skip_serializing_if = "Summed::is_nothing")]
    summed: Summed,
}

impl From<Record<Arc<str>, Box<str>>> for Lease {
    fn from(record: Record<Arc<str>, Box<str>>) -> Self {
        Lease {
            number: record.number,
            tenant: record.tenant,
            run_id: record.run_id,
            names: Names::new(&record.wire, &record.name),
            since_ms: record.since_ms,
            summed: record.summed.kept(),
        }
    }
}

impl Serialize for Lease {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = Record {
            number: self.number,
            tenant: &*self.tenant,
            run_id: &*self.run_id,
            nonce: "",
            name: self.name(),
            wire: self.wire(),
            since_ms: self.since_ms,
            summed: self.summed(),
        };
        record.serialize(serializer)
    }
}

impl Lease {
    /// A lease of a session of a tenant's, for the proxy `wire` of frps's, which is `name` without
    /// the user's prefix, since `since_ms` (Unix ms); nothing of it was told.
    #[must_use]
    pub fn new(
        number: u64,
        (tenant, run_id): (&str, &str),
        (wire, name): (&str, &str),
        since_ms: i64,
    ) -> Self {
        Lease {
            number,
            tenant: tenant.into(),
            run_id: run_id.into(),
            names: Names::new(wire, name),
            since_ms,
            summed: None,
        }
    }

    /// As far as its user connections were told of.
    #[must_use]
    pub fn summed(&self) -> Summed {
        self.summed.as_deref().copied().unwrap_or_default()
    }

    /// They were told of up to here.
    pub(super) fn sum(&mut self, summed: Summed) {
        self.summed = summed.kept();
    }

    /// The proxy's name without the user's prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.names.text[self.names.name_begins as usize..]
    }

    /// The proxy's name in frps.
    #[must_use]
    pub fn wire(&self) -> &str {
        &self.names.text[..self.names.wire_ends as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_version_reads_what_is_written_and_its_records_are_read() {
        let names = [
            ("u.web", "web"),
            ("web", "web"),
            ("u.web", "other"),
            ("é.é", "é"),
            ("u.", ""),
        ];
        for (wire, name) in names {
            let record = |nonce: &str| {
                serde_json::json!({
                    "number": 7, "tenant": "inv_a", "run_id": "r", "nonce": nonce,
                    "name": name, "wire": wire, "since_ms": 5,
                })
            };
            let read: Lease = serde_json::from_value(record("n")).unwrap();
            assert_eq!((read.wire(), read.name()), (wire, name));
            assert_eq!(serde_json::to_value(&read).unwrap(), record(""));
            let again: Lease = serde_json::from_value(record("")).unwrap();
            assert_eq!(again, read);
        }
    }
}
