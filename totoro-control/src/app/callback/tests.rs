//! A session's end: by the lender's will, and by its invite's time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};
use totoro_api::ticket::rfc3339;
use totoro_api::wire::invite::{ChangeInvite, Invite};
use totoro_api::wire::node::Enroll;
use totoro_api::wire::plugin::Answer;

use super::{Door, Frps, book};
use crate::app::holder::Visitor;
use crate::app::invite_change::IfMatch;
use crate::app::tests::Lab;
use crate::keys::TokenKind;
use crate::store::{Tx, read};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn ask(lab: &Lab, frps: &Frps<'_>, op: &str, content: Value) -> Answer {
    let doors = [Door::Handshake, Door::Proxy];
    let door = doors.into_iter().find(|door| door.ops().contains(&op));
    let body = json!({ "version": "0.1.0", "op": op, "content": content });
    let body = body.to_string();
    lab.app
        .frps_asks(frps, door.unwrap(), op, body.as_bytes())
        .await
}

/// A node at this grade, its key, an invite of it, and who logs in with that.
async fn logged_in(lab: &Lab) -> (String, String, Invite, Value) {
    logged_in_at(lab, "n1").await
}

async fn logged_in_at(lab: &Lab, name: &str) -> (String, String, Invite, Value) {
    let node = lab.node(name).await;
    lab.app.renew_keys().await.unwrap();
    let made = lab
        .app
        .new_enrolment(&lab.admin, &node, None)
        .await
        .unwrap();
    let key = TokenKind::NodeKey.generate();
    let enroll = Enroll {
        key_hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        instance: "0".repeat(32),
        callback: true,
    };
    let enrolled = lab.app.enrol(&made.token, &enroll, ADDRESS, "r").await;
    enrolled.unwrap();
    let invite = lab.invite(&node, "k").await;
    let visitor = Visitor {
        address: ADDRESS,
        request_id: "r",
    };
    let code = invite.code.clone().unwrap();
    let issued = lab.app.oauth_ticket(&code, visitor).await;
    let login = json!({
        "user": invite.id, "privilege_key": issued.unwrap().ticket,
        "client_address": "192.0.2.1:1",
    });
    (node, key, invite, login)
}

fn frps<'a>(lab: &Lab, node: &str, key: &str) -> Frps<'a> {
    Frps {
        node: lab.app.node_of_frps(node, key).unwrap(),
        address: ADDRESS,
        request_id: "r",
    }
}

/// Who asks after a Login that was answered with this.
fn user_of(said: Answer) -> Value {
    let content = said.content.unwrap();
    json!({ "user": content["user"], "metas": content["metas"], "run_id": content["run_id"] })
}

#[tokio::test]
async fn what_held_once_holds_no_longer_than_its_time() {
    let lab = Lab::new().await;
    let (node, key, invite, login) = logged_in(&lab).await;
    let frps = frps(&lab, &node, &key);
    let user = user_of(ask(&lab, &frps, "Login", login).await);
    let conn = json!({
        "user": user, "proxy_name": format!("{}.web", invite.id), "proxy_type": "tcp",
        "remote_addr": "203.0.113.7:5555",
    });
    let change = |expires_at: String| ChangeInvite {
        expires_at: Some(expires_at),
        ..ChangeInvite::default()
    };
    let given_up = lab.app.now() + 60;
    let soon = change(rfc3339(lab.app.now() + 2));
    let changed = lab
        .app
        .change_invite(&lab.admin, &invite.id, IfMatch::Any, &soon, None);
    changed.await.unwrap();
    // Nothing else changes from here on: that its time has come is all.
    let said = loop {
        let said = ask(&lab, &frps, "NewUserConn", conn.clone()).await;
        if said.reject || lab.app.now() > given_up {
            break said;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let reason = &said.reject_reason;
    assert!(reason.starts_with("totoro[invite_expired]"), "{reason}");
    // A longer life is seen at once.
    let later = change(rfc3339(lab.app.now() + 3600));
    let changed = lab
        .app
        .change_invite(&lab.admin, &invite.id, IfMatch::Any, &later, None);
    changed.await.unwrap();
    let said = ask(&lab, &frps, "NewUserConn", conn).await.reject_reason;
    assert!(!said.starts_with("totoro[invite_expired]"), "{said}");
}

#[tokio::test]
async fn a_kick_is_for_good() {
    let lab = Lab::new().await;
    let (node, key, invite, login) = logged_in(&lab).await;
    let frps = frps(&lab, &node, &key);
    let user = user_of(ask(&lab, &frps, "Login", login.clone()).await);
    let proxy = json!({
        "user": user, "proxy_name": format!("{}.web", invite.id), "proxy_type": "tcp",
    });
    assert!(!ask(&lab, &frps, "NewProxy", proxy).await.reject);

    let on = lab.app.callback_sessions(&node).unwrap();
    assert_eq!((on.len(), &on[0].tenant), (1, &invite.id));
    let session = on[0].id.clone();
    for _ in ["once", "and again, which changes nothing"] {
        let kicked = lab.app.kick(&lab.admin, Some(&node), &session, None).await;
        kicked.unwrap();
    }
    assert!(lab.app.callback_sessions(&node).unwrap().is_empty());
    let usage = lab.app.callback_usage(&frps.node, &invite.id).unwrap();
    assert!(usage.leases.is_empty());
    for (op, content) in [("Ping", json!({ "user": user })), ("Login", login)] {
        let said = ask(&lab, &frps, op, content).await.reject_reason;
        assert!(said.starts_with("totoro[session_expired]"), "{op}: {said}");
    }
}

#[tokio::test]
async fn a_session_is_idle_without_proxies_wherever_that_was_written() {
    let lab = Lab::new().await;
    let (node, key, invite, login) = logged_in(&lab).await;
    let frps = frps(&lab, &node, &key);
    let user = user_of(ask(&lab, &frps, "Login", login).await);
    let run_id = user["run_id"].as_str().unwrap();
    let proxy = json!({
        "user": user, "proxy_name": format!("{}.web", invite.id), "proxy_type": "tcp",
    });
    let store = &*lab.app.store;
    let on = || lab.app.callback_sessions(&node).unwrap().len();
    let session = book::session(&node, run_id);
    let as_written = || read::<Value>(store, &session).unwrap().unwrap();
    assert_eq!(on(), 1);
    for earlier in [false, true] {
        assert!(!ask(&lab, &frps, "NewProxy", proxy.clone()).await.reject);
        assert_eq!(on(), 1);
        let before = as_written();
        ask(&lab, &frps, "CloseProxy", proxy.clone()).await;
        assert_eq!(on(), 0);
        assert_eq!(as_written(), before, "it is long, and stays as it is");
        if earlier {
            // As the version before wrote it; the head, so that memory knows nothing of it.
            let mut tx = Tx::new(store);
            let idle = book::idle(&node, run_id);
            let mut written = before.value;
            written["idle_ms"] = read::<Value>(store, &idle).unwrap().unwrap().value;
            tx.put(&session, &written).unwrap();
            tx.delete(&idle);
            let head = read::<Value>(store, &book::head(&node)).unwrap().unwrap();
            tx.put(book::head(&node), &head.value).unwrap();
            store.commit(tx.into_commit()).await.unwrap();
            assert_eq!(on(), 0);
        }
    }
    // A ping finds the place free, and takes it.
    for _ in ["as it was written", "as it is written"] {
        assert!(
            !ask(&lab, &frps, "Ping", json!({ "user": user }))
                .await
                .reject
        );
        assert_eq!(on(), 1);
        assert!(as_written().value["idle_ms"].is_null());
        assert!(!ask(&lab, &frps, "NewProxy", proxy.clone()).await.reject);
        ask(&lab, &frps, "CloseProxy", proxy.clone()).await;
        assert_eq!(on(), 0);
    }
}

#[tokio::test]
async fn a_node_spends_nobodys_allowance_at_another() {
    let lab = Lab::new().await;
    let (loud, loud_key, ..) = logged_in_at(&lab, "n1").await;
    let (quiet, quiet_key, _, login) = logged_in_at(&lab, "n2").await;
    let (loud, quiet) = (frps(&lab, &loud, &loud_key), frps(&lab, &quiet, &quiet_key));
    let mut forged = login.clone();
    forged["privilege_key"] = json!("none");
    for _ in 0..99 {
        ask(&lab, &loud, "Login", forged.clone()).await;
    }
    let said = ask(&lab, &loud, "Login", forged).await;
    assert!(said.reject_reason.contains("rate_limited"), "{said:?}");
    let said = ask(&lab, &quiet, "Login", login).await;
    assert!(!said.reject, "{said:?}");
}
