//! Repeated requests, and many at once.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Control};

#[tokio::test]
async fn many_changes_of_one_thing_all_happen() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, _) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}");
    let changes = (0..64).map(|index| {
        let body = json!({ "note": format!("{index}") });
        control.patch(&path, &node.key, body)
    });
    for answer in join_all(changes).await {
        answer.with(200);
    }
    let query = format!("&invite={id}&kind=invite.changed");
    assert_eq!(control.kinds(&query).await.len(), 64);
}

#[tokio::test]
async fn nodes_tokens_and_bans_are_made_once_per_key() {
    let control = Control::start();
    let admin = control.admin.as_str();
    let ask = |path: String, bearer: String, key: &'static str, body: Value| {
        let control = &control;
        async move {
            let headers = [("idempotency-key", key)];
            control
                .call_with("POST", &path, &bearer, Some(body), &headers)
                .await
        }
    };
    let once = |answers: Vec<Answer>| {
        let mut made: Vec<Value> = answers.into_iter().map(|one| one.with(201)).collect();
        made.dedup();
        assert_eq!(made.len(), 1, "{made:?}");
        made.remove(0)
    };
    let new = |name: &str| json!({ "name": name, "server_addr": ["192.0.2.1:1"], "pool": { "tcp": ["1-2"] } });
    let node = |key, name| ask("/admin/nodes".to_owned(), admin.to_owned(), key, new(name));
    let made = once(join_all((0..4).map(|_| node("k-1", "n0"))).await);
    node("k-1", "n9").await.refused(409, "conflict");
    node("k-2", "n0").await.refused(409, "conflict");
    let id = made["id"].as_str().unwrap();

    let path = format!("/admin/nodes/{id}/token");
    let token = |key| ask(path.clone(), admin.to_owned(), key, json!(null));
    let first = once(vec![token("k-1").await, token("k-1").await]);
    let second = once(vec![token("k-2").await]);
    assert!(first["token"] != made["token"] && first["token"] != second["token"]);
    assert_eq!(control.kinds("&kind=admin.").await.len(), 3);

    let lender = control.node("n1").await;
    let ban = |path: &str, bearer: &str, prefix: &str| {
        let body = json!({ "prefix": prefix, "until": "2999-01-01T00:00:00Z" });
        ask(path.to_owned(), bearer.to_owned(), "k-9", body)
    };
    for (path, bearer) in [("/admin/bans", admin), ("/nodes/bans", &lender.key)] {
        let twice = [
            ban(path, bearer, "192.0.2.0/24"),
            ban(path, bearer, "192.0.2.0/24"),
        ];
        let made = once(join_all(twice).await);
        assert_eq!(made["prefix"], "192.0.2.0/24");
        ban(path, bearer, "192.0.2.1")
            .await
            .refused(409, "conflict");
    }
    assert_eq!(control.kinds("&kind=ban.added").await.len(), 2);
}
