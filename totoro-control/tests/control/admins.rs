//! What is an admin's alone: tokens, ticket keys, and removing a node.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Control, Node, PATIENCE, binary};

async fn token(control: &Control, name: &str, scopes: &[&str]) -> (String, String) {
    let new = json!({ "name": name, "scopes": scopes });
    let made = control.post("/admin/tokens", &control.admin, new).await;
    let made = made.with(201);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_under_its_own_name() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (_, read) = token(&control, "dashboard", &["read"]).await;
    let (_, invites) = token(&control, "front-desk", &["invites"]).await;
    let (_, audit) = token(&control, "auditor", &["audit"]).await;
    let (_, nodes) = token(&control, "ops", &["nodes", "audit"]).await;
    for (bearer, path, allowed) in [
        (&read, "/admin/nodes", true),
        (&read, "/admin/audit", true),
        (&read, "/admin/ticket-keys", true),
        (&read, "/admin/tokens", false),
        (&invites, "/admin/invites", true),
        (&invites, "/admin/nodes", false),
        (&invites, "/admin/audit", false),
        (&audit, "/admin/audit", true),
        (&audit, "/admin/sessions", false),
        (&nodes, "/admin/sessions", true),
        (&nodes, "/admin/audit", true),
        (&nodes, "/admin/invites", false),
    ] {
        let answer = control.get(path, bearer).await;
        if allowed {
            answer.with(200);
        } else {
            let problem = answer.refused(403, "not_authorized");
            assert!(
                problem["detail"]
                    .as_str()
                    .unwrap()
                    .contains("this token is for")
            );
        }
    }
    let new = || json!({ "node": node.id });
    control
        .post("/admin/invites", &read, new())
        .await
        .refused(403, "not_authorized");
    control
        .post("/admin/invites", &invites, new())
        .await
        .with(201);
    for path in ["/admin/backup", "/admin/ticket-keys"] {
        control
            .post(path, &nodes, json!({}))
            .await
            .refused(403, "not_authorized");
    }
    let events = control.audit("&kind=invite.created").await;
    assert_eq!(events[0]["actor"]["id"], "front-desk");
}

#[tokio::test]
async fn a_token_is_shown_once_ends_and_is_revoked() {
    let mut control = Control::start();
    let admin = control.admin.clone();
    let soon = time::OffsetDateTime::now_utc().unix_timestamp() + 2;
    let soon = totoro_api::ticket::rfc3339(soon);
    let short = json!({ "name": "short", "scopes": ["read"], "expires_at": soon });
    let short = control.post("/admin/tokens", &admin, short).await.with(201);
    let short = short["token"].as_str().unwrap().to_owned();
    control.get("/admin/nodes", &short).await.with(200);
    let (id, text) = token(&control, "other", &["all", "read", "all"]).await;
    control.get("/admin/tokens", &text).await.with(200);

    // Names are unique, fields are checked.
    let again = json!({ "name": "other", "scopes": ["read"] });
    control
        .post("/admin/tokens", &admin, again)
        .await
        .refused(409, "conflict");
    for bad in [
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "x", "scopes": ["moon"] }),
        json!({ "name": "a/b", "scopes": ["read"] }),
        json!({ "name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z" }),
        json!({ "name": "x", "scopes": ["read"], "moon": 1 }),
    ] {
        let answer = control.post("/admin/tokens", &admin, bad).await;
        answer.refused(400, "request_malformed");
    }

    // The list has no secret in it, and says when each was last used; that survives a restart.
    let listed = control.get("/admin/tokens", &admin).await;
    assert!(!listed.text.contains("ta1-"), "{}", listed.text);
    assert!(control.terminate().success());
    control.restart();
    let listed = control.get("/admin/tokens", &admin).await.with(200);
    let items = listed["items"].as_array().unwrap();
    let names: Vec<&str> = items
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["init", "other", "short"]);
    assert_eq!(items[1]["scopes"], json!(["read", "all"]));
    assert!(
        items.iter().all(|item| item["last_used_at"].is_string()),
        "{items:?}"
    );

    // Its time comes.
    let began = std::time::Instant::now();
    while control.get("/admin/nodes", &short).await.status.as_u16() != 401 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }

    // The last one that may do everything stays; with another it may go.
    let init = items[0]["id"].as_str().unwrap();
    let path = format!("/admin/tokens/{id}");
    assert_eq!(control.delete(&path, &admin).await.status.as_u16(), 204);
    control
        .delete(&path, &admin)
        .await
        .refused(404, "not_found");
    control
        .get("/admin/tokens", &text)
        .await
        .refused(401, "not_authorized");
    let path = format!("/admin/tokens/{init}");
    control.delete(&path, &admin).await.refused(409, "conflict");
    let (_, next) = token(&control, "next", &["all"]).await;
    assert_eq!(control.delete(&path, &next).await.status.as_u16(), 204);
    control.get("/admin/tokens", &next).await.with(200);
    control.admin = next;
    let mut kinds = control.kinds("&kind=admin.").await;
    kinds.retain(|kind| kind.starts_with("admin.token_"));
    assert_eq!(
        kinds,
        [
            "admin.token_created",
            "admin.token_created",
            "admin.token_revoked",
            "admin.token_created",
            "admin.token_revoked"
        ]
    );
}

#[tokio::test]
async fn a_token_is_made_once_per_key() {
    let control = Control::start();
    let make = |body: Value| {
        let control = &control;
        async move {
            let headers = [("idempotency-key", "k-1")];
            control
                .call_with(
                    "POST",
                    "/admin/tokens",
                    &control.admin,
                    Some(body),
                    &headers,
                )
                .await
        }
    };
    let new = || json!({ "name": "x", "scopes": ["read"] });
    let made = make(new()).await.with(201);
    assert_eq!(make(new()).await.with(201), made);
    make(json!({ "name": "y", "scopes": ["read"] }))
        .await
        .refused(409, "conflict");
    let id = made["id"].as_str().unwrap();
    control
        .delete(&format!("/admin/tokens/{id}"), &control.admin)
        .await;
    make(new()).await.refused(404, "not_found");
    assert_eq!(control.kinds("&kind=admin.token_created").await.len(), 1);
}

#[tokio::test]
async fn a_new_ticket_key_is_pushed_before_it_signs() {
    let control = Control::start();
    let (node, idle) = (
        control.node("n1").await,
        control.enrolled("n2", json!({})).await,
    );
    let (_, code) = control.invite(&node, json!({})).await;
    let state = node.come_up(&control).await;
    let list = || async {
        control
            .get("/admin/ticket-keys", &control.admin)
            .await
            .with(200)
    };
    let first = list().await;
    assert_eq!(
        (
            &first["items"][0]["signs_for"],
            &first["items"][0]["waiting"]
        ),
        (&json!(1), &json!([idle.id]))
    );
    let rotate = || async {
        let headers = [("idempotency-key", "k-1")];
        control
            .call_with("POST", "/admin/ticket-keys", &control.admin, None, &headers)
            .await
            .with(201)
    };
    let rotated = rotate().await;
    assert_eq!(rotate().await["items"], rotated["items"], "once per key");
    let (new, old) = (&rotated["items"][0], &rotated["items"][1]);
    assert_eq!(old["kid"], first["items"][0]["kid"]);
    assert_eq!(
        (&new["acknowledged"], &new["signs_for"]),
        (&json!(0), &json!(0))
    );

    // Tickets come from the old one until the node has the new one.
    control.oauth(&code).await.with(200);
    let delta = control
        .get(&Node::watch_from(&state, "5s"), &node.key)
        .await
        .with(200);
    assert_eq!(delta["keys"].as_array().unwrap().len(), 2);
    // It may be of the next second, so that it is newer than the one before.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    node.come_up(&control).await;
    let after = list().await;
    assert_eq!(
        (
            &after["items"][0]["signs_for"],
            &after["items"][1]["signs_for"]
        ),
        (&json!(1), &json!(0))
    );
    control.oauth(&code).await.with(200);
    let events = control.audit("&kind=admin.ticket_key_rotated").await;
    assert_eq!(
        (events.len(), &events[0]["detail"]["kid"]),
        (1, &new["kid"])
    );
}

#[tokio::test]
async fn a_node_is_removed_with_all_that_it_has() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    let made = control
        .post("/nodes/invites", &node.key, json!({ "count": 700 }))
        .await
        .with(201);
    let revoked = made["items"][0]["id"].as_str().unwrap();
    control
        .delete(&format!("/nodes/invites/{revoked}"), &node.key)
        .await
        .with(200);
    let (_, others) = control.invite(&other, json!({})).await;
    let ban = json!({ "prefix": "192.0.2.0/24", "until": "2999-01-01T00:00:00Z" });
    control.post("/nodes/bans", &node.key, ban).await.with(201);
    let path = format!("/admin/nodes/{}", node.id);
    let admin = control.admin.as_str();
    control
        .call("DELETE", &path, admin, None)
        .await
        .refused(428, "request_malformed");
    control
        .call_with("DELETE", &path, admin, None, &[("if-match", "\"1\"")])
        .await
        .refused(412, "conflict");
    assert_eq!(control.delete(&path, admin).await.status.as_u16(), 204);

    control.delete(&path, admin).await.refused(404, "not_found");
    control.get(&path, admin).await.refused(404, "node_unknown");
    control
        .post("/nodes/heartbeat", &node.key, node.heartbeat())
        .await
        .refused(401, "not_authorized");
    let code = made["items"][5]["code"].as_str().unwrap();
    let resolve = |code: &str| {
        let (control, body) = (&control, json!({ "code": code }));
        async move { control.post("/invites/resolve", "", body).await }
    };
    assert!(resolve(code).await.status.is_client_error());
    resolve(&others).await.with(200);

    // All of its invites are revoked, each with its event, and once.
    let began = std::time::Instant::now();
    let by = |kind: &str| format!("&node={}&kind={kind}", node.id);
    while control.kinds(&by("invite.revoked")).await.len() < 700 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    let events = control.audit(&by("invite.revoked")).await;
    assert_eq!(events.len(), 700);
    assert!(
        events[1..]
            .iter()
            .all(|event| event["actor"]["kind"] == "admin")
    );
    assert_eq!(control.kinds(&by("admin.node_deleted")).await.len(), 1);
    let active = control
        .get("/admin/invites?state=active", admin)
        .await
        .with(200);
    assert_eq!(active["items"].as_array().unwrap().len(), 1);

    // Its name is free.
    control.enrolled("n1", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands() {
    let control = Control::start();
    control.node("n1").await;
    let run = |arguments: &[&str]| {
        let output = Command::new(binary())
            .args(arguments)
            .env("TOTORO_API", &control.api)
            .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let create = [
        "token",
        "create",
        "--name",
        "x",
        "--scopes",
        "read,audit",
        "--expires",
        "90d",
    ];
    let made = run(&create);
    assert!(
        made.contains("ta1-") && made.contains("read,audit"),
        "{made}"
    );
    let made: Value = serde_json::from_str(&run(&[
        "token", "create", "--name", "y", "--scopes", "all", "--json",
    ]))
    .unwrap();
    assert!(run(&["token", "list"]).contains("with the installation"));
    run(&["token", "revoke", made["id"].as_str().unwrap()]);
    run(&["ticket-key", "rotate"]);
    assert_eq!(run(&["ticket-key", "list"]).lines().count(), 3);
    assert!(run(&["session", "list"]).contains("SESSION"));
    run(&["node", "delete", "n1"]);
    assert_eq!(run(&["node", "list"]).lines().count(), 1);
}
