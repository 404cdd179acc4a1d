//! Tickets: resolved, fetched by OAuth, anonymous; and why there is none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use totoro_api::ticket::{Claims, Grant, Keys, Revision, verify};

use crate::support::{Answer, Control, Node};

/// The claims of a ticket, checked as the node does: with the keys of its desired state.
fn claims(ticket: &Value, node: &Node, state: &Value) -> Claims {
    let keys: Keys = serde_json::from_value(state["keys"].clone()).unwrap();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let verified = verify(ticket.as_str().unwrap(), &node.id, &keys, now).unwrap();
    assert!(!verified.expired);
    verified.claims
}

#[track_caller]
fn oauth_refused(answer: &Answer, status: u16, error: &str, line: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.body["error"], error, "{}", answer.text);
    let description = answer.body["error_description"].as_str().unwrap();
    assert!(description.starts_with(line), "{description}");
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_code_resolves_to_all_that_its_holder_needs() {
    let control = Control::start();
    let node = control
        .enrolled("n1", json!({ "defaults": { "max_proxies": 3 } }))
        .await;
    let mut heartbeat = node.heartbeat();
    heartbeat["tls_ca"] = json!("-----BEGIN CERTIFICATE-----\n…\n");
    control
        .post("/nodes/heartbeat", &node.key, heartbeat.clone())
        .await
        .with(200);
    let (id, code) = control
        .invite(
            &node,
            json!({
                "limits": { "max_conns": 5, "ports": ["20010-20019"] },
                "expires_at": "2100-01-01T00:00:00Z",
            }),
        )
        .await;
    let state = node.come_up(&control).await;
    heartbeat["tenants"] = json!([{ "tenant": id, "conns": 2, "refused": { "max_conns": 7 } }]);
    control
        .post("/nodes/heartbeat", &node.key, heartbeat)
        .await
        .with(200);

    let sloppy = code.to_lowercase().replace('-', "").replace('0', "o");
    let body = json!({ "code": sloppy });
    let resolved = control
        .post("/invites/resolve", "", body.clone())
        .await
        .with(200);
    assert_eq!(resolved["invite"], id.as_str());
    assert_eq!(resolved["invite_expires_at"], "2100-01-01T00:00:00Z");
    assert_eq!(resolved["node"], node.id.as_str());
    assert_eq!(resolved["limits"]["max_conns"], 5);
    assert_eq!(resolved["limits"]["max_proxies"], 3, "the node's default");
    assert_eq!(resolved["usage"]["conns"], 2);
    assert!(
        resolved["tls_ca"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN")
    );

    let claims = claims(&resolved["ticket"], &node, &state);
    assert_eq!(claims.grant, Grant::Invite(id.clone()));
    assert_eq!((claims.epoch, claims.exp - claims.iat), (1, 3600));
    assert_eq!(claims.session_until - claims.iat, 86_400);
    assert_eq!(claims.limits.max_conns, Some(5));
    assert_eq!(claims.subject, "127.0.0.1");
    let stands = Revision {
        generation: state["gen"].as_u64().unwrap(),
        rev: state["rev"].as_u64().unwrap(),
    };
    assert_eq!(
        claims.revision, stands,
        "the node has applied what the ticket stands on"
    );

    let toml: toml::Table = resolved["frpc_toml"].as_str().unwrap().parse().unwrap();
    assert_eq!(toml["serverAddr"].as_str(), Some("192.0.2.1"));
    assert_eq!(toml["user"].as_str(), Some(id.as_str()));
    assert_eq!(
        toml["auth"]["oidc"]["clientSecret"].as_str(),
        Some(code.as_str())
    );
    let text = resolved["frpc_toml"].as_str().unwrap();
    assert!(
        text.contains("# trustedCaFile = ") && text.contains("# remotePort = 20010"),
        "{text}"
    );
    assert!(resolved["command"].as_str().unwrap().contains(&code));

    let usage = control.post("/invites/usage", "", body).await.with(200);
    assert_eq!(
        (&usage["conns"], &usage["refused"]["max_conns"]),
        (&json!(2), &json!(7))
    );
}

#[tokio::test]
async fn frpc_fetches_by_oauth_both_ways() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control.invite(&node, json!({})).await;
    let state = node.come_up(&control).await;

    let answer = control.oauth(&code).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let token = answer.with(200);
    assert_eq!(
        (&token["token_type"], &token["expires_in"]),
        (&json!("Bearer"), &json!(3600))
    );
    let first = claims(&token["access_token"], &node, &state);
    assert_eq!(first.grant, Grant::Invite(id.clone()));

    // Go's client library: form-encoded halves in a Basic header first.
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = STANDARD.encode(format!("totoro:{}", encode(&code)));
    let request = control
        .http
        .post(format!("{}/api/v1/oauth/token", control.api))
        .header("authorization", format!("Basic {basic}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials");
    let token = crate::support::answer(request).await.with(200);
    assert_ne!(claims(&token["access_token"], &node, &state).jti, first.jti);
    let query = format!("&invite={id}&kind=ticket.");
    assert_eq!(
        control.kinds(&query).await,
        ["ticket.issued", "ticket.issued"]
    );

    let wrong = control.oauth("tn1-000000000000000000000").await;
    oauth_refused(&wrong, 401, "invalid_client", "totoro[invite_unknown]: ");
    let typo = control.oauth("tn1-000000000000000000001").await;
    oauth_refused(
        &typo,
        401,
        "invalid_client",
        "totoro[invite_unknown]: the invite code has a typing",
    );
    oauth_refused(
        &control.oauth("").await,
        401,
        "invalid_client",
        "totoro[invite_unknown]: ",
    );
    let request = control
        .http
        .post(format!("{}/api/v1/oauth/token", control.api))
        .body("grant_type=password");
    let other = crate::support::answer(request).await;
    oauth_refused(
        &other,
        400,
        "unsupported_grant_type",
        "totoro[request_malformed]: ",
    );
}

#[tokio::test]
async fn each_state_refuses_by_its_reason_and_leaves_its_events() {
    let control = Control::start();
    let node = control.node("n1").await;
    let past = "2001-01-01T00:00:00Z";
    for (change, reason) in [
        (json!({ "state": "paused" }), "invite_paused"),
        (json!({ "expires_at": past }), "invite_expired"),
        (Value::Null, "invite_revoked"),
    ] {
        let (id, code) = control.invite(&node, json!({})).await;
        let path = format!("/nodes/invites/{id}");
        match change {
            Value::Null => control.delete(&path, &node.key).await.with(200),
            change => control.patch(&path, &node.key, change).await.with(200),
        };
        let answer = control
            .post("/invites/resolve", "", json!({ "code": code }))
            .await;
        answer.refused(403, reason);
        let answer = control.oauth(&code).await;
        oauth_refused(
            &answer,
            401,
            "invalid_client",
            &format!("totoro[{reason}]: "),
        );
        let events = control
            .audit(&format!("&invite={id}&reason={reason}"))
            .await;
        let refusals: Vec<&Value> = events
            .iter()
            .filter(|event| event["kind"] != "invite.expired")
            .collect();
        assert_eq!(refusals.len(), 2, "{events:?}");
        assert_eq!(refusals[0]["kind"], "invite.resolve_refused");
        assert_eq!(refusals[1]["kind"], "ticket.refused");
        for event in refusals {
            assert_eq!(event["client"], "127.0.0.1");
            assert_eq!(event["node"], node.id.as_str());
            assert!(event["request_id"].is_string());
        }
    }
}

#[tokio::test]
async fn no_ticket_before_the_node_knows_the_key() {
    let control = Control::start();
    let node = control
        .enrolled("n1", json!({ "visibility": "public" }))
        .await;
    let (_, code) = control.invite(&node, json!({})).await;
    let body = json!({ "code": code });
    let refused = control.post("/invites/resolve", "", body.clone()).await;
    let retry = refused.headers["retry-after"].clone();
    let problem = refused.refused(503, "node_offline");
    assert!(
        problem["detail"].as_str().unwrap().contains("ticket key"),
        "{problem}"
    );
    assert_eq!(retry, "10");
    let answer = control.oauth(&code).await;
    oauth_refused(
        &answer,
        503,
        "temporarily_unavailable",
        "totoro[node_offline]: ",
    );

    // A key that is none of ours acknowledges nothing.
    let applied = json!({ "gen": 1, "rev": 1, "keys": ["other"] });
    control
        .post("/nodes/applied", &node.key, applied)
        .await
        .with(204);
    control
        .post("/invites/resolve", "", body.clone())
        .await
        .refused(503, "node_offline");
    node.come_up(&control).await;
    control.post("/invites/resolve", "", body).await.with(200);
}

#[tokio::test]
async fn public_nodes_are_listed_and_open() {
    let control = Control::start();
    let public =
        json!({ "visibility": "public", "public_limits": { "max_conns": 3 }, "region": "eu" });
    let node = control.enrolled("open", public).await;
    let state = node.come_up(&control).await;
    control.node("closed").await;
    let list = control.get("/public/nodes", "").await.with(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let shown = &list["items"][0];
    assert_eq!(
        (&shown["name"], &shown["state"]),
        (&json!("open"), &json!("online"))
    );
    assert_eq!(
        (&shown["grade"], &shown["versions"]["agent"]),
        (&json!("kernel"), &json!("0.1.0"))
    );
    assert_eq!(shown["free_ports"], json!({ "tcp": 100, "udp": 100 }));
    assert_eq!(shown["public_limits"], json!({ "max_conns": 3 }));

    let mut users = std::collections::BTreeSet::new();
    for name in ["open", node.id.as_str()] {
        let given = control
            .post(&format!("/public/nodes/{name}/ticket"), "", json!({}))
            .await
            .with(200);
        let claims = claims(&given["ticket"], &node, &state);
        assert_eq!(claims.grant, Grant::Public(true));
        assert_eq!(claims.session_until - claims.iat, 4 * 3600);
        assert_eq!(claims.limits.max_conns, Some(3));
        let toml: toml::Table = given["frpc_toml"].as_str().unwrap().parse().unwrap();
        let user = toml["user"].as_str().unwrap_or_default().to_owned();
        assert!(user.starts_with("public-"), "{user}");
        assert!(
            users.insert(user),
            "two visitors would want the same proxy names"
        );
        let secret = toml["auth"]["oidc"]["clientSecret"].as_str().unwrap();
        assert_eq!(secret, format!("public:{}", node.id));
        let token = control.oauth(secret).await.with(200);
        assert_eq!(
            super::tickets::claims(&token["access_token"], &node, &state).grant,
            Grant::Public(true)
        );
    }
    // A private node and one that does not exist cannot be told apart.
    for name in ["closed", "nowhere", "a%2Fb"] {
        let path = format!("/public/nodes/{name}/ticket");
        control
            .post(&path, "", json!({}))
            .await
            .refused(404, "node_unknown");
    }
    let answer = control.oauth("public:closed").await;
    oauth_refused(&answer, 401, "invalid_client", "totoro[node_unknown]: ");

    let path = format!("/admin/nodes/{}", node.id);
    control
        .patch(&path, &control.admin, json!({ "draining": true }))
        .await
        .with(200);
    let answer = control
        .post("/public/nodes/open/ticket", "", json!({}))
        .await;
    answer.refused(503, "node_draining");
    control
        .patch(&path, &control.admin, json!({ "disabled": true }))
        .await
        .with(200);
    assert_eq!(
        control.get("/public/nodes", "").await.with(200)["items"],
        json!([])
    );
    let answer = control
        .post("/public/nodes/open/ticket", "", json!({}))
        .await;
    answer.refused(403, "node_disabled");
}

#[tokio::test]
async fn a_banned_address_gets_no_ticket() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (_, code) = control.invite(&node, json!({})).await;
    let body = json!({ "prefix": "127.0.0.0/8" });
    let ban = control.post("/nodes/bans", &node.key, body).await.with(201);
    let code = json!({ "code": code });
    control
        .post("/invites/resolve", "", code.clone())
        .await
        .refused(403, "client_banned");
    control
        .delete(
            &format!("/nodes/bans/{}", ban["id"].as_str().unwrap()),
            &node.key,
        )
        .await;
    control.post("/invites/resolve", "", code).await.with(200);
}

#[tokio::test]
async fn a_ticket_never_outlives_its_invite() {
    let control = Control::start();
    let node = control.node("n1").await;
    let soon = time::OffsetDateTime::now_utc().unix_timestamp() + 600;
    let (_, code) = control
        .invite(
            &node,
            json!({ "expires_at": totoro_api::ticket::rfc3339(soon) }),
        )
        .await;
    let state = node.come_up(&control).await;
    let token = control.oauth(&code).await.with(200);
    let claims = claims(&token["access_token"], &node, &state);
    assert_eq!((claims.exp, claims.session_until), (soon, soon));
    assert!(token["expires_in"].as_i64().unwrap() <= 600);
}
