//! Many invites at once, lists with filters, and codes for QR codes.

use std::collections::BTreeSet;
use std::process::Command;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Control, Node, binary};

async fn create(control: &Control, node: &Node, key: &str, body: Value) -> Answer {
    let headers = [("idempotency-key", key)];
    control
        .call_with("POST", "/nodes/invites", &node.key, Some(body), &headers)
        .await
}

fn texts(page: &Value, field: &str) -> BTreeSet<String> {
    let items = page["items"].as_array().unwrap().iter();
    items
        .map(|item| item[field].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_are_made_or_none_and_the_node_is_told_once() {
    let control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let body = json!({ "count": 1000, "label": "course {n}", "limits": { "max_conns": 2 } });
    let began = std::time::Instant::now();
    let made = create(&control, &node, "k-1", body.clone()).await.with(201);
    println!("1000 invites in {:?}", began.elapsed());
    let codes = texts(&made, "code");
    assert_eq!((codes.len(), texts(&made, "id").len()), (1000, 1000));
    assert_eq!(made["items"][41]["label"], "course 42");
    assert_eq!(made["items"][0]["version"], made["items"][999]["version"]);

    // One push has them all, as changes and not as a snapshot.
    let delta = control
        .get(&Node::watch_from(&state, "10s"), &node.key)
        .await
        .with(200);
    assert_eq!(delta["snapshot"], false);
    assert_eq!(delta["invites"].as_array().unwrap().len(), 1000);
    assert_eq!(delta["rev"], made["items"][0]["version"]);

    // A repeat answers the same, and changes nothing; another request is a conflict.
    let again = create(&control, &node, "k-1", body).await.with(201);
    assert_eq!(again, made);
    create(&control, &node, "k-1", json!({ "count": 3 }))
        .await
        .refused(409, "conflict");
    let created = format!("&node={}&kind=invite.created", node.id);
    let events = control.audit(&created).await;
    assert_eq!(events.len(), 1000, "one event for each");
    assert!(
        events
            .iter()
            .all(|event| event["actor"]["id"] == node.id.as_str())
    );

    for bad in [json!({ "count": 0 }), json!({ "count": 1001 })] {
        let answer = control.post("/nodes/invites", &node.key, bad).await;
        let problem = answer.refused(400, "request_malformed");
        assert!(problem["detail"].as_str().unwrap().contains("1 to 1000"));
    }
    let outside = json!({ "count": 5, "limits": { "ports": ["1-2"] } });
    let answer = control.post("/nodes/invites", &node.key, outside).await;
    answer.refused(422, "port_outside_pool");
    let listed = control.get("/nodes/invites?limit=1000", &node.key).await;
    let listed = listed.with(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1000);
    assert_eq!(listed["next"], Value::Null, "what was refused made none");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_comes_of_many_requests_with_one_key() {
    let control = Control::start();
    let node = control.node("n1").await;
    let body = json!({ "count": 20 });
    let asked = (0..16).map(|_| create(&control, &node, "k-1", body.clone()));
    let made: Vec<Value> = join_all(asked)
        .await
        .into_iter()
        .map(|answer| answer.with(201))
        .collect();
    assert!(made.iter().all(|one| *one == made[0]));
    let created = format!("&node={}&kind=invite.created", node.id);
    assert_eq!(control.kinds(&created).await.len(), 20);
}

#[tokio::test]
async fn a_code_from_a_qr_code_opens_what_the_code_opens() {
    let control = Control::start();
    let node = control.node("n1").await;
    // Enough that some end in a check symbol that is no letter or digit.
    let made = create(&control, &node, "k-1", json!({ "count": 40 })).await;
    for invite in made.with(201)["items"].as_array().unwrap() {
        let qr = invite["code_qr"].as_str().unwrap();
        assert!(
            qr.bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        );
        let resolved = control
            .post("/invites/resolve", "", json!({ "code": qr }))
            .await
            .with(200);
        assert_eq!(resolved["invite"], invite["id"]);
        let code = invite["code"].as_str().unwrap();
        assert!(resolved["frpc_toml"].as_str().unwrap().contains(code));
        control.oauth(qr).await.with(200);
    }
}

#[tokio::test]
async fn lists_are_filtered_by_label_and_state() {
    let control = Control::start();
    let (node, other) = (control.node("n1").await, control.node("n2").await);
    for label in ["Mei", "meister", "Ann"] {
        control.invite(&node, json!({ "label": label })).await;
    }
    let (paused, _) = control.invite(&other, json!({ "label": "mei" })).await;
    control
        .patch(
            &format!("/nodes/invites/{paused}"),
            &other.key,
            json!({ "state": "paused" }),
        )
        .await
        .with(200);
    let list = |query: &'static str, bearer: String| {
        let control = &control;
        let group = if bearer == control.admin {
            "admin"
        } else {
            "nodes"
        };
        async move {
            let path = format!("/{group}/invites?{query}");
            let page = control.get(&path, &bearer).await.with(200);
            page["items"].as_array().unwrap().len()
        }
    };
    assert_eq!(list("label=MEI", node.key.clone()).await, 2);
    assert_eq!(list("label=mei", control.admin.clone()).await, 3);
    assert_eq!(list("state=paused", control.admin.clone()).await, 1);
    assert_eq!(
        list("state=active&label=a&node=n1", control.admin.clone()).await,
        1
    );
    assert_eq!(list("state=revoked", control.admin.clone()).await, 0);
    control
        .get("/nodes/invites?state=frozen", &node.key)
        .await
        .refused(400, "request_malformed");

    // Pages go on behind a filter.
    let (mut cursor, mut seen) = (String::new(), 0);
    loop {
        let path = format!("/admin/invites?label=mei&limit=1{cursor}");
        let page = control.get(&path, &control.admin).await.with(200);
        seen += page["items"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_json_and_csv() {
    let control = Control::start();
    control.node("n1").await;
    let run = |more: &[&str]| {
        let output = Command::new(binary())
            .args(["invite", "create", "--node", "n1", "--count", "3"])
            .args(["--label", "a, {n}"])
            .args(more)
            .env("TOTORO_API", &control.api)
            .env("TOTORO_TOKEN_FILE", control.at().join("admin.token"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let made: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(made["items"].as_array().unwrap().len(), 3);
    let text = run(&["--csv"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, "id,label,code,qr,expires_at"));
    assert!(lines[2].contains(",\"a, 2\",tn1-"), "{text}");
    assert!(run(&[]).contains("TN1"));
}
