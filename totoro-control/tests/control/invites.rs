//! Invites: from making to the end.

use crate::support::Control;
use serde_json::{Value, json};
use time::OffsetDateTime;
use totoro_api::ticket::rfc3339;

fn from_now(seconds: i64) -> String {
    rfc3339(OffsetDateTime::now_utc().unix_timestamp() + seconds)
}

#[tokio::test]
async fn a_whole_life() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control
        .invite(
            &node,
            json!({ "label": "Mei", "limits": { "max_conns": 5 } }),
        )
        .await;
    let path = format!("/nodes/invites/{id}");
    let shown = control.get(&path, &node.key).await;
    let etag = shown.etag();
    let shown = shown.with(200);
    assert_eq!(shown["code"], Value::Null, "the code is shown once");
    assert_eq!(
        (shown["state"].as_str(), shown["epoch"].as_u64()),
        (Some("active"), Some(1))
    );
    assert_eq!(etag, format!("\"{}\"", shown["version"]));

    let patch = |etag: String, body: Value| {
        let (control, path, key) = (&control, &path, &node.key);
        async move {
            control
                .call_with("PATCH", path, key, Some(body), &[("if-match", &etag)])
                .await
        }
    };
    let no_match = control
        .call("PATCH", &path, &node.key, Some(json!({ "note": "x" })))
        .await;
    no_match.refused(428, "request_malformed");
    let paused = patch(etag.clone(), json!({ "state": "paused" })).await;
    let newer = paused.etag();
    assert_eq!(paused.with(200)["state"], "paused");
    patch(etag, json!({ "state": "active" }))
        .await
        .refused(412, "conflict");
    let resumed = patch(
        newer,
        json!({ "state": "active", "limits": { "max_conns": 9 } }),
    )
    .await;
    let newer = resumed.etag();
    let resumed = resumed.with(200);
    assert_eq!(
        (&resumed["epoch"], &resumed["limits"]["max_conns"]),
        (&json!(1), &json!(9))
    );
    patch(newer, json!({ "state": "revoked" }))
        .await
        .refused(400, "request_malformed");

    let rotate = control
        .call_with(
            "POST",
            &format!("{path}/rotate"),
            &node.key,
            None,
            &[("if-match", "*")],
        )
        .await
        .with(200);
    let second = rotate["code"].as_str().unwrap();
    assert_ne!(second, code);
    assert_eq!(rotate["epoch"], 2);
    let body = json!({ "code": code });
    control
        .post("/invites/usage", "", body)
        .await
        .refused(404, "invite_unknown");
    let usage = control
        .post("/invites/usage", "", json!({ "code": second }))
        .await
        .with(200);
    assert_eq!(
        (usage["invite"].as_str(), usage["state"].as_str()),
        (Some(id.as_str()), Some("active"))
    );

    let revoked = control.delete(&path, &node.key).await.with(200);
    assert_eq!(
        (&revoked["state"], &revoked["epoch"]),
        (&json!("revoked"), &json!(3))
    );
    control.delete(&path, &node.key).await.with(200);
    control
        .patch(&path, &node.key, json!({ "state": "active" }))
        .await
        .refused(403, "invite_revoked");
    assert_eq!(
        control.kinds(&format!("&invite={id}")).await,
        [
            "invite.created",
            "invite.paused",
            "invite.resumed",
            "invite.rotated",
            "invite.revoked"
        ],
        "one event each, in order, and none for what changed nothing"
    );
}

#[tokio::test]
async fn expiry_is_the_clocks_and_extension_revives() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control
        .invite(&node, json!({ "expires_at": from_now(3600) }))
        .await;
    let path = format!("/nodes/invites/{id}");
    let expired = control
        .patch(&path, &node.key, json!({ "expires_at": from_now(-5) }))
        .await
        .with(200);
    assert_eq!(
        (&expired["state"], &expired["epoch"]),
        (&json!("expired"), &json!(1))
    );
    let answer = control
        .post("/invites/resolve", "", json!({ "code": code }))
        .await;
    answer.refused(403, "invite_expired");
    let began = std::time::Instant::now();
    let query = format!("&invite={id}&kind=invite.expired");
    while control.kinds(&query).await.is_empty() {
        assert!(
            began.elapsed() < crate::support::PATIENCE,
            "the end of an invite leaves its event"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // What changes besides leaves its end alone: it is told once.
    for body in [json!({ "note": "late" }), json!({ "label": "late" })] {
        control.patch(&path, &node.key, body).await.with(200);
    }
    let rotated = [("if-match", "*")];
    control
        .call_with("POST", &format!("{path}/rotate"), &node.key, None, &rotated)
        .await
        .with(200);
    tokio::time::sleep(std::time::Duration::from_millis(2200)).await;
    assert_eq!(control.kinds(&query).await.len(), 1);
    let revived = control
        .patch(&path, &node.key, json!({ "expires_at": "" }))
        .await
        .with(200);
    assert_eq!(
        (&revived["state"], &revived["epoch"]),
        (&json!("active"), &json!(3))
    );
    assert_eq!(revived["expires_at"], Value::Null);
    assert_eq!(control.kinds(&query).await.len(), 1);
}

#[tokio::test]
async fn what_people_write_wrong_is_named() {
    let control = Control::start();
    let node = control.node("n1").await;
    for (body, code, status, word) in [
        (json!({ "lable": "x" }), "request_malformed", 400, "lable"),
        (
            json!({ "limits": { "max_cons": 5 } }),
            "request_malformed",
            400,
            "max_cons",
        ),
        (
            json!({ "limits": { "max_conns": 0 } }),
            "request_malformed",
            400,
            "limits.max_conns",
        ),
        (
            json!({ "limits": { "max_conns": -1 } }),
            "request_malformed",
            400,
            "-1",
        ),
        (
            json!({ "limits": { "types": ["stcp"] } }),
            "request_malformed",
            400,
            "stcp",
        ),
        (
            json!({ "limits": { "ports": ["19000"] } }),
            "port_outside_pool",
            422,
            "19000",
        ),
        (
            json!({ "limits": { "ports": ["x"] } }),
            "request_malformed",
            400,
            "line",
        ),
        (
            json!({ "label": "x".repeat(81) }),
            "request_malformed",
            400,
            "label",
        ),
        (
            json!({ "label": "a\u{7}b" }),
            "request_malformed",
            400,
            "label",
        ),
        (
            json!({ "expires_at": "tomorrow" }),
            "request_malformed",
            400,
            "expires_at",
        ),
        (json!({ "node": "n-0000" }), "not_authorized", 401, "key"),
        (json!([]), "request_malformed", 400, "body"),
    ] {
        let answer = control
            .post("/nodes/invites", &node.key, body.clone())
            .await;
        let problem = answer.refused(status, code);
        assert!(
            problem["detail"].as_str().unwrap().contains(word),
            "{body}: {problem}"
        );
    }
    assert_eq!(
        control.get("/nodes/invites", &node.key).await.with(200)["items"],
        json!([])
    );
}

#[tokio::test]
async fn a_limit_that_the_node_cannot_hold_is_refused_at_once() {
    let control = Control::start();
    let node = control.node("n1").await;
    let mut heartbeat = node.heartbeat();
    heartbeat["features"] = json!(["max_conns"]);
    control
        .post("/nodes/heartbeat", &node.key, heartbeat)
        .await
        .with(200);
    let make =
        |limits: Value| control.post("/nodes/invites", &node.key, json!({ "limits": limits }));
    make(json!({ "max_conns": 5 })).await.with(201);
    make(json!({ "max_flows": 5 }))
        .await
        .refused(422, "unsupported");
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_code() {
    let control = Control::start();
    let node = control.node("n1").await;
    let make = |key: &'static str, label: &'static str| {
        let (control, node) = (&control, &node);
        async move {
            let body = Some(json!({ "label": label }));
            let headers = [("idempotency-key", key)];
            control
                .call_with("POST", "/nodes/invites", &node.key, body, &headers)
                .await
        }
    };
    let first = make("k-1", "a").await.with(201);
    assert_eq!(make("k-1", "a").await.with(201), first);
    make("k-1", "b").await.refused(409, "conflict");
    assert_ne!(make("k-2", "a").await.with(201)["code"], first["code"]);
    make("", "a").await.refused(400, "request_malformed");

    // Sixteen at once: one invite.
    let race = futures_util::future::join_all((0..16).map(|_| make("k-3", "race"))).await;
    let mut ids: Vec<Value> = race
        .into_iter()
        .map(|answer| answer.with(201)["id"].clone())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);

    let path = format!("/nodes/invites/{}/rotate", first["id"].as_str().unwrap());
    let rotate = || {
        let headers = [("idempotency-key", "r-1"), ("if-match", "*")];
        let (control, path, key) = (&control, &path, &node.key);
        async move {
            control
                .call_with("POST", path, key, None, &headers)
                .await
                .with(200)
        }
    };
    let rotated = rotate().await;
    assert_eq!(rotate().await, rotated);
    // A repeat is as complete as the first one.
    let bare = [("idempotency-key", "r-1")];
    let bare = control.call_with("POST", &path, &node.key, None, &bare);
    bare.await.refused(428, "request_malformed");
    assert_eq!(control.kinds("&kind=invite.rotated").await.len(), 1);
    assert_eq!(control.kinds("&kind=invite.created").await.len(), 3);
}

#[tokio::test]
async fn nobody_reaches_anothers_invites() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let (id, _) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}");
    control
        .get(&path, &other.key)
        .await
        .refused(404, "not_found");
    control
        .patch(&path, &other.key, json!({ "note": "x" }))
        .await
        .refused(404, "not_found");
    control
        .delete(&path, &other.key)
        .await
        .refused(404, "not_found");
    control
        .get("/nodes/invites/..%2fnode", &other.key)
        .await
        .refused(404, "not_found");
    assert_eq!(
        control.get("/nodes/invites", &other.key).await.with(200)["items"],
        json!([])
    );
    let query = format!("/nodes/audit?node={}", node.id);
    control
        .get(&query, &other.key)
        .await
        .refused(401, "not_authorized");

    // Its own name is as good as its id.
    let query = "/nodes/invites?node=n1";
    assert_eq!(
        control.get(query, &node.key).await.with(200)["items"][0]["id"],
        id.as_str()
    );
    control
        .get(query, &other.key)
        .await
        .refused(401, "not_authorized");

    // An admin reaches all, by the node's name too.
    let body = json!({ "node": "n2" });
    let made = control
        .post("/admin/invites", &control.admin, body)
        .await
        .with(201);
    assert_eq!(made["node"], other.id.as_str());
    control
        .post("/admin/invites", &control.admin, json!({}))
        .await
        .refused(400, "request_malformed");
    let all = control
        .get("/admin/invites", &control.admin)
        .await
        .with(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn pages_cover_all_once() {
    let control = Control::start();
    let node = control.node("n1").await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(control.invite(&node, json!({})).await.0);
    }
    made.sort();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/nodes/invites?limit=3{cursor}");
        let page = control.get(&path, &node.key).await.with(200);
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|invite| invite["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, made);
    control
        .get("/nodes/invites?limit=0", &node.key)
        .await
        .refused(400, "request_malformed");
    control
        .get("/nodes/invites?page=2", &node.key)
        .await
        .refused(400, "request_malformed");
}
