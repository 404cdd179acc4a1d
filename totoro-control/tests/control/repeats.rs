//! Repeated requests, and many at once.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::lender::report;
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

/// Method, path, who asks, the body, and the kind of the one event.
type Change<'a> = (&'a str, String, &'a str, Option<Value>, &'a str);

#[tokio::test]
async fn what_needs_a_version_is_changed_once_per_key() {
    let control = Control::start();
    let admin = control.admin.as_str();
    let (node, gone) = (control.node("n1").await, control.node("n2").await);
    let lender = node.key.as_str();
    let (own, _) = control.invite(&node, json!({})).await;
    let (other, _) = control.invite(&node, json!({})).await;
    let invite = |group, id| format!("/{group}/invites/{id}");
    let (note, pause) = (json!({ "note": "x" }), json!({ "state": "paused" }));
    let (drain, region) = (json!({ "draining": true }), json!({ "region": "eu" }));
    let on = |node: &Node| format!("/admin/nodes/{}", node.id);
    let changes: [Change; 7] = [
        (
            "PATCH",
            invite("nodes", &own),
            lender,
            Some(note),
            "invite.changed",
        ),
        (
            "PATCH",
            invite("admin", &own),
            admin,
            Some(pause),
            "invite.paused",
        ),
        (
            "DELETE",
            invite("nodes", &own),
            lender,
            None,
            "invite.revoked",
        ),
        (
            "DELETE",
            invite("admin", &other),
            admin,
            None,
            "invite.revoked",
        ),
        (
            "PATCH",
            "/nodes/self".to_owned(),
            lender,
            Some(drain),
            "node.drained",
        ),
        (
            "PATCH",
            on(&node),
            admin,
            Some(region),
            "admin.node_changed",
        ),
        ("DELETE", on(&gone), admin, None, "admin.node_deleted"),
    ];
    for (row, (method, path, bearer, body, kind)) in changes.iter().enumerate() {
        let key = format!("k-{row}");
        let ask = |version: Option<&str>, body: Option<Value>| {
            let (control, key, version) = (&control, key.clone(), version.map(str::to_owned));
            async move {
                let mut headers = vec![("idempotency-key", key.as_str())];
                headers.extend(version.as_deref().map(|version| ("if-match", version)));
                let asked = control.call_with(method, path, bearer, body, &headers);
                asked.await
            }
        };
        let events = async || control.kinds(&format!("&kind={kind}")).await.len();
        let before = events().await;
        let seen = control.get(path, bearer).await.etag();
        // What is refused is not remembered.
        ask(Some("\"1\""), body.clone())
            .await
            .refused(412, "conflict");
        ask(None, body.clone())
            .await
            .refused(428, "request_malformed");
        let first = ask(Some(&seen), body.clone()).await;
        assert!(first.status.is_success(), "{method} {path}: {}", first.text);
        // Whoever lost the answer still has the version that it saw before.
        let again = ask(Some(&seen), body.clone()).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.headers.get("etag"), first.headers.get("etag"));
        assert_eq!(events().await, before + 1, "{method} {path}");

        ask(Some("*"), body.clone()).await.refused(409, "conflict");
        let bare = ask(None, body.clone()).await;
        match first.status.as_u16() {
            // Nothing is there that has a version.
            204 => bare.refused(409, "conflict"),
            _ => bare.refused(428, "request_malformed"),
        };
        if body.is_some() {
            let asked = ask(Some(&seen), Some(json!({})));
            asked.await.refused(409, "conflict");
        }
        assert_eq!(events().await, before + 1, "{method} {path}");
    }
}

#[tokio::test]
async fn what_needs_no_version_is_removed_once_per_key() {
    let control = Control::start();
    let admin = control.admin.as_str();
    let node = control.node("n1").await;
    let lender = node.key.as_str();
    report(&control, &node, "public:192.0.2.7", &["s-1", "s-2", "s-3"]).await;
    let made = async |path: &str, bearer: &str, body: Value| {
        let made = control.post(path, bearer, body).await.with(201);
        made["id"].as_str().unwrap().to_owned()
    };
    let ban = json!({ "prefix": "192.0.2.0/24" });
    let mut bans = Vec::new();
    for _ in 0..3 {
        bans.push(made("/nodes/bans", lender, ban.clone()).await);
    }
    let (all, more) = (
        made("/admin/bans", admin, ban.clone()).await,
        made("/admin/bans", admin, ban).await,
    );
    let token = |name: &str| json!({ "name": name, "scopes": ["read"] });
    let tokens = (
        made("/admin/tokens", admin, token("a")).await,
        made("/admin/tokens", admin, token("b")).await,
    );
    // Each with another one of the kind, which the same key may not remove.
    let removals = [
        (
            "/nodes/bans/",
            "",
            lender,
            &*bans[0],
            &*bans[2],
            "ban.lifted",
        ),
        (
            "/admin/bans/",
            "?node=n1",
            admin,
            &bans[1],
            &bans[2],
            "ban.lifted",
        ),
        ("/admin/bans/", "", admin, &all, &more, "ban.lifted"),
        (
            "/nodes/sessions/",
            "",
            lender,
            "s-1",
            "s-3",
            "session.kicked",
        ),
        (
            "/admin/sessions/",
            "?node=n1",
            admin,
            "s-2",
            "s-3",
            "session.kicked",
        ),
        (
            "/admin/tokens/",
            "",
            admin,
            &tokens.0,
            &tokens.1,
            "admin.token_revoked",
        ),
    ];
    for (row, (path, query, bearer, id, other, kind)) in removals.into_iter().enumerate() {
        let key = format!("k-{row}");
        let ask = async |id: &str| {
            let headers = [("idempotency-key", key.as_str())];
            let path = format!("{path}{id}{query}");
            let asked = control.call_with("DELETE", &path, bearer, None, &headers);
            asked.await
        };
        let events = async || control.kinds(&format!("&kind={kind}")).await.len();
        let before = events().await;
        ask("nowhere").await.refused(404, "not_found");
        for _ in ["once", "and again, though it is gone"] {
            assert_eq!(ask(id).await.status.as_u16(), 204, "{path}{id}");
        }
        ask(other).await.refused(409, "conflict");
        assert_eq!(events().await, before + 1, "{path}{id}");
    }
}

#[tokio::test]
async fn a_late_repeat_changes_nothing_and_shows_what_is_there() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let (id, _) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}");
    let headers = [("idempotency-key", "k-1"), ("if-match", "*")];
    let ask = async |path: &str, node: &Node, body: Value| {
        control
            .call_with("PATCH", path, &node.key, Some(body), &headers)
            .await
    };
    ask(&path, &node, json!({ "note": "mine" })).await.with(200);
    let later = control.patch(&path, &node.key, json!({ "note": "later" }));
    let later = later.await.with(200);
    let again = ask(&path, &node, json!({ "note": "mine" })).await;
    assert_eq!(again.etag(), format!("\"{}\"", later["version"]));
    assert_eq!(again.with(200), later);
    // A key is its node's alone, and one that changed nothing is taken all the same.
    ask("/nodes/self", &other, json!({})).await.with(200);
    let drain = || json!({ "draining": true });
    ask("/nodes/self", &other, drain())
        .await
        .refused(409, "conflict");
    let third = control.node("n3").await;
    ask("/nodes/self", &third, drain()).await.with(200);
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
