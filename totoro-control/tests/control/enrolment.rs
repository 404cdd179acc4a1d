//! Enrolment: tokens, keys and installations.

use serde_json::json;

use crate::support::{Control, Node};

#[tokio::test]
async fn a_token_enrols_one_key_once() {
    let control = Control::start();
    let new = json!({
        "name": "n1", "server_addr": ["192.0.2.1:7000"], "pool": { "tcp": ["20000-20009"] },
    });
    let made = control
        .post("/admin/nodes", &control.admin, new.clone())
        .await
        .with(201);
    control
        .post("/admin/nodes", &control.admin, new)
        .await
        .refused(409, "conflict");
    let token = made["token"].as_str().unwrap();
    let id = made["id"].as_str().unwrap();

    let (mine, thief) = (
        control.enrolled("n2", json!({})).await,
        control.enrolled("n3", json!({})).await,
    );
    // A fresh key for n1; `mine` and `thief` only lend theirs.
    let key = Node {
        id: id.to_owned(),
        key: format!("{}x", &mine.key[..46]),
        ..mine
    };
    let first = control
        .post("/nodes/enroll", token, key.enrolment())
        .await
        .with(200);
    assert_eq!(
        (first["node"].as_str(), first["name"].as_str()),
        (Some(id), Some("n1"))
    );
    let again = control
        .post("/nodes/enroll", token, key.enrolment())
        .await
        .with(200);
    assert_eq!(again, first, "a lost answer costs nothing");
    control
        .post("/nodes/enroll", token, thief.enrolment())
        .await
        .refused(401, "not_authorized");

    key.beat(&control).await;
    control
        .post("/nodes/enroll", token, key.enrolment())
        .await
        .refused(401, "not_authorized");
    assert_eq!(
        control.kinds(&format!("&node={id}")).await,
        ["admin.node_created", "node.enrolled", "node.online"]
    );
}

#[tokio::test]
async fn a_second_installation_is_told() {
    let control = Control::start();
    let node = control.node("n1").await;
    let twin = Node {
        instance: "0".repeat(32),
        id: node.id.clone(),
        key: node.key.clone(),
    };
    for _ in 0..3 {
        control
            .post("/nodes/heartbeat", &twin.key, twin.heartbeat())
            .await
            .refused(409, "conflict");
    }
    let told = control.audit("&kind=node.conflict").await;
    assert_eq!(told.len(), 1, "once a minute");
    assert_eq!(
        (
            &told[0]["node"],
            &told[0]["reason"],
            &told[0]["detail"]["instance"]
        ),
        (&json!(node.id), &json!("conflict"), &json!(twin.instance))
    );

    // Enrolled anew elsewhere: the old key is nobody's.
    let path = format!("/admin/nodes/{}/token", node.id);
    let made = control
        .post(&path, &control.admin, json!(null))
        .await
        .with(201);
    let moved = Node {
        key: format!("{}y", &node.key[..46]),
        ..twin
    };
    let token = made["token"].as_str().unwrap();
    control
        .post("/nodes/enroll", token, moved.enrolment())
        .await
        .with(200);
    control
        .post("/nodes/heartbeat", &node.key, node.heartbeat())
        .await
        .refused(401, "not_authorized");
    moved.beat(&control).await;
    assert_eq!(
        control.get("/nodes/self", &moved.key).await.with(200)["instance"],
        moved.instance
    );
}

#[tokio::test]
async fn a_newer_token_voids_the_older() {
    let control = Control::start();
    let node = control.enrolled("n1", json!({})).await;
    let path = format!("/admin/nodes/{}/token", node.id);
    let token = || async {
        let made = control.post(&path, &control.admin, json!(null)).await;
        made.with(201)["token"].as_str().unwrap().to_owned()
    };
    let (older, newer) = (token().await, token().await);
    let moved = Node {
        key: format!("{}z", &node.key[..46]),
        instance: "1".repeat(32),
        id: node.id.clone(),
    };
    control
        .post("/nodes/enroll", &older, moved.enrolment())
        .await
        .refused(401, "not_authorized");
    control
        .post("/nodes/enroll", &newer, moved.enrolment())
        .await
        .with(200);
    moved.beat(&control).await;
}
