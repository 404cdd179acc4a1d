//! Proxies: every reason, ports, names, and what is given back.

use serde_json::{Value, json};

use super::{Frps, allowed, kinds, port_of, refused};
use crate::support::Control;

const FROM: &str = "198.51.100.1:1111";

#[tokio::test]
async fn every_reason_why_not() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": {
        "max_proxies": 3, "ports": ["20000-20004"], "types": ["tcp"],
    } });
    let invite = control.invite(&frps.node, limits).await;
    let other = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    let theirs = frps.session(&control, &other, "198.51.100.2:1").await;
    allowed(
        &frps
            .new_proxy(&control, &session, ("web", "tcp", 20000))
            .await,
    );
    allowed(
        &frps
            .new_proxy(&control, &theirs, ("game", "tcp", 20001))
            .await,
    );
    frps.close_proxy(&control, &theirs, "game").await;
    let with = |field: &str, value: Value| {
        let mut content = session.proxy("p", "tcp", 0);
        content[field] = value;
        content
    };
    let proxy = |name: &str, kind: &str, port: i64| session.proxy(name, kind, port);
    let mut old = session.proxy("p", "tcp", 0);
    old["user"]["metas"] = json!({ "totoro_login": "0" });
    let mut nobodys = session.proxy("p", "tcp", 0);
    nobodys["user"]["run_id"] = json!("../../head");
    let rows = [
        ("request_malformed", with("remote_port", json!(-1))),
        ("request_malformed", with("remote_port", json!(65_536))),
        ("request_malformed", with("remote_port", json!(1.5))),
        ("request_malformed", with("proxy_name", json!(7))),
        ("proxy_type_denied", proxy("p", "udp", 0)),
        ("proxy_type_denied", proxy("p", "stcp", 0)),
        ("proxy_option_denied", with("group", json!("g"))),
        (
            "proxy_option_denied",
            with("bandwidth_limit_mode", json!("server")),
        ),
        ("proxy_name_denied", with("proxy_name", json!("p"))),
        ("proxy_name_denied", proxy("a b", "tcp", 0)),
        ("proxy_name_denied", proxy(&"x".repeat(65), "tcp", 0)),
        ("port_outside_pool", proxy("p", "tcp", 30_000)),
        ("port_denied", proxy("p", "tcp", 20_009)),
        ("port_in_use", proxy("p", "tcp", 20_000)),
        ("port_cooling", proxy("p", "tcp", 20_001)),
        ("session_expired", old),
        ("session_expired", nobodys),
    ];
    for (reason, content) in &rows {
        refused(
            &frps.ask(&control, "NewProxy", content.clone()).await,
            reason,
        );
    }
    for name in ["b", "c"] {
        allowed(&frps.new_proxy(&control, &session, (name, "tcp", 0)).await);
    }
    let full = frps.new_proxy(&control, &session, ("d", "tcp", 0)).await;
    refused(&full, "max_proxies");
    let events = control.audit("&kind=proxy.refused").await;
    let reasons: Vec<&str> = events
        .iter()
        .map(|event| event["reason"].as_str().unwrap())
        .collect();
    let mut asked: Vec<&str> = rows.iter().map(|(reason, _)| *reason).collect();
    asked.push("max_proxies");
    assert_eq!(reasons, asked, "one event each");
    let log = control.log();
    for reason in asked {
        let line = log.lines().find(|line| {
            let reason = format!("reason=\"{reason}\"");
            let fields = ["node_id=", "invite_id=", "proxy_name=", &reason];
            line.contains("proxy refused") && fields.iter().all(|field| line.contains(field))
        });
        assert!(line.is_some(), "{reason} is not in the log");
    }
}

#[tokio::test]
async fn a_port_waits_for_its_proxy() {
    let control = Control::start();
    let small = json!({ "pool": { "tcp": ["20000-20001"], "udp": [] } });
    let frps = Frps::new(&control, "n1", small).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    let web = ("web", "tcp", 0);
    let first = port_of(&frps.new_proxy(&control, &session, web).await, 0);
    // Asked again, the same; a late close of the first does not take it away.
    let same = frps.new_proxy(&control, &session, web).await;
    assert_eq!(port_of(&same, 0), first);
    frps.close_proxy(&control, &session, "web").await;
    let other = port_of(
        &frps.new_proxy(&control, &session, ("b", "tcp", 0)).await,
        0,
    );
    assert_ne!(other, first);
    let none = frps.new_proxy(&control, &session, ("c", "tcp", 0)).await;
    refused(&none, "pool_exhausted");
    // Closed, it comes back to the same port; nobody else gets it.
    frps.close_proxy(&control, &session, "web").await;
    let strangers = control.invite(&frps.node, json!({})).await;
    let stranger = frps.session(&control, &strangers, "198.51.100.2:1").await;
    let cooling = frps
        .new_proxy(&control, &stranger, ("x", "tcp", first))
        .await;
    refused(&cooling, "port_cooling");
    let back = frps.new_proxy(&control, &session, web).await;
    assert_eq!(port_of(&back, 0), first);
    // Another port for the same proxy takes the place of the first.
    frps.close_proxy(&control, &session, "b").await;
    let moved = frps
        .new_proxy(&control, &session, ("web", "tcp", other))
        .await;
    assert_eq!(port_of(&moved, other), other);
    let query = format!("&invite={}&kind=proxy.", invite.0);
    assert_eq!(
        kinds(&control, &query).await,
        [
            "proxy.opened",
            "proxy.opened",
            "proxy.refused",
            "proxy.closed",
            "proxy.opened",
            "proxy.closed",
            "proxy.closed",
            "proxy.opened",
        ]
    );
}

#[tokio::test]
async fn tcp_and_udp_are_two_ports_of_one_number() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    for kind in ["tcp", "udp"] {
        let answer = frps
            .new_proxy(&control, &session, (kind, kind, 20005))
            .await;
        assert_eq!(answer["unchange"], true, "{answer}");
    }
    let usage = json!({ "code": invite.1 });
    let usage = control.post("/invites/usage", "", usage).await.with(200);
    let leases = usage["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 2);
    assert_eq!(leases[0]["port"], 20005);
    assert_eq!(leases[0]["address"], "192.0.2.1");
}

#[tokio::test]
async fn leases_survive_a_kill_of_the_control_plane() {
    let mut control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let invite = control.invite(&frps.node, json!({})).await;
    let session = frps.session(&control, &invite, FROM).await;
    let port = port_of(
        &frps.new_proxy(&control, &session, ("web", "tcp", 0)).await,
        0,
    );
    control.kill();
    control.restart();
    allowed(&frps.ping(&control, &session).await);
    let same = frps.new_proxy(&control, &session, ("web", "tcp", 0)).await;
    assert_eq!(port_of(&same, 0), port);
    let others = control.invite(&frps.node, json!({})).await;
    let other = frps.session(&control, &others, FROM).await;
    refused(
        &frps.new_proxy(&control, &other, ("x", "tcp", port)).await,
        "port_in_use",
    );
}

#[tokio::test]
async fn a_session_without_proxies_gives_its_place() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "max_clients": 1 } });
    let invite = control.invite(&frps.node, limits).await;
    let session = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &session, ("web", "tcp", 0)).await);
    // frps closes a lost client's proxies at once, and says no more.
    frps.close_proxy(&control, &session, "web").await;
    let next = frps.session(&control, &invite, FROM).await;
    allowed(&frps.new_proxy(&control, &next, ("web", "tcp", 0)).await);
    let late = frps.new_proxy(&control, &session, ("b", "tcp", 0)).await;
    refused(&late, "max_clients");
    // One that pings has its place back, as soon as there is one.
    allowed(&frps.ping(&control, &session).await);
    refused(
        &frps.new_proxy(&control, &session, ("b", "tcp", 0)).await,
        "max_clients",
    );
    frps.close_proxy(&control, &next, "web").await;
    allowed(&frps.ping(&control, &session).await);
    refused(
        &frps.new_proxy(&control, &next, ("web", "tcp", 0)).await,
        "max_clients",
    );
    allowed(&frps.new_proxy(&control, &session, ("b", "tcp", 0)).await);
}

#[tokio::test]
async fn a_session_that_asks_without_end_is_held_up_and_no_other() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "max_proxies": 1 } });
    let invite = control.invite(&frps.node, limits.clone()).await;
    let other = control.invite(&frps.node, limits).await;
    let session = frps.session(&control, &invite, FROM).await;
    let calm = frps.session(&control, &other, "198.51.100.2:1").await;
    // 50 at once, two for its one proxy, and 10 a second: the rest costs next to nothing.
    let asking = (0..120).map(|_| frps.new_proxy(&control, &session, ("x", "stcp", 0)));
    let answers = futures_util::future::join_all(asking).await;
    let of = |reason: &str| {
        let begin = format!("totoro[{reason}]: ");
        let said = |answer: &&Value| {
            answer["reject_reason"]
                .as_str()
                .unwrap()
                .starts_with(&begin)
        };
        answers.iter().filter(said).count()
    };
    let (judged, limited) = (of("proxy_type_denied"), of("rate_limited"));
    assert_eq!(judged + limited, 120);
    assert!(
        judged >= 52 && limited > 0,
        "{judged} judged, {limited} limited"
    );
    allowed(&frps.new_proxy(&control, &calm, ("web", "tcp", 0)).await);
    // It gets more as time goes by.
    let began = std::time::Instant::now();
    while frps.new_proxy(&control, &session, ("web", "tcp", 0)).await["reject"] == true {
        assert!(began.elapsed() < crate::support::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
