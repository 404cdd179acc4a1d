//! How sessions end whose frpc still believes in them.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{FRPC, World, missing, pasted, service, tcp};
use crate::support::Node;

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_pinging_loses_its_leases_and_gets_them_back() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let world = World::new().await;
    let invite = world.invite(json!({})).await;
    let file = pasted(&invite.file, &[tcp("web", service(), 20_000)]);
    let frpc = world.frpc("frpc", &file);
    frpc.wait_for("web] start proxy success");
    assert_eq!(world.visit(20_000), "hello\n");
    // Long enough to ping at least once.
    tokio::time::sleep(Duration::from_secs(2)).await;

    // It stands still; frps holds its port and knows nothing of it.
    frpc.signal(Signal::SIGSTOP);
    world.leases(&invite, 0).await;
    assert_eq!(
        world.visit(20_000),
        "",
        "frps listens, and its user is refused"
    );
    world.frps.wait_for("totoro[session_expired]");
    frpc.signal(Signal::SIGCONT);
    frpc.wait_for_times("web] start proxy success", 2);
    world.leases(&invite, 1).await;
    assert_eq!(world.visit(20_000), "hello\n");
    let query = format!("&invite={}&kind=session.", invite.id);
    let kinds = world.control.kinds(&query).await;
    assert_eq!(kinds, ["session.opened", "session.resumed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_that_ends_meanwhile_ends_its_session() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let world = World::new().await;
    let end = OffsetDateTime::now_utc() + Duration::from_secs(10);
    let end = end.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap();
    let invite = world.invite(json!({ "expires_at": end })).await;
    let file = pasted(&invite.file, &[tcp("web", service(), 20_000)]);
    let frpc = world.frpc("frpc", &file);
    frpc.wait_for("web] start proxy success");
    assert_eq!(world.visit(20_000), "hello\n");
    frpc.refusal("invite_expired");
    world.leases(&invite, 0).await;
    assert_eq!(world.visit(20_000), "");
    let query = format!("&invite={}&kind=session.closed", invite.id);
    let closed = world.control.audit(&query).await;
    assert_eq!(closed[0]["reason"], "invite_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_reports_takes_the_node_back() {
    if missing(&["frps", FRPC]) {
        return;
    }
    let world = World::new().await;
    let invite = world.invite(json!({})).await;
    let file = pasted(&invite.file, &[tcp("web", service(), 20_000)]);
    let frpc = world.frpc("frpc", &file);
    frpc.wait_for("web] start proxy success");

    // Its daemon is there: the next ping is refused, and frpc's return as well.
    let key = std::fs::read_to_string(world.dir().join("n1.key")).unwrap();
    let nodes = world.control.get("/nodes/self", key.trim()).await.with(200);
    let mut node = Node::new(nodes["id"].as_str().unwrap());
    key.trim().clone_into(&mut node.key);
    node.instance = nodes["instance"].as_str().unwrap_or_default().to_owned();
    let began = Instant::now();
    while !frpc.said().contains("totoro[conflict]: ") {
        assert!(began.elapsed() < crate::support::PATIENCE, "no conflict");
        node.beat(&world.control).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    frpc.refusal("conflict");
    assert_eq!(world.visit(20_000), "");
    let shown = world.control.get("/nodes/self", &node.key).await.with(200);
    assert_eq!(
        (&shown["grade"], &shown["unenforced"]),
        (&json!("kernel"), &json!([]))
    );

    // It falls silent: frps decides with us again, and frpc gets in by itself.
    frpc.wait_for_times("web] start proxy success", 2);
    assert_eq!(world.visit(20_000), "hello\n");
    let shown = world.control.get("/nodes/self", &node.key).await.with(200);
    assert_eq!(shown["grade"], "callback");
}
