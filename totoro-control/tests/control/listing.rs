//! When a public node is listed, and what the trail says of nodes that do not do well.

use std::net::TcpListener;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Control, Node, PATIENCE};

/// A control plane that probes, loopback too.
fn probing(special: bool) -> Control {
    let mut control = Control::start();
    let mut changes = vec![("probe = false", "probe = true")];
    if special {
        changes.push(("special_addresses = false", "special_addresses = true"));
    }
    control.reconfigure(&changes);
    control
}

async fn listed(control: &Control) -> Vec<Value> {
    let page = control.get("/public/nodes", "").await.with(200);
    page["items"].as_array().unwrap().clone()
}

/// Reports until `done`.
async fn until<F: Future<Output = bool>>(control: &Control, node: &Node, done: impl Fn() -> F) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < PATIENCE);
        node.beat(control).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_public_node_is_listed_where_it_was_reached() {
    let mut control = probing(true);
    let frps = TcpListener::bind("127.0.0.1:0").unwrap();
    let (open, closed) = (frps.local_addr().unwrap(), "127.0.0.1:1");
    let public = json!({ "visibility": "public", "server_addr": [open.to_string(), closed] });
    let node = control.enrolled("n1", public).await;
    node.come_up(&control).await;
    let path = format!("/admin/nodes/{}", node.id);
    let one = || async { listed(&control).await.len() == 1 };
    until(&control, &node, one).await;
    assert_eq!(
        listed(&control).await[0]["server_addr"],
        json!([open.to_string()])
    );
    let why = || async {
        let shown = control.get(&path, &control.admin).await.with(200);
        shown["unlisted"][0]
            .as_str()
            .unwrap_or("")
            .contains("refused")
    };
    until(&control, &node, why).await;
    let ticket = format!("/public/nodes/{}/ticket", node.id);
    let given = control.post(&ticket, "", json!({})).await.with(200);
    assert_eq!(given["server_addr"], json!([open.to_string()]));

    // Once is enough, over a restart; a new address is tried anew.
    drop(frps);
    control.kill();
    control.restart();
    assert_eq!(listed(&control).await.len(), 1);
    let moved = json!({ "server_addr": [closed] });
    control.patch(&path, &control.admin, moved).await.with(200);
    assert_eq!(listed(&control).await, Vec::<Value>::new());
    control
        .post(&ticket, "", json!({}))
        .await
        .refused(503, "node_offline");
    let events = control.audit("&kind=node.reached").await;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["actor"]["kind"], &events[0]["detail"]["address"]),
        (&json!("system"), &json!(open.to_string()))
    );
}

#[tokio::test]
async fn this_machine_itself_is_not_connected_to() {
    let control = probing(false);
    let frps = TcpListener::bind("127.0.0.1:0").unwrap();
    frps.set_nonblocking(true).unwrap();
    let at = format!("localhost:{}", frps.local_addr().unwrap().port());
    let public = json!({ "visibility": "public", "server_addr": [at] });
    let node = control.enrolled("n1", public).await;
    let why = || async {
        let own = control.get("/nodes/self", &node.key).await.with(200);
        own["unlisted"][0]
            .as_str()
            .unwrap()
            .contains("this machine itself")
    };
    until(&control, &node, why).await;
    assert!(frps.accept().is_err(), "nothing came");
    assert_eq!(listed(&control).await, Vec::<Value>::new());
    // A private one need not be reached by anybody but those who have its address.
    let path = format!("/admin/nodes/{}", node.id);
    let private = json!({ "visibility": "private" });
    let shown = control.patch(&path, &control.admin, private).await;
    assert_eq!(shown.with(200)["unlisted"], Value::Null);
}

#[tokio::test]
async fn what_is_wrong_with_a_node_is_told_once_and_its_end_too() {
    let control = Control::start();
    let node = control.node("n1").await;
    let beat = |missing: Value| {
        let mut heartbeat = node.heartbeat();
        if missing != json!([]) {
            heartbeat["grade"] = json!("callback");
        }
        heartbeat["missing"] = missing;
        let (control, key) = (&control, node.key.as_str());
        async move {
            let answer = control.post("/nodes/heartbeat", key, heartbeat).await;
            answer.with(200);
        }
    };
    for missing in [json!(["no BTF"]), json!(["no BTF"]), json!([])] {
        beat(missing).await;
    }
    let applied = json!({ "gen": 1, "rev": 1, "keys": [], "error": "the pool is in use" });
    control
        .post("/nodes/applied", &node.key, applied)
        .await
        .with(204);
    beat(json!([])).await;
    beat(json!([])).await;
    let events = control
        .audit(&format!("&node={}&kind=node.", node.id))
        .await;
    let told: Vec<(&Value, &Value)> = events[2..]
        .iter()
        .map(|event| (&event["kind"], &event["detail"]["problems"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("node.degraded"), &json!(["no BTF"])),
            (&json!("node.online"), &json!([])),
            (&json!("node.degraded"), &json!(["the pool is in use"])),
        ]
    );
    let shown = control.get("/nodes/self", &node.key).await.with(200);
    assert_eq!(shown["state"], "degraded");
}
