//! What no endpoint shows yet.

use serde_json::json;
use totoro_api::wire::node::Enroll;
use totoro_api::wire::plugin::Answer;

use super::{Door, Frps};
use crate::app::holder::Visitor;
use crate::app::tests::Lab;
use crate::keys::TokenKind;

async fn ask(lab: &Lab, frps: &Frps, op: &str, content: serde_json::Value) -> Answer {
    let doors = [Door::Handshake, Door::Proxy];
    let door = doors.into_iter().find(|door| door.ops().contains(&op));
    let body = json!({ "version": "0.1.0", "op": op, "content": content });
    let body = body.to_string();
    lab.app
        .frps_asks(frps, door.unwrap(), op, body.as_bytes())
        .await
}

#[tokio::test]
async fn a_kick_is_for_good() {
    let lab = Lab::new().await;
    let node = lab.node("n1").await;
    let address = [127, 0, 0, 1].into();
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
    let enrolled = lab.app.enrol(&made.token, &enroll, address, "r").await;
    enrolled.unwrap();
    let frps = lab.app.node_of_frps(&node, &key, address, "r").unwrap();
    let invite = lab.invite(&node, "k").await;
    let visitor = Visitor {
        address,
        request_id: "r",
    };
    let issued = lab.app.oauth_ticket(&invite.code.unwrap(), visitor).await;
    let login = json!({
        "user": invite.id, "privilege_key": issued.unwrap().ticket,
        "client_address": "192.0.2.1:1",
    });
    let content = ask(&lab, &frps, "Login", login.clone())
        .await
        .content
        .unwrap();
    let user = json!({
        "user": content["user"], "metas": content["metas"], "run_id": content["run_id"],
    });
    let proxy = json!({
        "user": user, "proxy_name": format!("{}.web", invite.id), "proxy_type": "tcp",
    });
    assert!(!ask(&lab, &frps, "NewProxy", proxy).await.reject);

    let on = lab.app.callback_sessions(&node).unwrap();
    assert_eq!((on.len(), &on[0].0), (1, &invite.id));
    let session = on[0].1.id.clone();
    let kick = async || {
        let ended = lab.app.end_callback_session(&node, &session, &frps.author);
        ended.await.unwrap()
    };
    assert!(kick().await && !kick().await, "once");
    assert!(lab.app.callback_sessions(&node).unwrap().is_empty());
    let usage = lab.app.callback_usage(&frps.node, &invite.id).unwrap();
    assert!(usage.leases.is_empty());
    for (op, content) in [("Ping", json!({ "user": user })), ("Login", login)] {
        let said = ask(&lab, &frps, op, content).await.reject_reason;
        assert!(said.starts_with("totoro[session_expired]"), "{op}: {said}");
    }
}
