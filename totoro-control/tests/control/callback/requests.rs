//! Who may ask, and what is no request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Frps, login_of, refused, ticket};
use crate::support::{Control, Node, answer};

const FROM: &str = "198.51.100.1:1111";

#[tokio::test]
async fn a_wrong_key_is_told_nothing() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let other = Frps::new(&control, "n2", json!({})).await;
    let nobody = Node::new("n-000000000000");
    let basic =
        |user: &str, key: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{key}")));
    let node = &frps.node;
    let mut bodies = Vec::new();
    for header in [
        None,
        Some("Basic !".to_owned()),
        Some(basic(&node.id, "")),
        Some(basic(&node.id, &nobody.key)),
        Some(basic(&nobody.id, &nobody.key)),
        Some(basic(&node.id, &other.node.key)),
        Some(basic(&other.node.id, &node.key)),
        Some(basic("", &node.key)),
        Some(basic(&node.id, &control.admin)),
        Some(format!("Bearer {}", node.key)),
    ] {
        for door in ["handshake", "proxy"] {
            let url = format!("{}/api/v1/frps/auth/{door}?op=Login", control.api);
            let mut request = control.http.post(url).body("{}");
            if let Some(header) = &header {
                request = request.header("authorization", header);
            }
            let mut body = answer(request).await.refused(401, "not_authorized");
            body["request_id"] = json!("");
            bodies.push(body);
        }
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]), "{bodies:?}");
    // The node's name does as well as its id.
    let url = format!("{}/api/v1/frps/auth/handshake?op=Login", control.api);
    let request = control.http.post(url).body("{}");
    let named = request.header("authorization", basic("n1", &node.key));
    answer(named).await.with(200);
}

#[tokio::test]
async fn what_is_no_request_is_a_refusal_with_a_reason() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let long = format!("{{\"x\": \"{}\"}}", "x".repeat(70_000));
    let deep = "[".repeat(5_000);
    for (reason, door, op, body) in [
        ("unsupported", "handshake", "NewProxy", "{}"),
        ("unsupported", "proxy", "Login", "{}"),
        ("unsupported", "proxy", "", "{}"),
        ("unsupported", "handshake", "%1b%5b2J", "{}"),
        ("request_malformed", "handshake", "Login", ""),
        ("request_malformed", "handshake", "Login", "null"),
        ("request_malformed", "handshake", "Login", "{}"),
        ("request_malformed", "handshake", "Login", deep.as_str()),
        ("request_malformed", "handshake", "Login&op=Ping", "{}"),
        (
            "request_malformed",
            "handshake",
            "Login",
            r#"{"version":"0.1.0","op":"Ping","content":{}}"#,
        ),
        (
            "request_malformed",
            "handshake",
            "Login",
            r#"{"version":"0.1.0","op":"Login","content":null}"#,
        ),
        ("request_too_large", "proxy", "NewProxy", long.as_str()),
    ] {
        let said = frps.ask_raw(&control, door, op, body.to_owned()).await;
        refused(&said, reason);
    }
    // Each is counted by its reason, although frps is always answered with 200.
    let url = control.api.clone() + "/metrics";
    let figures = answer(control.http.get(url).bearer_auth(&control.admin)).await;
    for (reason, count) in [
        ("unsupported", 4),
        ("request_malformed", 7),
        ("request_too_large", 1),
    ] {
        let line = format!("totoro_refusals_total{{reason=\"{reason}\"}} {count}\n");
        assert!(figures.text.contains(&line), "{line} in {}", figures.text);
    }
    for op in [
        "Login",
        "Ping",
        "NewWorkConn",
        "NewProxy",
        "CloseProxy",
        "NewUserConn",
    ] {
        for content in [json!(null), json!([]), json!("x")] {
            let said = frps.ask(&control, op, content).await;
            assert!(said["unchange"] == true, "{op}: {said}");
        }
    }
}

#[tokio::test]
async fn a_live_daemon_decides_itself() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, code) = control.invite(&node, json!({})).await;
    let ticket = ticket(&control, &code).await;
    let frps = Frps { node };
    let login = login_of(&id, &ticket, FROM);
    refused(&frps.login(&control, login.clone()).await, "conflict");
    for op in ["Ping", "NewWorkConn", "NewProxy", "NewUserConn"] {
        refused(&frps.ask(&control, op, json!({})).await, "conflict");
    }
    // Its daemon gone, frps may ask here, with the very same ticket.
    tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
    let answer = frps.login(&control, login.clone()).await;
    assert_eq!(answer["reject"], false, "{answer}");
    let path = format!("/admin/nodes/{}", frps.node.id);
    let shown = control.get(&path, &control.admin).await.with(200);
    assert_eq!(
        (&shown["grade"], &shown["state"]),
        (&json!("callback"), &json!("online"))
    );
    // And its daemon back, not any more.
    frps.node.beat(&control).await;
    refused(&frps.login(&control, login).await, "conflict");
    let shown = control.get(&path, &control.admin).await.with(200);
    assert_eq!(shown["grade"], "kernel");
}
