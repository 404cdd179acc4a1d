//! Bodies of the API, on either side of it, and the store's records: what is decoded is encoded to
//! what decodes to the same.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use totoro_api::limits::{
    Limits, MAX_CLIENTS, MAX_CONN_RATE, MAX_CONNS, MAX_SESSION_S, MIN_SESSION_S,
};
use totoro_api::ports::Pool;
use totoro_api::ticket::Claims;
use totoro_api::wire::{admin, ban, event, heartbeat, invite, node, problem, push, session};
use totoro_control::records;

use crate::Target;

/// The type's name, a line feed, JSON.
pub(crate) const TARGET: Target = Target {
    name: "rest",
    run,
    seeds,
};

fn same<T: DeserializeOwned + Serialize + Debug>(json: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(json) else {
        return;
    };
    // A figure beyond its type is infinite, and would be written as null. A heartbeat is bounded before
    // anybody is shown it; what the control plane itself shows has none.
    if format!("{read:?}").contains(": inf") || format!("{read:?}").contains(": -inf") {
        return;
    }
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).unwrap_or_else(|error| {
        panic!("{error}: {read:?}");
    });
    assert_eq!(format!("{again:?}"), format!("{read:?}"));
    assert_eq!(serde_json::to_vec(&again).expect("written"), written);
}

/// The types by their names.
macro_rules! types {
    ($($kind:ty),+ $(,)?) => {
        const TYPES: &[(&str, fn(&[u8]))] = &[$((stringify!($kind), same::<$kind>)),+];
    };
}

types! {
    Limits,
    Pool,
    Claims,
    admin::NewToken,
    admin::TokenPage,
    admin::TicketKeyPage,
    ban::NewBan,
    ban::BanPage,
    event::EventBatch,
    event::EventsAccepted,
    event::AuditPage,
    heartbeat::Heartbeat,
    heartbeat::HeartbeatAnswer,
    invite::NewInvite,
    invite::ChangeInvite,
    invite::Invite,
    invite::InvitePage,
    invite::Code,
    invite::Resolved,
    invite::PublicTicket,
    invite::AccessToken,
    invite::OauthError,
    invite::Usage,
    node::NewNode,
    node::NodeCreated,
    node::Enroll,
    node::Enrolled,
    node::ChangeNode,
    node::ChangeSelf,
    node::NewKey,
    node::KeyRotated,
    node::Node,
    node::NodePage,
    node::PublicNodePage,
    problem::Problem,
    push::DesiredState,
    push::Applied,
    session::SessionPage,
    records::NodeRecord,
    records::EnrolmentRecord,
    records::AdminTokenRecord,
    records::GoneRecord,
    records::InviteRecord,
    records::BanRecord,
    records::Change,
    records::AppliedRecord,
    records::PresenceRecord,
    records::SpoolRecord,
    records::IdempotencyRecord,
}

fn run(data: &[u8]) {
    let Some(at) = data.iter().position(|&byte| byte == b'\n') else {
        return;
    };
    let (name, json) = (&data[..at], &data[at + 1..]);
    if let Some((_, same)) = TYPES.iter().find(|(kind, _)| kind.as_bytes() == name) {
        same(json);
    }
    if let Ok(said) = serde_json::from_slice::<heartbeat::Heartbeat>(json) {
        let bounded = said.bounded();
        assert_eq!(bounded.clone().bounded(), bounded);
        let written = serde_json::to_vec(&bounded).expect("what is bounded can be written");
        let read: heartbeat::Heartbeat = serde_json::from_slice(&written).expect("and read");
        assert_eq!(read, bounded);
    }
    if let Ok(limits) = serde_json::from_slice::<Limits>(json) {
        held(&limits);
    }
}

/// What passes the check holds, over whatever the node says.
fn held(limits: &Limits) {
    if let Err(bad) = limits.check() {
        assert!(
            !bad.problem.is_empty() && bad.to_string().len() < 512,
            "{bad}"
        );
        return;
    }
    assert!(limits.unknown.is_empty());
    let defaults = Limits {
        max_conns: Some(7),
        ports: "20000-20099".parse().ok(),
        ..Limits::default()
    };
    for holds in [limits.over(&Limits::default()), limits.over(&defaults)] {
        for (number, most) in [
            (holds.max_conns, MAX_CONNS),
            (holds.max_flows, MAX_CONNS),
            (holds.max_conns_per_source, MAX_CONNS),
            (holds.max_clients, MAX_CLIENTS),
            (holds.max_proxies, MAX_CLIENTS),
            (holds.conn_rate, MAX_CONN_RATE),
        ] {
            assert!((1..=most).contains(&number), "{holds:?}");
        }
        assert!((MIN_SESSION_S..=MAX_SESSION_S).contains(&holds.session_max));
        assert!(!holds.types.is_empty() && holds.ports.is_none_or(|ports| !ports.is_empty()));
    }
    assert_eq!(
        limits.over(&defaults).max_conns,
        limits.max_conns.unwrap_or(7)
    );
}

fn seeds() -> Vec<Vec<u8>> {
    let limits = json!({
        "max_conns": 5, "max_flows": 6, "max_conns_per_source": 2, "max_clients": 1, "max_proxies": 3,
        "conn_rate": 10, "types": ["tcp", "udp"], "ports": ["20000-20009", "20020"], "session_max": 3600,
    });
    let pool = json!({"tcp": ["20000-20099"], "udp": ["20000"]});
    let event = json!({
        "seq": 1, "at_ms": 1_700_000_000_000_i64, "boot": "b", "kind": "proxy.refused", "invite": "inv_1",
        "session": "r", "client": "192.0.2.1", "proxy": "web", "port": 20001, "reason": "port_in_use",
        "detail": {"n": 1},
    });
    let node = json!({
        "name": "n1", "visibility": "public", "server_addr": ["n1.example:7000"], "pool": pool,
        "defaults": limits, "public_limits": {}, "region": "eu", "isp": "x", "tags": ["fast"],
        "public_max": {"tenants": 5, "sessions": 5, "leases": 5, "conns": 5}, "abuse_contact": "a@example.invalid",
    });
    let invite = json!({
        "id": "inv_1", "node": "nod_a", "label": "box", "state": "active", "epoch": 1, "limits": limits,
        "code": "c", "created_at": 1_700_000_000, "expires_at": 1_800_000_000, "note": "",
    });
    let desired = json!({
        "gen": 1, "rev": 2, "snapshot": true, "gone": ["inv_2"], "kicks": ["r"],
        "invites": [{"id": "inv_1", "state": "paused", "epoch": 1, "limits": limits, "expires_at": 5}],
        "bans": [{"id": "ban_1", "prefix": "192.0.2.0/24", "until": 7}],
        "keys": [{"kid": "k", "public": "p", "not_before": 1, "expires": 2}],
        "node": {"pool": pool, "public": true, "draining": true},
    });
    let beat = json!({
        "instance": "i", "boot": "b", "uptime_s": 5, "agent_version": "0.1.0", "features": ["max_conns"],
        "grade": "kernel", "cpu_percent": 12.5, "load1": 0.7, "mem_total": 1, "interfaces": [{"name": "eth0"}],
        "refused": {"no_lease": 4}, "tenants": [{"invite": "inv_1"}],
    });
    [
        ("Limits", limits.clone()),
        ("Limits", json!({"types": ["stcp"], "max_cons": 5})),
        ("Pool", pool),
        ("node::NewNode", node),
        ("node::ChangeNode", json!({"draining": true, "defaults": limits})),
        ("node::ChangeSelf", json!({"draining": true, "region": "x"})),
        ("node::Enroll", json!({"token": "t", "key_hash": "00", "instance": "i"})),
        ("invite::NewInvite", json!({"label": "box", "limits": limits, "expires_at": "2030-01-31T12:00:00Z"})),
        ("invite::ChangeInvite", json!({"state": "paused", "expires_at": ""})),
        ("records::InviteRecord", invite),
        ("records::Change", json!({"invites": ["inv_1"]})),
        ("ban::NewBan", json!({"prefix": "192.0.2.0/24", "note": "n"})),
        ("event::EventBatch", json!({"spool": "00112233445566778899aabbccddeeff", "events": [event]})),
        ("heartbeat::Heartbeat", beat),
        ("push::DesiredState", desired),
        ("push::Applied", json!({"gen": 1, "rev": 2, "keys": ["k"], "error": "e"})),
        ("problem::Problem", json!({
            "type": "about:blank", "title": "t", "status": 404, "detail": "d", "code": "not_found", "next": "n",
            "request_id": "r",
        })),
    ]
    .iter()
    .map(|(name, body)| format!("{name}\n{body}").into_bytes())
    .collect()
}
