//! Pings, work connections and user connections.

use serde_json::json;

use super::{Frps, allowed, kinds, refused};
use crate::support::Control;

const FROM: &str = "198.51.100.1:1111";

#[tokio::test]
async fn what_frps_checks_is_rewritten() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    for op in ["Ping", "NewWorkConn"] {
        // With oidc neither has a timestamp: md5("0").
        for content in [
            json!({ "user": session.user, "privilege_key": "x", "run_id": session.run_id() }),
            json!({ "user": session.user, "timestamp": 0 }),
        ] {
            let answer = frps.ask(&control, op, content.clone()).await;
            let mut expected = content;
            expected["privilege_key"] = json!("cfcd208495d565ef66e7dff9f98764da");
            assert_eq!(answer["content"], expected, "{op}");
            assert_eq!(answer["unchange"], false);
        }
        let mut unknown = session.user.clone();
        unknown["run_id"] = json!("f".repeat(32));
        for (reason, content) in [
            ("session_expired", json!({ "user": unknown })),
            (
                "session_expired",
                json!({ "user": { "run_id": session.run_id() } }),
            ),
            ("session_expired", json!({})),
            (
                "request_malformed",
                json!({ "user": session.user, "timestamp": "1" }),
            ),
            ("request_malformed", json!({ "user": 5 })),
        ] {
            refused(&frps.ask(&control, op, content).await, reason);
        }
    }
}

#[tokio::test]
async fn a_ping_ends_what_has_no_standing() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    let path = format!("/admin/invites/{}", invite.0);
    let set = async |state: &str| {
        let body = json!({ "state": state });
        control.patch(&path, &control.admin, body).await.with(200);
    };
    // Paused: what lives goes on, nothing new gets in.
    set("paused").await;
    allowed(&frps.ping(&control, &session).await);
    refused(
        &frps.user_conn(&control, &session, "web").await,
        "invite_paused",
    );
    set("active").await;
    allowed(&frps.user_conn(&control, &session, "web").await);
    control.delete(&path, &control.admin).await;
    let said = frps.ping(&control, &session).await["reject_reason"].clone();
    let said = said.as_str().unwrap();
    // The janitor may have been there first.
    let reasons = ["totoro[invite_revoked]", "totoro[session_expired]"];
    assert!(
        reasons.iter().any(|reason| said.starts_with(reason)),
        "{said}"
    );
    refused(
        &frps.user_conn(&control, &session, "web").await,
        "session_expired",
    );
    assert_eq!(
        kinds(&control, &format!("&invite={}", invite.0)).await,
        [
            "session.opened",
            "proxy.opened",
            "proxy.closed",
            "session.closed"
        ]
    );
    let closed = &control.audit("&kind=session.closed").await[0];
    assert_eq!(closed["reason"], "invite_revoked");
}

#[tokio::test]
async fn user_connections_by_state_and_rate() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "conn_rate": 3 } });
    let invite = control.invite(&frps.node, limits).await;
    let session = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    let mut limited = 0;
    for _ in 0..10 {
        let answer = frps.user_conn(&control, &session, "web").await;
        if answer["reject"] == true {
            refused(&answer, "conn_rate");
            limited += 1;
        } else {
            assert_eq!(answer["unchange"], true);
        }
    }
    assert!((5..=7).contains(&limited), "{limited} of 10");
    let ban = json!({ "prefix": "203.0.113.7" });
    control
        .post("/admin/bans", &control.admin, ban)
        .await
        .with(201);
    refused(
        &frps.user_conn(&control, &session, "web").await,
        "client_banned",
    );
    let bad = json!({ "user": session.user, "proxy_name": "x", "remote_addr": "?" });
    refused(
        &frps.ask(&control, "NewUserConn", bad).await,
        "request_malformed",
    );
    let usage = json!({ "code": invite.1 });
    let usage = control.post("/invites/usage", "", usage).await.with(200);
    assert_eq!(usage["refused"]["conn_rate"], limited);
    assert_eq!(usage["refused"]["client_banned"], 1);
}

#[tokio::test]
async fn refused_connections_are_told_of_together() {
    let mut control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "conn_rate": 1 } });
    let invite = control.invite(&frps.node, limits).await;
    let session = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    for _ in 0..5 {
        frps.user_conn(&control, &session, "web").await;
    }
    // What is gathered is told at the latest when the process ends.
    assert!(control.terminate().success());
    control.restart();
    let events = control.audit("&kind=conn.refused").await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!(
        (&event["reason"], &event["proxy"]),
        (&json!("conn_rate"), &json!("web"))
    );
    assert_eq!(event["detail"]["count"], 4);
    assert!(event["detail"]["first"].is_string() && event["detail"]["last"].is_string());
}
