//! `/metrics` and `/readyz` with the real binary.

use std::cell::Cell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Control, PATIENCE, answer};

async fn metrics(control: &Control, base: &str, token: &str) -> Answer {
    let mut request = control.http.get(format!("{base}/metrics"));
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    answer(request).await
}

/// The value of a series.
#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {series} in {text}"));
    found.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted() {
    let control = Control::start();
    let (node, _) = (
        control.node("n1").await,
        control.enrolled("n2", json!({})).await,
    );
    let (_, code) = control.invite(&node, json!({})).await;
    assert_eq!(control.oauth(&code).await.status.as_u16(), 200);
    assert_eq!(control.oauth("tn1-nobody").await.status.as_u16(), 401);
    let state = node.come_up(&control).await;
    let poll = crate::support::Node::watch_from(&state, "3s");
    let (_, told) = tokio::join!(control.get(&poll, &node.key), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        metrics(&control, &control.api, &control.admin).await
    });
    assert_eq!(told.status.as_u16(), 200, "{}", told.text);
    let kind = told.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = told.text.as_str();
    for (series, wanted) in [
        ("totoro_requests_total{route=\"oauth\",status=\"2xx\"}", 1.0),
        ("totoro_requests_total{route=\"oauth\",status=\"4xx\"}", 1.0),
        ("totoro_refusals_total{reason=\"invite_unknown\"}", 1.0),
        ("totoro_tickets_issued_total{to=\"invite\"}", 1.0),
        ("totoro_nodes{state=\"online\"}", 1.0),
        ("totoro_nodes{state=\"offline\"}", 1.0),
        ("totoro_watchers", 1.0),
        ("totoro_audit_moving", 1.0),
        ("totoro_audit_damaged_segments", 0.0),
        (
            "totoro_request_duration_seconds_count{route=\"oauth\"}",
            2.0,
        ),
    ] {
        let found = value(text, series);
        assert!((found - wanted).abs() < 0.1, "{series}: {found}\n{text}");
    }
    for series in [
        "totoro_store_commits_total",
        "totoro_store_batch_size_count",
        "totoro_store_sync_seconds_count",
        "totoro_process_resident_memory_bytes",
    ] {
        assert!(value(text, series) > 1.0, "{series}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    for secret in [&code, &control.admin, &node.key, &node.id] {
        assert!(!text.contains(secret.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look() {
    let mut control = Control::start();
    for token in ["", "ta1-wrong"] {
        let told = metrics(&control, &control.api, token).await;
        told.refused(401, "not_authorized");
    }
    for (scope, status) in [("read", 200), ("all", 200), ("nodes", 403)] {
        let new = json!({ "name": scope, "scopes": [scope] });
        let made = control.post("/admin/tokens", &control.admin, new).await;
        let token = made.with(201)["token"].as_str().unwrap().to_owned();
        let told = metrics(&control, &control.api, &token).await;
        assert_eq!(told.status.as_u16(), status, "{scope}: {}", told.text);
    }
    let admin = control.with_admin_address();
    let open = metrics(&control, &admin, "").await;
    assert_eq!(open.status.as_u16(), 200, "{}", open.text);
    let public = metrics(&control, &control.api, &control.admin).await;
    public.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_cannot_be_written_is_not_ready() {
    let mut control = Control::start();
    control.reconfigure(&[
        ("keep_mib = 4096", "keep_mib = 16"),
        ("move_every = \"1s\"", "move_every = \"10ms\""),
    ]);
    let node = control.node("n1").await;
    let (segments, aside) = (control.at().join("data/audit"), control.at().join("aside"));
    let seq = Cell::new(0_u64);
    // Enough to need a new segment, of 1 MiB at these settings, every few times.
    let tell = async || {
        let first = seq.get() + 1;
        seq.set(first + 499);
        let event =
            |seq: u64| json!({ "seq": seq, "at_ms": 0, "boot": "b", "kind": "conn.closed" });
        let events: Vec<Value> = (first..first + 500).map(event).collect();
        let body = json!({ "spool": "0".repeat(32), "events": events });
        control
            .post("/nodes/events", &node.key, body)
            .await
            .with(200);
    };
    let until = async |status: u16| {
        let began = Instant::now();
        loop {
            let request = control.http.get(format!("{}/readyz", control.api));
            let said = answer(request).await;
            if said.status.as_u16() == status {
                return said;
            }
            assert!(began.elapsed() < PATIENCE, "{}", said.text);
            tell().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(200).await;
    std::fs::rename(&segments, &aside).unwrap();
    // A file in its place: nobody can make a segment in it, whatever rights they have.
    std::fs::write(&segments, b"").unwrap();
    let said = until(503).await.refused(503, "internal");
    assert!(said["detail"].as_str().unwrap().contains("audit"), "{said}");
    let told = metrics(&control, &control.api, &control.admin).await;
    assert!(value(&told.text, "totoro_audit_moving").abs() < 0.1);
    std::fs::remove_file(&segments).unwrap();
    std::fs::rename(&aside, &segments).unwrap();
    until(200).await;
}
