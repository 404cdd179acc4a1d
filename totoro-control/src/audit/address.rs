//! Old events keep where a client came from only roughly: IPv4 by /24, IPv6 by /48.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::Value;
use totoro_api::wire::event::AuditEvent;

/// What is left of an IPv4 address, bits.
const V4_BITS: u8 = 24;
/// What is left of an IPv6 address, bits.
const V6_BITS: u8 = 48;
/// Begins the name of an anonymous tenant; its address follows.
const PUBLIC: &str = "public:";

/// Cuts every address in the event to its prefix: the client's, the actor's, and those that stand
/// in the detail as a whole text (addresses, sockets, prefixes, anonymous tenants).
pub(super) fn cut(event: &mut AuditEvent) {
    cut_text(&mut event.actor.address);
    if let Some(client) = &mut event.subject.client {
        cut_text(client);
    }
    cut_value(&mut event.subject.detail);
}

fn cut_value(value: &mut Value) {
    match value {
        Value::String(text) => cut_text(text),
        Value::Array(values) => values.iter_mut().for_each(cut_value),
        Value::Object(fields) => fields.values_mut().for_each(cut_value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn cut_text(text: &mut String) {
    let (before, rest) = match text.strip_prefix(PUBLIC) {
        Some(rest) => (PUBLIC, rest),
        None => ("", text.as_str()),
    };
    if let Some(prefix) = prefix(rest) {
        *text = format!("{before}{prefix}");
    }
}

/// The prefix to write in place of this text, if it is an address or a longer prefix.
fn prefix(text: &str) -> Option<IpNet> {
    let net = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()))
        .map(|address| IpNet::from(address.to_canonical()))
        .or_else(|_| text.parse::<IpNet>())
        .ok()?;
    let bits = match net {
        IpNet::V4(_) => V4_BITS,
        IpNet::V6(_) => V6_BITS,
    };
    (net.prefix_len() > bits)
        .then(|| IpNet::new(net.addr(), bits).ok().map(|net| net.trunc()))
        .flatten()
}

#[cfg(test)]
mod tests {
    use totoro_api::wire::event::Subject;

    use super::super::Author;
    use super::*;

    #[test]
    fn addresses_are_cut_once_and_nothing_else() {
        for (text, cut) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("192.0.2.77:4711", "192.0.2.0/24"),
            ("192.0.2.64/26", "192.0.2.0/24"),
            ("2001:db8:1:2::3", "2001:db8:1::/48"),
            ("[2001:db8:1:2::3]:80", "2001:db8:1::/48"),
            ("2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("public:192.0.2.77", "public:192.0.2.0/24"),
            ("public:2001:db8:1:2::/64", "public:2001:db8:1::/48"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("inv-192", "inv-192"),
            ("0.61.0", "0.61.0"),
            ("", ""),
        ] {
            let mut text = text.to_owned();
            cut_text(&mut text);
            assert_eq!(text, cut);
            cut_text(&mut text);
            assert_eq!(text, cut, "once is enough");
        }
    }

    #[test]
    fn wherever_they_stand() {
        let author = Author::remote("anyone", "x", "192.0.2.1".parse().unwrap(), "r");
        let mut event = author.event("x.y").into_event();
        event.subject = Subject {
            client: Some("192.0.2.2".to_owned()),
            detail: serde_json::json!({ "n": 1, "from": ["192.0.2.3", { "a": "2001:db8::1" }] }),
            ..Subject::default()
        };
        cut(&mut event);
        assert_eq!(event.actor.address, "192.0.2.0/24");
        assert_eq!(event.subject.client.as_deref(), Some("192.0.2.0/24"));
        assert_eq!(
            event.subject.detail,
            serde_json::json!({ "n": 1, "from": ["192.0.2.0/24", { "a": "2001:db8::/48" }] })
        );
    }
}
