//! The body of a Login: checked before anything else, and rewritten for frps.

use std::net::SocketAddr;

use crate::ticket::{self, HEADER};
use crate::wire::plugin::{Answer, Login};
use crate::{Reason, Refusal};
use md5::{Digest, Md5};
use serde_json::Value;

/// Metadata that carries a ticket, where the credential can't.
const TICKET_META: &str = "totoro_ticket";
/// Metadata of ours: which Login a later request belongs to.
pub const LOGIN_META: &str = "totoro_login";

/// The longest plain text field of a Login, bytes.
const MAX_TEXT: usize = 256;
/// The most metadata entries.
const MAX_METAS: usize = 64;
/// `pool_count` beyond this is no setting but an attack.
const MAX_POOL_COUNT: i64 = 1000;
/// Work connections that frps may keep ready for one client.
const POOL_COUNT: i64 = 5;

/// A session as frps is to be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The session's run_id.
    pub run_id: String,
    /// Which Login this was: [`LOGIN_META`].
    pub nonce: String,
}

/// The refusal of a body that can't be read. Never with its content: it may carry a ticket.
#[must_use]
pub fn unreadable(error: &serde_json::Error) -> Refusal {
    let detail = match error.classify() {
        serde_json::error::Category::Eof => "the body ended too soon",
        serde_json::error::Category::Data => "a field of the body is missing or of another type",
        _ => "the body is no JSON",
    };
    Refusal::with(Reason::RequestMalformed, detail)
}

/// Where a Login comes from, as frps says.
#[must_use]
pub fn client_of(client_address: &str) -> Option<SocketAddr> {
    let client: SocketAddr = client_address.parse().ok()?;
    Some(SocketAddr::new(client.ip().to_canonical(), client.port()))
}

/// Checks every number and length in a Login.
///
/// # Errors
/// `request_malformed`.
pub fn check_login(body: &Login) -> Result<(), Refusal> {
    let bad = |what: &str| Refusal::with(Reason::RequestMalformed, what.to_owned());
    if !(0..=MAX_POOL_COUNT).contains(&body.pool_count) {
        return Err(bad(&format!(
            "poolCount = {} is not 0 to {MAX_POOL_COUNT}",
            body.pool_count
        )));
    }
    for (name, text, max) in [
        ("version", &body.version, MAX_TEXT),
        ("hostname", &body.hostname, MAX_TEXT),
        ("os", &body.os, MAX_TEXT),
        ("arch", &body.arch, MAX_TEXT),
        ("user", &body.user, MAX_TEXT),
        ("client_id", &body.client_id, MAX_TEXT),
        ("run_id", &body.run_id, MAX_TEXT),
        ("client_address", &body.client_address, MAX_TEXT),
        ("privilege_key", &body.privilege_key, ticket::MAX_LEN * 2),
    ] {
        check(name, text, max)?;
    }
    if body
        .metas
        .as_ref()
        .is_some_and(|metas| metas.len() > MAX_METAS)
    {
        return Err(bad(&format!("more than {MAX_METAS} metadatas")));
    }
    Ok(())
}

/// Checks a plain text field of any other request.
///
/// # Errors
/// `request_malformed`.
pub fn check_text(name: &str, text: &str) -> Result<(), Refusal> {
    check(name, text, MAX_TEXT)
}

fn check(name: &str, text: &str, max: usize) -> Result<(), Refusal> {
    let bad = |what: String| Err(Refusal::with(Reason::RequestMalformed, what));
    if text.len() > max {
        return bad(format!("{name} is longer than {max} bytes"));
    }
    if text.chars().any(char::is_control) {
        return bad(format!("{name} has control characters"));
    }
    Ok(())
}

/// The ticket in a Login, in whichever of the two places it travels.
#[must_use]
pub fn ticket_of(body: &Login) -> &str {
    if body.privilege_key.starts_with(HEADER) {
        return &body.privilege_key;
    }
    if let Some(ticket) = body.metas.as_ref().and_then(|metas| metas.get(TICKET_META)) {
        return ticket;
    }
    // With auth.method = "token" frpc sends the hex of an MD5 sum, which is no try at a ticket.
    let key = &body.privilege_key;
    let sum = key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if sum { "" } else { key }
}

/// The Login as frps is to take it. frps checks `privilege_key` against its own empty token.
#[must_use]
pub fn rewritten(mut content: Value, body: &Login, granted: &Granted) -> Answer {
    let Some(object) = content.as_object_mut() else {
        return Answer::refuse(&Refusal::new(Reason::RequestMalformed));
    };
    let mut metas = body.metas.clone().unwrap_or_default();
    metas.remove(TICKET_META);
    metas.insert(LOGIN_META.to_owned(), granted.nonce.clone());
    object.insert("privilege_key".to_owned(), key_at(body.timestamp).into());
    object.insert("run_id".to_owned(), granted.run_id.clone().into());
    object.insert(
        "pool_count".to_owned(),
        body.pool_count.min(POOL_COUNT).into(),
    );
    object.insert("metas".to_owned(), serde_json::json!(metas));
    Answer::allow_with(content)
}

/// A Ping or NewWorkConn as frps is to take it: all as it was sent, but for the key. With oidc
/// neither carries a timestamp, and frps counts it as 0.
#[must_use]
pub fn with_key(mut content: Value) -> Answer {
    let timestamp = match content.get("timestamp") {
        None | Some(Value::Null) => Some(0),
        Some(timestamp) => timestamp.as_i64(),
    };
    match (content.as_object_mut(), timestamp) {
        (Some(object), Some(timestamp)) => {
            object.insert("privilege_key".to_owned(), key_at(timestamp).into());
            Answer::allow_with(content)
        }
        _ => {
            let detail = "timestamp is no whole number";
            Answer::refuse(&Refusal::with(Reason::RequestMalformed, detail))
        }
    }
}

/// What frps itself computes with its empty token.
fn key_at(timestamp: i64) -> String {
    hex::encode(Md5::digest(timestamp.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> Login {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_number_and_length_is_checked() {
        let ok = body(r#"{"client_address":"[::ffff:192.0.2.1]:5","pool_count":1}"#);
        check_login(&ok).unwrap();
        let client = client_of(&ok.client_address);
        assert_eq!(client, "192.0.2.1:5".parse().ok());
        assert_eq!(client_of("192.0.2.1"), None);
        assert_eq!(client_of(""), None);
        for json in [
            r#"{"client_address":"192.0.2.1:5","pool_count":-100}"#.to_owned(),
            r#"{"client_address":"192.0.2.1:5","pool_count":1001}"#.to_owned(),
            r#"{"client_address":"192.0.2.1:5","user":"a\nb"}"#.to_owned(),
            format!(
                r#"{{"client_address":"192.0.2.1:5","hostname":"{}"}}"#,
                "x".repeat(257)
            ),
            format!(
                r#"{{"client_address":"192.0.2.1:5","privilege_key":"{}"}}"#,
                "x".repeat(9000)
            ),
        ] {
            let reason = check_login(&body(&json)).unwrap_err().reason;
            assert_eq!(reason, Reason::RequestMalformed, "{json:.80}");
        }
    }

    #[test]
    fn where_a_ticket_travels() {
        let md5 = "0123456789abcdef0123456789abcdef";
        for (key, meta, found) in [
            ("v4.public.A", Some("v4.public.B"), "v4.public.A"),
            (md5, Some("v4.public.B"), "v4.public.B"),
            (md5, None, ""),
            ("", None, ""),
            ("garbage", None, "garbage"),
        ] {
            let metas = meta.map(|ticket| [(TICKET_META.to_owned(), ticket.to_owned())].into());
            let login = Login {
                privilege_key: key.to_owned(),
                metas,
                ..Login::default()
            };
            assert_eq!(ticket_of(&login), found, "{key}");
        }
    }

    #[test]
    fn frps_gets_the_whole_login_with_our_values() {
        let content = serde_json::json!({
            "version": "0.70.1", "privilege_key": "v4.public.A", "timestamp": 1_700_000_000,
            "pool_count": 99, "metas": {"totoro_ticket": "t", "mine": "x"},
            "client_address": "192.0.2.1:5", "client_spec": {"a": 1},
        });
        let login: Login = serde_json::from_value(content.clone()).unwrap();
        let granted = Granted {
            run_id: "r".to_owned(),
            nonce: "n".to_owned(),
        };
        let answer = rewritten(content, &login, &granted);
        assert!(!answer.reject && !answer.unchange);
        let content = answer.content.unwrap();
        // md5("1700000000"), as frps computes it with an empty token.
        assert_eq!(content["privilege_key"], "24920decf83f6960b80f737a28eeafc1");
        assert_eq!(content["run_id"], "r");
        assert_eq!(content["pool_count"], 5);
        assert_eq!(
            content["metas"],
            serde_json::json!({"mine": "x", "totoro_login": "n"})
        );
        assert_eq!(content["client_spec"]["a"], 1, "what is not ours stays");
        assert!(rewritten(Value::Null, &login, &granted).reject);
    }

    #[test]
    fn a_ping_keeps_all_but_its_key() {
        let zero = "cfcd208495d565ef66e7dff9f98764da";
        for (content, key) in [
            (serde_json::json!({"privilege_key": "v4.x"}), zero),
            (serde_json::json!({"timestamp": null, "x": 1}), zero),
            (serde_json::json!({"timestamp": 0}), zero),
            (
                serde_json::json!({"timestamp": 1_700_000_000, "user": {"run_id": "r"}}),
                "24920decf83f6960b80f737a28eeafc1",
            ),
        ] {
            let answer = with_key(content.clone());
            assert!(!answer.reject && !answer.unchange);
            let mut expected = content;
            expected["privilege_key"] = key.into();
            assert_eq!(answer.content, Some(expected));
        }
        for bad in [
            serde_json::json!({"timestamp": "1"}),
            serde_json::json!({"timestamp": 1.5}),
            Value::Null,
        ] {
            assert!(with_key(bad).reject);
        }
    }
}
