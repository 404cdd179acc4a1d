//! What happens by the passing of time.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Frps, Session, allowed, hasten, kinds, login_of, port_of, refused, ticket};
use crate::support::{Control, PATIENCE};

const FROM: &str = "198.51.100.1:1111";

/// Waits for an event of this kind.
async fn told(control: &Control, kind: &str) -> serde_json::Value {
    let began = Instant::now();
    loop {
        if let Some(event) = control.audit(&format!("&kind={kind}")).await.pop() {
            return event;
        }
        assert!(began.elapsed() < PATIENCE, "no {kind}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn who_pinged_and_stopped_loses_its_leases() {
    let mut control = Control::start();
    hasten(&mut control, "4s", "4s");
    let frps = Frps::new(&control, "n1", json!({})).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let silent = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    let quiet = frps.session(&control, &silent, "198.51.100.2:1").await;
    let port = port_of(
        &frps.new_proxy(&control, &session, ("web", "tcp", 0)).await,
        0,
    );
    let kept = port_of(
        &frps.new_proxy(&control, &quiet, ("web", "tcp", 0)).await,
        0,
    );
    allowed(&frps.ping(&control, &session).await);
    let closed = told(&control, "proxy.closed").await;
    assert_eq!(
        (&closed["port"], &closed["detail"]["why"]),
        (&json!(port), &json!("connection_lost"))
    );
    // It must log in again: frps may still have what is not leased any more.
    refused(&frps.ping(&control, &session).await, "session_expired");
    let late = frps.new_proxy(&control, &session, ("b", "tcp", 0)).await;
    refused(&late, "session_expired");
    // Its port waits for it, and cools down for others.
    let stranger = frps.new_proxy(&control, &quiet, ("x", "tcp", port)).await;
    refused(&stranger, "port_cooling");
    let mut again = login_of(&invite.0, &ticket(&control, &invite.1).await, FROM);
    again["run_id"] = json!(session.run_id());
    let back = Session::of(&frps.login(&control, again).await);
    let same = frps.new_proxy(&control, &back, ("web", "tcp", 0)).await;
    assert_eq!(port_of(&same, 0), port);
    allowed(&frps.ping(&control, &back).await);
    // Lost once more, and its time to come back goes by: the session is closed, once.
    let session_closed = told(&control, "session.closed").await;
    assert_eq!(session_closed["detail"]["why"], "connection_lost");
    assert_eq!(
        kinds(&control, &format!("&invite={}", invite.0)).await,
        [
            "session.opened",
            "proxy.opened",
            "proxy.closed",
            "proxy.refused",
            "session.resumed",
            "proxy.opened",
            "proxy.closed",
            "session.closed",
        ]
    );
    // Who never pinged keeps its own, and a port that has cooled down is anybody's.
    let own = frps.new_proxy(&control, &quiet, ("web", "tcp", 0)).await;
    assert_eq!(port_of(&own, 0), kept);
    let began = Instant::now();
    while frps.new_proxy(&control, &quiet, ("x", "tcp", port)).await["reject"] == true {
        assert!(began.elapsed() < PATIENCE, "it does not cool down");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn missing_pings_are_noticed_after_a_restart() {
    let mut control = Control::start();
    hasten(&mut control, "1h", "1h");
    let frps = Frps::new(&control, "n1", json!({})).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    allowed(&frps.ping(&control, &session).await);
    control.kill();
    control.restart();
    told(&control, "proxy.closed").await;
}

#[tokio::test]
async fn the_longest_life_ends_a_session_for_good() {
    let mut control = Control::start();
    hasten(&mut control, "1h", "1h");
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "session_max": 10 } });
    let invite = control.invite(&frps.node, limits).await;
    let ticket = ticket(&control, &invite.1).await;
    let session = Session::of(
        &frps
            .login(&control, login_of(&invite.0, &ticket, FROM))
            .await,
    );
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    let closed = told(&control, "session.closed").await;
    assert_eq!(closed["reason"], "session_expired");
    let mut again = login_of(&invite.0, &ticket, FROM);
    again["run_id"] = json!(session.run_id());
    refused(&frps.login(&control, again).await, "session_expired");
    refused(
        &frps.user_conn(&control, &session, "web").await,
        "session_expired",
    );
}

#[tokio::test]
async fn presence_comes_from_what_frps_asks() {
    let mut control = Control::start();
    hasten(&mut control, "1h", "1h");
    let frps = Frps::new(&control, "n1", json!({})).await;
    let path = format!("/admin/nodes/{}", frps.node.id);
    let state = async || control.get(&path, &control.admin).await.with(200)["state"].clone();
    assert_eq!(state().await, "offline");
    frps.login(&control, login_of("x", "garbage", FROM)).await;
    assert_eq!(state().await, "online");
    assert_eq!(
        told(&control, "node.online").await["detail"]["grade"],
        "callback"
    );
    told(&control, "node.offline").await;
    assert_eq!(state().await, "offline");
    frps.login(&control, login_of("x", "garbage", FROM)).await;
    let query = format!("&node={}&kind=node.", frps.node.id);
    assert_eq!(
        control.kinds(&query).await,
        [
            "node.enrolled",
            "node.online",
            "node.offline",
            "node.online"
        ]
    );
}

#[tokio::test]
async fn a_session_that_never_pinged_is_bound_by_its_tickets_word_alone() {
    let mut control = Control::start();
    hasten(&mut control, "1h", "1h");
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "session_max": 10 } });
    let invite = control.invite(&frps.node, limits).await;
    let other = control.invite(&frps.node, json!({})).await;
    let silent = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &silent, ("web", "tcp", 0)).await);
    // The invite allows an hour since: its word would let the session live, the ticket's ends it.
    let path = format!("/admin/invites/{}", invite.0);
    let longer = json!({ "limits": { "session_max": 3600 } });
    control.patch(&path, &control.admin, longer).await.with(200);
    let quiet = frps.session(&control, &other, FROM).await;
    let closed = told(&control, "session.closed").await;
    assert_eq!(
        (&closed["invite"], &closed["reason"]),
        (&json!(invite.0), &json!("session_expired"))
    );
    assert_eq!(told(&control, "proxy.closed").await["proxy"], "web");
    refused(&frps.ping(&control, &silent).await, "session_expired");
    allowed(&frps.ping(&control, &quiet).await);
}

#[tokio::test]
async fn one_that_pings_is_bound_by_its_invite_and_not_by_its_ticket() {
    let mut control = Control::start();
    hasten(&mut control, "1h", "1h");
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "session_max": 10 } });
    let invite = control.invite(&frps.node, limits).await;
    let session = frps.session(&control, &invite, FROM).await;
    allowed(&frps.ping(&control, &session).await);
    let path = format!("/admin/invites/{}", invite.0);
    let longer = json!({ "limits": { "session_max": 3600 } });
    control.patch(&path, &control.admin, longer).await.with(200);
    // Past the ticket's word, and some rounds of the janitor.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(12) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        allowed(&frps.ping(&control, &session).await);
    }
}
