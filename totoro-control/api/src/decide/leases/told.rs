//! What the audit is told of a lease.

use std::net::SocketAddr;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Lease, PortId};
use crate::wire::event::{About, Subject, kind};

/// The session that has (or had) a lease, as its events name it.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The session's id.
    pub session: &'a str,
    /// Its invite's id, unless it is anonymous.
    pub invite: Option<&'a str>,
    /// Where its frpc comes from.
    pub client: SocketAddr,
}

/// A [`Subject`] about a lease, with nothing copied for it: a busy node writes one for every proxy that
/// comes or goes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LeaseTold<'a, Detail> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    invite: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(serialize_with = "as_text")]
    lease: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<SocketAddr>,
    proxy: &'a str,
    port: u16,
    detail: Detail,
}

/// What else there is to say of a lease that was opened.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Opened {
    #[serde(rename = "type")]
    protocol: crate::ports::Protocol,
}

impl<'a, Detail> LeaseTold<'a, Detail> {
    /// Of this kind, about a lease on a port; `holder` is its session, where that is known.
    pub fn new(
        kind: &'static str,
        lease: &'a Lease,
        (_, port): PortId,
        holder: Option<Holder<'a>>,
        detail: Detail,
    ) -> Self {
        LeaseTold {
            kind,
            invite: holder.and_then(|holder| holder.invite),
            session: holder.map(|holder| holder.session),
            lease: lease.number,
            client: holder.map(|holder| holder.client),
            proxy: lease.name(),
            port,
            detail,
        }
    }

    /// The same, for who keeps it.
    #[must_use]
    pub fn subject(&self) -> Subject
    where
        Detail: Serialize,
    {
        Subject {
            kind: self.kind.to_owned(),
            invite: self.invite.map(str::to_owned),
            session: self.session.map(str::to_owned),
            lease: Some(self.lease.to_string()),
            client: self.client.map(|client| client.to_string()),
            proxy: Some(self.proxy.to_owned()),
            port: Some(self.port),
            reason: None,
            detail: serde_json::to_value(&self.detail).unwrap_or(Value::Null),
        }
    }
}

impl<Detail: Serialize> About for LeaseTold<'_, Detail> {
    fn kind(&self) -> &str {
        self.kind
    }
}

impl Lease {
    /// What is told when it is opened on a port.
    #[must_use]
    pub fn opened<'a>(&'a self, id: PortId, holder: Holder<'a>) -> LeaseTold<'a, Opened> {
        let detail = Opened { protocol: id.0 };
        LeaseTold::new(kind::PROXY_OPENED, self, id, Some(holder), detail)
    }
}

fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Protocol;

    #[test]
    fn it_is_written_as_the_subject_that_it_is() {
        let lease = Lease::new(7, ("inv_a", "r"), ("u.web", "web"), 5);
        for (invite, client) in [
            (Some("inv_a"), "192.0.2.1:9"),
            (None, "[2001:db8::1]:65535"),
        ] {
            let client = client.parse().unwrap();
            let holder = Holder {
                session: "ses_a",
                invite,
                client,
            };
            let told = lease.opened((Protocol::Udp, 20_000), holder);
            let subject = told.subject();
            let written = serde_json::to_string(&told).unwrap();
            assert_eq!(written, serde_json::to_string(&subject).unwrap());
            assert_eq!(subject.kind, kind::PROXY_OPENED);
            assert_eq!(subject.client, Some(client.to_string()));
            assert_eq!(subject.detail, serde_json::json!({ "type": "udp" }));
        }
        let id = (Protocol::Tcp, 1);
        let told = LeaseTold::new(kind::PROXY_CLOSED, &lease, id, None, [1]);
        let written = serde_json::to_string(&told).unwrap();
        assert_eq!(written, serde_json::to_string(&told.subject()).unwrap());
    }
}
