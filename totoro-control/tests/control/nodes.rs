//! Nodes: heartbeats, changes, the watch, bans.

use std::time::{Duration, Instant};

use crate::support::{Control, Node};
use serde_json::json;

#[tokio::test]
async fn wrong_missing_and_unknown_keys_get_one_answer() {
    let control = Control::start();
    let node = control.node("n1").await;
    // No key of ours ends in B: of its last symbol four bits count.
    let bodies = [
        control.get("/nodes/watch", "").await,
        control.get("/nodes/watch", "tk1-nonsense").await,
        control
            .get("/nodes/watch", &format!("{}B", &node.key[..46]))
            .await,
        control.get("/nodes/watch", &control.admin).await,
        control.get("/admin/nodes", &node.key).await,
        control
            .post("/nodes/enroll", "te1-nonsense", node.enrolment())
            .await,
    ];
    for answer in bodies {
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let mut body = answer.refused(401, "not_authorized");
        body.as_object_mut().unwrap().remove("request_id");
        assert_eq!(
            body,
            json!({
                "type": "/api/v1/docs#not_authorized",
                "title": "the key or token is missing, wrong or not allowed to do this",
                "status": 401,
                "detail": "the key or token is missing, wrong or not allowed to do this",
                "code": "not_authorized",
                "next": "check the key or token",
            })
        );
    }
}

#[tokio::test]
async fn watch_gives_a_snapshot_then_what_changed() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (first, _) = control
        .invite(&node, json!({ "limits": { "max_conns": 5 } }))
        .await;
    let state = node.come_up(&control).await;
    assert_eq!(state["snapshot"], true);
    assert_eq!(state["invites"][0]["id"], first.as_str());
    assert_eq!(state["invites"][0]["limits"], json!({ "max_conns": 5 }));
    assert_eq!(state["node"]["pool"]["tcp"], json!(["20000-20099"]));
    assert_eq!(state["keys"].as_array().unwrap().len(), 1);

    let began = Instant::now();
    let none = control
        .get(&Node::watch_from(&state, "300ms"), &node.key)
        .await;
    assert_eq!(none.status.as_u16(), 204, "{}", none.text);
    assert!(began.elapsed() >= Duration::from_millis(300));

    let (second, _) = control.invite(&node, json!({})).await;
    let delta = control
        .get(&Node::watch_from(&state, "10s"), &node.key)
        .await
        .with(200);
    assert_eq!(delta["snapshot"], false);
    assert_eq!(
        delta["invites"].as_array().unwrap().len(),
        1,
        "only what changed: {delta}"
    );
    assert_eq!(delta["invites"][0]["id"], second.as_str());
    assert!(delta["rev"].as_u64() > state["rev"].as_u64());

    // Another store's generation, an unknown revision, one of the future: a snapshot at once.
    for (generation, rev) in [
        (1, 5),
        (state["gen"].as_u64().unwrap(), 5),
        (state["gen"].as_u64().unwrap(), 1_u64 << 60),
    ] {
        let path = format!("/nodes/watch?wait=10s&gen={generation}&rev={rev}");
        assert_eq!(
            control.get(&path, &node.key).await.with(200)["snapshot"],
            true
        );
    }
    control
        .get("/nodes/watch?gen=1", &node.key)
        .await
        .refused(400, "request_malformed");
}

#[tokio::test]
async fn a_change_wakes_its_node_and_no_other() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let (id, _) = control.invite(&node, json!({})).await;
    let (mut state, others) = (node.come_up(&control).await, other.come_up(&control).await);

    // The other's poll is older than any of the node's and waits as long: it would end first if it were the
    // wait's end, and no change, that answers.
    let poll = Node::watch_from(&others, "55s");
    let asleep = control.get(&poll, &other.key);
    tokio::pin!(asleep);
    let path = format!("/nodes/invites/{id}");
    for (word, round) in [("paused", 0), ("active", 1), ("paused", 2), ("active", 3)] {
        let poll = Node::watch_from(&state, "55s");
        let watch = control.get(&poll, &node.key);
        let change = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            control
                .patch(&path, &node.key, json!({ "state": word }))
                .await
                .with(200);
        };
        let delta = tokio::select! {
            biased;
            other = &mut asleep => panic!("round {round}: {}", other.text),
            (delta, ()) = async { tokio::join!(watch, change) } => delta.with(200),
        };
        assert_eq!(delta["invites"][0]["state"], word, "round {round}");
        state = delta;
    }
    let quiet = control
        .get(&Node::watch_from(&others, "100ms"), &other.key)
        .await;
    assert_eq!(quiet.status.as_u16(), 204, "{}", quiet.text);
}

#[tokio::test]
async fn silence_is_offline_and_a_word_is_online() {
    let control = Control::start();
    let node = control.node("n1").await;
    let path = format!("/admin/nodes/{}", node.id);
    let show = || async { control.get(&path, &control.admin).await.with(200) };
    assert_eq!(show().await["state"], "online");
    assert_eq!(show().await["unenforced"], json!([]));
    let began = Instant::now();
    while show().await["state"] != "offline" {
        assert!(began.elapsed() < crate::support::PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let query = format!("&node={}&kind=node.", node.id);
    while control.kinds(&query).await.last().map(String::as_str) != Some("node.offline") {
        assert!(began.elapsed() < crate::support::PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.beat(&control).await;
    node.beat(&control).await;
    assert_eq!(show().await["state"], "online");
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
async fn a_node_is_changed_under_its_version() {
    let control = Control::start();
    let node = control.node("n1").await;
    let path = format!("/admin/nodes/{}", node.id);
    let state = node.come_up(&control).await;
    let etag = control.get(&path, &control.admin).await.etag();
    let drain = json!({ "draining": true });
    let admin = control.admin.as_str();
    let change = |headers: Vec<(&'static str, String)>, body| {
        let (control, path) = (&control, &path);
        async move {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            control
                .call_with("PATCH", path, admin, Some(body), &headers)
                .await
        }
    };
    change(vec![], drain.clone())
        .await
        .refused(428, "request_malformed");
    let changed = change(vec![("if-match", etag.clone())], drain.clone())
        .await
        .with(200);
    assert_eq!(changed["state"], "draining");
    change(vec![("if-match", etag)], drain)
        .await
        .refused(412, "conflict");
    let delta = control
        .get(&Node::watch_from(&state, "5s"), &node.key)
        .await
        .with(200);
    assert_eq!(delta["node"]["draining"], true);
    assert_eq!(delta["invites"], json!([]));
    let bad = json!({ "pool": { "tcp": [] } });
    change(vec![("if-match", "*".to_owned())], bad)
        .await
        .refused(400, "request_malformed");
    let kinds = control
        .kinds(&format!("&node={}&kind=node.drained", node.id))
        .await;
    assert_eq!(kinds, ["node.drained"]);
}

#[tokio::test]
async fn bans_reach_their_nodes() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let (state, others) = (node.come_up(&control).await, other.come_up(&control).await);
    let body = json!({ "prefix": "198.51.100.7/24", "note": "scanner" });
    let ban = control
        .post("/nodes/bans", &node.key, body.clone())
        .await
        .with(201);
    assert_eq!(ban["prefix"], "198.51.100.0/24");
    let delta = control
        .get(&Node::watch_from(&state, "5s"), &node.key)
        .await
        .with(200);
    assert_eq!(delta["bans"][0]["prefix"], "198.51.100.0/24");

    control
        .post(
            "/admin/bans",
            &control.admin,
            json!({ "prefix": "2001:db8::/32" }),
        )
        .await
        .with(201);
    let delta = control
        .get(&Node::watch_from(&others, "5s"), &other.key)
        .await
        .with(200);
    assert_eq!(
        delta["bans"].as_array().unwrap().len(),
        1,
        "only the one on all nodes: {delta}"
    );

    let id = ban["id"].as_str().unwrap();
    control
        .delete(&format!("/nodes/bans/{id}"), &other.key)
        .await
        .refused(404, "not_found");
    let gone = control
        .delete(&format!("/nodes/bans/{id}"), &node.key)
        .await;
    assert_eq!(gone.status.as_u16(), 204);
    let list = control.get("/nodes/bans", &node.key).await.with(200);
    assert_eq!(list["items"], json!([]));
    let body = json!({ "prefix": "0.0.0.0/0" });
    control
        .post("/nodes/bans", &node.key, body)
        .await
        .refused(400, "request_malformed");
    assert_eq!(
        control.kinds(&format!("&node={}&kind=ban.", node.id)).await,
        ["ban.added", "ban.lifted"]
    );
}

#[tokio::test]
async fn a_nodes_word_is_kept_short_and_a_newer_nodes_is_understood() {
    let control = Control::start();
    let node = control
        .enrolled("n1", json!({ "visibility": "public" }))
        .await;
    let mut heartbeat = node.heartbeat();
    heartbeat["frps_version"] = json!("v".repeat(500_000));
    heartbeat["cpu_percent"] = json!(1e300);
    heartbeat["free_ports"] = json!({ "tcp": 5, "sctp": 6 });
    heartbeat["tenants"] = json!([{ "tenant": "inv-1", "refused": { "max_moons": 1 } }]);
    heartbeat["something_new"] = json!({});
    control
        .post("/nodes/heartbeat", &node.key, heartbeat)
        .await
        .with(200);
    let listed = control.get("/public/nodes", "").await.with(200);
    let shown = &listed["items"][0];
    assert_eq!(shown["versions"]["frps"].as_str().unwrap().len(), 120);
    assert_eq!(shown["cpu_percent"], 0.0);
    assert_eq!(shown["free_ports"], json!({ "tcp": 5 }));
    // What people write is still read strictly.
    let path = format!("/admin/nodes/{}", node.id);
    let moons = json!({ "public_max": { "moons": 1 } });
    let problem = control
        .patch(&path, &control.admin, moons)
        .await
        .refused(400, "request_malformed");
    assert!(problem["detail"].as_str().unwrap().contains("moons"));
}

#[tokio::test]
async fn the_public_list_pages_and_follows_changes() {
    let control = Control::start();
    let public = || json!({ "visibility": "public" });
    let mut ids = Vec::new();
    for name in ["n1", "n2", "n3"] {
        ids.push(control.enrolled(name, public()).await.id);
        let listed = control.get("/public/nodes", "").await.with(200);
        assert_eq!(listed["items"].as_array().unwrap().len(), ids.len());
    }
    ids.sort();
    let first = control.get("/public/nodes?limit=2", "").await.with(200);
    assert_eq!(first["next"], ids[1].as_str());
    let path = format!("/public/nodes?limit=2&cursor={}", ids[1]);
    let second = control.get(&path, "").await.with(200);
    assert_eq!(
        (&second["items"][0]["id"], &second["next"]),
        (&json!(ids[2]), &json!(null))
    );
    let path = format!("/admin/nodes/{}", ids[0]);
    let off = json!({ "disabled": true });
    control.patch(&path, &control.admin, off).await.with(200);
    let listed = control.get("/public/nodes", "").await.with(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}
