//! Repeated requests, and many at once.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Control, Node};

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

/// As many as ask at once.
const CLIENTS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn one_key_makes_one_invite_and_one_code_however_many_ask() {
    let control = Control::start();
    let node = control.node("n1").await;
    let headers = [("idempotency-key", "k-64")];
    let ask = |label: &str| {
        let body = Some(json!({ "label": label }));
        control.call_with("POST", "/nodes/invites", &node.key, body, &headers)
    };
    let made = join_all((0..CLIENTS).map(|_| ask("same"))).await;
    let mut made: Vec<Value> = made.into_iter().map(|answer| answer.with(201)).collect();
    made.dedup();
    assert_eq!(made.len(), 1, "one invite, one code");
    // The code works, for one client: nobody holds another one.
    let code = json!({ "code": made[0]["code"] });
    let resolved = control.post("/invites/resolve", "", code).await.with(200);
    assert_eq!(resolved["invite"], made[0]["id"]);
    assert_eq!(control.kinds("&kind=invite.created").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_with_many_bodies_takes_exactly_one() {
    let control = Control::start();
    let node = control.node("n1").await;
    let headers = [("idempotency-key", "k-64")];
    let asking = (0..CLIENTS).map(|index| {
        let body = Some(json!({ "label": format!("{index}") }));
        control.call_with("POST", "/nodes/invites", &node.key, body, &headers)
    });
    let answers = join_all(asking).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    let lost = answers
        .iter()
        .filter(|answer| answer.status == 409 && answer.code() == "conflict");
    assert_eq!((won, lost.count()), (1, CLIENTS - 1));
    assert_eq!(control.kinds("&kind=invite.created").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_version_is_changed_once_however_many_saw_it() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}");
    let seen = control.get(&path, &node.key).await.etag();
    let headers = [("if-match", seen.as_str())];
    let rotate = format!("{path}/rotate");
    let rotating =
        (0..CLIENTS).map(|_| control.call_with("POST", &rotate, &node.key, None, &headers));
    let answers = join_all(rotating).await;
    let won: Vec<&Answer> = answers
        .iter()
        .filter(|one| one.status.is_success())
        .collect();
    let lost = answers
        .iter()
        .filter(|one| one.status == 412 && one.code() == "conflict");
    assert_eq!((won.len(), lost.count()), (1, CLIENTS - 1));
    // Exactly one code works: the winner's.
    control
        .oauth(won[0].body["code"].as_str().unwrap())
        .await
        .with(200);
    assert_eq!(control.oauth(&code).await.status.as_u16(), 401);
    assert_eq!(control.kinds("&kind=invite.rotated").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_enrolment_token_enrols_one_key() {
    let mut control = Control::start();
    // Losing a race is a wrong token to the limit.
    control.reconfigure(&[("wrong_key = 120", "wrong_key = 1000")]);
    let new = json!({
        "name": "n1", "server_addr": ["192.0.2.1:7000"], "pool": { "tcp": ["20000"] },
    });
    let made = control
        .post("/admin/nodes", &control.admin, new)
        .await
        .with(201);
    let (id, token) = (
        made["id"].as_str().unwrap(),
        made["token"].as_str().unwrap(),
    );
    let claimants: Vec<Node> = (0..CLIENTS).map(|_| Node::new(id)).collect();
    let enrolling = claimants
        .iter()
        .map(|node| control.post("/nodes/enroll", token, node.enrolment()));
    let answers = join_all(enrolling).await;
    let won: Vec<usize> = (0..CLIENTS)
        .filter(|&at| answers[at].status == 200)
        .collect();
    let lost = answers
        .iter()
        .filter(|one| one.status.is_client_error())
        .count();
    assert_eq!((won.len(), lost), (1, CLIENTS - 1));
    for (at, node) in claimants.iter().enumerate() {
        let shown = control.get("/nodes/self", &node.key).await.status.as_u16();
        assert_eq!(shown, if at == won[0] { 200 } else { 401 });
    }
    assert_eq!(control.kinds("&kind=node.enrolled").await.len(), 1);
}
