//! How many invites one node may have.

use serde_json::{Value, json};

use crate::support::{Answer, Control, Node};

async fn ask(control: &Control, node: &Node, body: Value, request: &str) -> Answer {
    let headers = [("idempotency-key", request)];
    let path = "/nodes/invites";
    let asked = control.call_with("POST", path, &node.key, Some(body), &headers);
    asked.await
}

#[tokio::test]
async fn a_node_has_no_more_invites_than_it_may() {
    let mut control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    control.reconfigure(&[("invites_per_node = 20000", "invites_per_node = 3")]);
    let ask_of = |body, request| ask(&control, &node, body, request);
    let first = ask_of(json!({}), "one").await.with(201);
    let batch = json!({ "count": 3 });
    ask_of(batch, "too-many").await.refused(409, "max_invites");
    let two = ask_of(json!({ "count": 2 }), "two").await.with(201);
    assert_eq!(two["items"].as_array().unwrap().len(), 2);
    let full = ask_of(json!({}), "four").await.refused(409, "max_invites");
    let detail = full["detail"].as_str().unwrap();
    assert!(detail.contains("3 invites of at most 3"), "{detail}");
    // A repeat makes none, and another node has its own.
    assert_eq!(ask_of(json!({}), "one").await.with(201)["id"], first["id"]);
    control.invite(&other, json!({})).await;

    // Counted anew after a start.
    control.kill();
    control.restart();
    ask(&control, &node, json!({}), "five")
        .await
        .refused(409, "max_invites");
}
