//! Logins: every reason, and what becomes of a ticket that is brought again.

use futures_util::future::join_all;
use serde_json::{Value, json};
use totoro_api::limits::Limits;
use totoro_api::ticket::{Claims, Grant, Revision, SigningKey, sign};

use super::{Frps, Session, allowed, kinds, login_of, port_of, refused, ticket};
use crate::support::Control;

const HERE: &str = "198.51.100.1:1111";
const THERE: &str = "198.51.100.2:2222";

/// A ticket that the control plane could have signed, of another time.
fn signed(control: &Control, node: &str, invite: &str, exp: i64, own_key: bool) -> String {
    let secrets = std::fs::read_dir(control.at().join("secrets")).unwrap();
    let file = secrets
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|of| of == "key") && named_ticket(path))
        .unwrap();
    let key = match own_key {
        true => SigningKey::from_bytes(&std::fs::read(file).unwrap()).unwrap(),
        false => SigningKey::generate().unwrap(),
    };
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let claims = Claims {
        jti: format!("{exp:032}"),
        node: node.to_owned(),
        grant: Grant::Invite(invite.to_owned()),
        subject: String::new(),
        epoch: 1,
        limits: Limits::default(),
        revision: Revision::default(),
        iat: now,
        exp: now + exp,
        session_until: now + 3600,
    };
    sign(&key, &claims)
}

fn named_ticket(path: &std::path::Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.starts_with("ticket-")
}

#[tokio::test]
async fn a_login_is_rewritten_whole() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let (id, code) = control.invite(&frps.node, json!({})).await;
    let ticket = ticket(&control, &code).await;
    let mut content = login_of(&id, &ticket, HERE);
    content["pool_count"] = json!(99);
    content["metas"] = json!({ "mine": "x" });
    content["client_spec"] = json!({ "type": "a" });
    let answer = frps.login(&control, content).await;
    let said = &answer["content"];
    assert_eq!(answer["unchange"], false);
    // md5("1700000000"): what frps computes with its empty token.
    assert_eq!(said["privilege_key"], "24920decf83f6960b80f737a28eeafc1");
    assert_eq!(said["run_id"].as_str().map(str::len), Some(32));
    assert_eq!(
        (&said["pool_count"], &said["user"]),
        (&json!(5), &json!(id))
    );
    assert_eq!(said["metas"]["mine"], "x");
    assert_eq!(said["client_spec"]["type"], "a", "what is not ours stays");
    let event = &control
        .audit(&format!("&invite={id}&kind=session.opened"))
        .await[0];
    assert_eq!(
        (&event["client"], &event["node"]),
        (&json!(HERE), &json!(frps.node.id))
    );
    assert!(!control.log().contains(&ticket), "no ticket in the log");
}

#[tokio::test]
async fn every_reason_why_not() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let other = Frps::new(&control, "n2", json!({})).await;
    let (id, code) = control.invite(&frps.node, json!({})).await;
    let (_, elsewhere) = control.invite(&other.node, json!({})).await;
    let good = ticket(&control, &code).await;
    let with = |field: &str, value: Value| {
        let mut content = login_of(&id, &good, HERE);
        content[field] = value;
        content
    };
    let key = |text: String| with("privilege_key", json!(text));
    let node = frps.node.id.as_str();
    let mut forged = good.clone().into_bytes();
    // Another symbol of the same alphabet: one beyond it would be no ticket at all.
    forged[60] = if forged[60] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let rows = [
        ("request_malformed", with("pool_count", json!(-1))),
        ("request_malformed", with("pool_count", json!(1e30))),
        ("request_malformed", with("pool_count", json!("1"))),
        ("request_malformed", with("timestamp", json!(1.5))),
        (
            "request_malformed",
            with("hostname", json!("x".repeat(300))),
        ),
        ("request_malformed", with("run_id", json!("a\nb"))),
        (
            "request_malformed",
            with("client_address", json!("nowhere")),
        ),
        (
            "ticket_missing",
            key("0123456789abcdef0123456789abcdef".to_owned()),
        ),
        ("ticket_missing", key(String::new())),
        ("ticket_malformed", key("garbage".to_owned())),
        ("ticket_forged", key(forged)),
        ("ticket_wrong_node", key(ticket(&control, &elsewhere).await)),
        (
            "ticket_key_unknown",
            key(signed(&control, node, &id, 60, false)),
        ),
        (
            "ticket_expired",
            key(signed(&control, node, &id, -120, true)),
        ),
        (
            "invite_unknown",
            key(signed(&control, node, "inv-none", 60, true)),
        ),
        ("proxy_name_denied", with("user", json!("mei"))),
    ];
    for (reason, content) in &rows {
        let answer = frps.login(&control, content.clone()).await;
        refused(&answer, reason);
    }
    let events = control.audit("&kind=session.refused").await;
    let reasons: Vec<&str> = events
        .iter()
        .map(|event| event["reason"].as_str().unwrap())
        .collect();
    let asked: Vec<&str> = rows.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(reasons, asked, "one event each");
    for event in &events {
        assert_eq!(event["node"], node);
    }
    // One line for each, with the four fields.
    let log = control.log();
    for (reason, _) in &rows {
        let line = log.lines().find(|line| {
            let fields = [
                "node_id=",
                "invite_id=",
                "proxy_name=",
                &format!("reason=\"{reason}\""),
            ];
            line.contains("login refused") && fields.iter().all(|field| line.contains(field))
        });
        assert!(line.is_some(), "{reason} is not in the log");
    }
}

#[tokio::test]
async fn what_the_invite_and_the_node_say() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let (id, code) = control.invite(&frps.node, json!({})).await;
    let good = ticket(&control, &code).await;
    let admin = &control.admin;
    let (invite, node) = (
        format!("/admin/invites/{id}"),
        format!("/admin/nodes/{}", frps.node.id),
    );
    let ask = async || frps.login(&control, login_of(&id, &good, HERE)).await;

    control
        .patch(&invite, admin, json!({ "state": "paused" }))
        .await
        .with(200);
    refused(&ask().await, "invite_paused");
    control
        .patch(&invite, admin, json!({ "state": "active" }))
        .await
        .with(200);
    control
        .patch(&node, admin, json!({ "draining": true }))
        .await
        .with(200);
    refused(&ask().await, "node_draining");
    control
        .patch(&node, admin, json!({ "draining": false, "disabled": true }))
        .await
        .with(200);
    refused(&ask().await, "node_disabled");
    control
        .patch(&node, admin, json!({ "disabled": false }))
        .await
        .with(200);
    let ban = json!({ "prefix": "198.51.100.0/24" });
    let ban = control.post("/admin/bans", admin, ban).await.with(201);
    refused(&ask().await, "client_banned");
    let path = format!("/admin/bans/{}", ban["id"].as_str().unwrap());
    control.delete(&path, admin).await;
    let session = Session::of(&ask().await);

    // A session that is known comes back while the invite is paused; a new one does not.
    control
        .patch(&invite, admin, json!({ "state": "paused" }))
        .await
        .with(200);
    let mut again = login_of(&id, &good, HERE);
    again["run_id"] = json!(session.run_id());
    allowed(&frps.login(&control, again).await);
    control
        .patch(&invite, admin, json!({ "state": "active" }))
        .await
        .with(200);

    let rotate = format!("{invite}/rotate");
    let any = [("if-match", "*")];
    let rotated = control
        .call_with("POST", &rotate, admin, Some(json!({})), &any)
        .await;
    assert!(rotated.status.is_success(), "{}", rotated.text);
    refused(&ask().await, "ticket_expired");
    control.delete(&invite, admin).await;
    refused(&ask().await, "invite_revoked");
}

#[tokio::test]
async fn the_contracts_table_of_logins() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "max_clients": 3 } });
    let (id, code) = control.invite(&frps.node, limits).await;
    let (stranger, strange_code) = control.invite(&frps.node, json!({})).await;
    let login = async |ticket: &str, run_id: &str, from: &str| {
        let mut content = login_of(&id, ticket, from);
        content["run_id"] = json!(run_id);
        frps.login(&control, content).await
    };
    let first = ticket(&control, &code).await;
    let opened = login(&first, "", HERE).await;
    let session = Session::of(&opened);
    // Seen, its own run_id: from any address.
    let resumed = Session::of(&login(&first, session.run_id(), THERE).await);
    assert_eq!(resumed.run_id(), session.run_id());
    assert_ne!(
        resumed.user["metas"], session.user["metas"],
        "another nonce"
    );
    refused(&frps.ping(&control, &session).await, "session_expired");
    allowed(&frps.ping(&control, &resumed).await);
    // Seen, no run_id: a restarted frpc at the same address, nobody at another.
    let taken = Session::of(&login(&first, "", "198.51.100.2:4").await);
    assert_eq!(taken.run_id(), session.run_id());
    refused(&login(&first, "", HERE).await, "ticket_in_use");
    // A newer ticket with a run_id of the invite extends; counts once.
    let second = ticket(&control, &code).await;
    let extended = Session::of(&login(&second, session.run_id(), HERE).await);
    assert_eq!(extended.run_id(), session.run_id());
    // An unknown run_id opens, another tenant's is nobody's to take.
    let third = ticket(&control, &code).await;
    let unknown = Session::of(&login(&third, &"0".repeat(32), HERE).await);
    assert_ne!(unknown.run_id(), session.run_id());
    let theirs = frps
        .session(&control, &(stranger, strange_code), THERE)
        .await;
    let fourth = ticket(&control, &code).await;
    refused(
        &login(&fourth, theirs.run_id(), HERE).await,
        "ticket_in_use",
    );
    // A ticket that belongs to another session of the same invite.
    refused(
        &login(&third, session.run_id(), HERE).await,
        "ticket_in_use",
    );
    // Three sessions: two are there.
    Session::of(&login(&fourth, "", HERE).await);
    let fifth = ticket(&control, &code).await;
    refused(&login(&fifth, "", HERE).await, "max_clients");
    let query = format!("&invite={id}");
    assert_eq!(
        kinds(&control, &query).await,
        [
            "session.opened",
            "session.resumed",
            "session.resumed",
            "session.refused",
            "session.resumed",
            "session.opened",
            "session.refused",
            "session.refused",
            "session.opened",
            "session.refused",
        ]
    );
}

#[tokio::test]
async fn anonymous_visitors_are_their_prefix() {
    let control = Control::start();
    let public = json!({
        "visibility": "public", "public_limits": { "max_clients": 1, "max_proxies": 1 },
        "public_max": { "tenants": 2, "sessions": 5, "leases": 1 },
    });
    let frps = Frps::new(&control, "n1", public).await;
    let login = async |user: &str, from: &str| {
        let ticket = ticket(&control, "public:n1").await;
        frps.login(&control, login_of(user, &ticket, from)).await
    };
    let one = Session::of(&login("public-1", "192.0.2.1:1").await);
    refused(&login("public-2", "192.0.2.1:2").await, "max_clients");
    let two = Session::of(&login("public-3", "[2001:db8:1::1]:1").await);
    refused(
        &login("public-4", "[2001:db8:1:5::1]:1").await,
        "public_full",
    );
    refused(&login("public-5", "192.0.2.9:1").await, "public_full");
    allowed(&frps.new_proxy(&control, &one, ("web", "tcp", 0)).await);
    refused(
        &frps.new_proxy(&control, &two, ("web", "tcp", 0)).await,
        "public_full",
    );
    let (id, _) = control.invite(&frps.node, json!({})).await;
    refused(&login(&id, "192.0.2.10:1").await, "proxy_name_denied");
}

/// A frpc that changes its network brings its ticket again, and its run_id.
#[tokio::test]
async fn an_anonymous_session_moves_and_its_ports_with_it() {
    let control = Control::start();
    let public = json!({
        "visibility": "public", "public_limits": { "max_clients": 1, "max_proxies": 1 },
        "pool": { "tcp": ["20000-20000"], "udp": [] },
    });
    let frps = Frps::new(&control, "n1", public).await;
    let ticket = ticket(&control, "public:n1").await;
    let mut login = login_of("public-1", &ticket, "192.0.2.1:1");
    let here = Session::of(&frps.login(&control, login.clone()).await);
    let web = ("web", "tcp", 0);
    let port = port_of(&frps.new_proxy(&control, &here, web).await, 0);
    frps.close_proxy(&control, &here, "web").await;
    login["run_id"] = json!(here.run_id());
    login["client_address"] = json!("198.51.100.7:1");
    let there = Session::of(&frps.login(&control, login).await);
    assert_eq!(there.run_id(), here.run_id());
    // The only port there is waits for it, under its new name.
    let again = frps.new_proxy(&control, &there, web).await;
    assert_eq!(port_of(&again, 0), port);
}

#[tokio::test]
async fn who_knocks_too_often_waits() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    // At once: each leaves an event, and a slow disk would give them time.
    let knocks = (0..80).map(|_| frps.login(&control, login_of("x", "garbage", HERE)));
    let is_limited = |answer: &Value| {
        let said = answer["reject_reason"].as_str().unwrap();
        said.starts_with("totoro[rate_limited]")
    };
    let answers = join_all(knocks).await;
    let limited = answers.iter().filter(|answer| is_limited(answer)).count();
    assert!((1..=20).contains(&limited), "{limited}");
    let elsewhere = frps.login(&control, login_of("x", "garbage", THERE)).await;
    refused(&elsewhere, "ticket_malformed");
}
