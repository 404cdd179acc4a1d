//! The lender's own node: describing it, draining it, a new key, and who is on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Control, Node, PATIENCE};

#[tokio::test]
async fn a_lender_changes_what_is_the_lenders() {
    let control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let shown = control.get("/nodes/self", &node.key).await;
    let etag = shown.etag();
    let patch = |etag: Option<String>, body: Value| {
        let (control, key) = (&control, node.key.as_str());
        async move {
            let headers: Vec<(&str, &str)> = etag
                .iter()
                .map(|etag| ("if-match", etag.as_str()))
                .collect();
            control
                .call_with("PATCH", "/nodes/self", key, Some(body), &headers)
                .await
        }
    };
    let drain = json!({ "draining": true });
    patch(None, drain.clone())
        .await
        .refused(428, "request_malformed");
    let changed = patch(Some(etag.clone()), drain.clone()).await.with(200);
    assert_eq!(changed["state"], "draining");
    patch(Some(etag), drain).await.refused(412, "conflict");
    let delta = control
        .get(&Node::watch_from(&state, "5s"), &node.key)
        .await
        .with(200);
    assert_eq!(delta["node"]["draining"], true);

    let any = || Some("*".to_owned());
    let described = json!({
        "draining": false, "region": "eu", "isp": "x", "tags": ["ipv6"], "abuse_contact": "a@b.c",
        "defaults": { "max_conns": 7 }, "public_limits": { "max_conns": 2 },
    });
    let changed = patch(any(), described).await.with(200);
    assert_eq!(
        (&changed["state"], &changed["tags"], &changed["defaults"]),
        (
            &json!("online"),
            &json!(["ipv6"]),
            &json!({ "max_conns": 7 })
        )
    );
    // What concerns others is an admin's.
    for (field, value) in [
        ("visibility", json!("public")),
        ("server_addr", json!(["192.0.2.9:7000"])),
        ("pool", json!({ "tcp": ["1-2"] })),
        ("disabled", json!(false)),
        ("public_max", json!({ "tenants": 9 })),
    ] {
        let problem = patch(any(), json!({ field: value })).await;
        let problem = problem.refused(400, "request_malformed");
        assert!(
            problem["detail"].as_str().unwrap().contains(field),
            "{problem}"
        );
    }
    patch(any(), json!({ "defaults": { "ports": ["1-2"] } }))
        .await
        .refused(422, "port_outside_pool");
    let events = control
        .audit(&format!("&node={}&kind=node.", node.id))
        .await;
    let events: Vec<_> = events.iter().rev().take(2).collect();
    assert_eq!(
        (&events[1]["kind"], &events[0]["kind"]),
        (&json!("node.drained"), &json!("node.changed"))
    );
    let by = |event: &Value| event["actor"]["id"] == node.id.as_str();
    assert!(events.iter().all(|event| by(event)));
}

/// Asks for another key than `shown`.
async fn rotate(control: &Control, shown: &str, next: &Node) -> crate::support::Answer {
    let hash = next.enrolment()["key_hash"].clone();
    control
        .post("/nodes/self/key", shown, json!({ "key_hash": hash }))
        .await
}

fn with_key(node: &Node, last: &str) -> Node {
    Node {
        id: node.id.clone(),
        instance: node.instance.clone(),
        key: format!("{}{last}", &node.key[..46]),
    }
}

#[tokio::test]
async fn the_old_key_works_until_the_new_ones_first_use() {
    let mut control = Control::start();
    let (old, other) = (control.node("n1").await, control.node("n2").await);
    let new = with_key(&old, "x");
    let rotated = rotate(&control, &old.key, &new).await.with(200);
    assert!(rotated["old_until"].as_str().is_some());
    // A repeat, whose answer was lost, and another node's key.
    assert_eq!(rotate(&control, &old.key, &new).await.with(200), rotated);
    rotate(&control, &old.key, &other)
        .await
        .refused(409, "conflict");
    old.beat(&control).await;
    control.get("/nodes/self", &old.key).await.with(200);

    new.beat(&control).await;
    control
        .get("/nodes/self", &old.key)
        .await
        .refused(401, "not_authorized");
    rotate(&control, &old.key, &with_key(&old, "y"))
        .await
        .refused(401, "not_authorized");
    assert_eq!(rotate(&control, &new.key, &new).await.with(200), json!({}));
    // Written down soon, so it holds after a restart too.
    let began = Instant::now();
    loop {
        new.beat(&control).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        control.kill();
        control.restart();
        if control.get("/nodes/self", &old.key).await.status.as_u16() == 401 {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
    }
    new.beat(&control).await;
    let kind = format!("&node={}&kind=node.key_rotated", old.id);
    let events = control.audit(&kind).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["actor"]["id"], old.id.as_str());
}

#[tokio::test]
async fn a_lost_new_key_is_replaced_and_an_enrolment_ends_both() {
    let control = Control::start();
    let old = control.node("n1").await;
    let (lost, new) = (with_key(&old, "x"), with_key(&old, "y"));
    let first = rotate(&control, &old.key, &lost).await.with(200);
    let second = rotate(&control, &old.key, &new).await.with(200);
    assert_eq!(first, second, "the old one's end stays");
    control
        .get("/nodes/self", &lost.key)
        .await
        .refused(401, "not_authorized");
    // Enrolled anew elsewhere: neither key is anybody's.
    let path = format!("/admin/nodes/{}/token", old.id);
    let made = control.post(&path, &control.admin, json!(null)).await;
    let made = made.with(201);
    let moved = with_key(&old, "z");
    let token = made["token"].as_str().unwrap();
    control
        .post("/nodes/enroll", token, moved.enrolment())
        .await
        .with(200);
    for gone in [&old, &new] {
        control
            .get("/nodes/self", &gone.key)
            .await
            .refused(401, "not_authorized");
    }
    moved.beat(&control).await;
    for bad in [
        json!({}),
        json!({ "key_hash": "x" }),
        json!({ "key_hash": "g".repeat(64) }),
    ] {
        control
            .post("/nodes/self/key", &moved.key, bad)
            .await
            .refused(400, "request_malformed");
    }
}

/// Reports these sessions of one tenant.
pub(crate) async fn report(control: &Control, node: &Node, tenant: &str, ids: &[&str]) {
    let session = |id: &&str| json!({ "id": id, "client": "192.0.2.7:5", "since": "2030-01-01T00:00:00Z", "frpc_version": "0.70.1" });
    let mut heartbeat = node.heartbeat();
    let sessions: Vec<Value> = ids.iter().map(session).collect();
    heartbeat["tenants"] = json!([{ "tenant": tenant, "sessions": sessions }]);
    control
        .post("/nodes/heartbeat", &node.key, heartbeat)
        .await
        .with(200);
}

#[tokio::test]
async fn a_kick_is_pushed_until_it_is_applied() {
    let mut control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let (invite, _) = control.invite(&node, json!({})).await;
    let state = node.come_up(&control).await;
    assert_eq!(state["kicks"], Value::Null);
    report(&control, &node, &invite, &["s-2", "s-1"]).await;
    report(&control, &other, "public:192.0.2.7", &["s-1"]).await;

    let own = control.get("/nodes/sessions", &node.key).await.with(200);
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&own), ["s-1", "s-2"]);
    assert_eq!(own["items"][0]["tenant"], invite.as_str());
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/admin/sessions?limit=1{cursor}");
        let page = control.get(&path, &control.admin).await.with(200);
        all.extend(page["items"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(all.len(), 3);

    // The same id on another node is another session.
    let kick = |id: &'static str, key: &str| {
        let (control, key) = (&control, key.to_owned());
        async move { control.delete(&format!("/nodes/sessions/{id}"), &key).await }
    };
    kick("s-9", &node.key).await.refused(404, "not_found");
    kick("s-2", &other.key).await.refused(404, "not_found");
    for _ in 0..2 {
        assert_eq!(kick("s-1", &node.key).await.status.as_u16(), 204);
    }
    let delta = control
        .get(&Node::watch_from(&state, "5s"), &node.key)
        .await
        .with(200);
    assert_eq!(
        (&delta["kicks"], &delta["snapshot"]),
        (&json!(["s-1"]), &json!(false))
    );
    let own = control.get("/nodes/sessions", &node.key).await.with(200);
    assert_eq!(own["items"][0]["kicked"], true);

    // The node did not say that it applied it: whatever it asks for has it, a restart later too.
    control.kill();
    control.restart();
    let again = control
        .get(&Node::watch_from(&state, "5s"), &node.key)
        .await
        .with(200);
    assert_eq!(again["kicks"], json!(["s-1"]));
    let whole = control.get("/nodes/watch", &node.key).await.with(200);
    assert_eq!(whole["kicks"], json!(["s-1"]));
    node.come_up(&control).await;
    let whole = control.get("/nodes/watch", &node.key).await.with(200);
    assert_eq!(whole["kicks"], Value::Null);
    let kick = control.delete("/nodes/sessions/s-1", &node.key).await;
    assert_eq!(kick.status.as_u16(), 204, "a repeat is no second kick");

    let events = control.audit("&kind=session.kicked").await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(
        (
            &event["node"],
            &event["session"],
            &event["invite"],
            &event["actor"]["kind"]
        ),
        (
            &json!(node.id),
            &json!("s-1"),
            &json!(invite),
            &json!("node")
        )
    );
}

#[tokio::test]
async fn an_admin_kicks_on_a_node() {
    let control = Control::start();
    let node = control.node("n1").await;
    report(&control, &node, "public:192.0.2.7", &["s-1"]).await;
    let admin = control.admin.as_str();
    control
        .delete("/admin/sessions/s-1", admin)
        .await
        .refused(400, "request_malformed");
    let kicked = control.delete("/admin/sessions/s-1?node=n1", admin).await;
    assert_eq!(kicked.status.as_u16(), 204);
    let whole = control.get("/nodes/watch", &node.key).await.with(200);
    assert_eq!(whole["kicks"], json!(["s-1"]));
    let events = control.audit("&kind=session.kicked").await;
    assert_eq!(
        (&events[0]["actor"]["kind"], &events[0]["invite"]),
        (&json!("admin"), &Value::Null)
    );
}
