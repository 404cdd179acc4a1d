//! A node's policy as server-sent events.

mod reader;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::support::{Control, Node, PATIENCE, answer};
use reader::Stream;

/// The ids of the invites in a state.
fn invites(state: &Value) -> Vec<&str> {
    let items = state["invites"].as_array().unwrap();
    items
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect()
}

/// What a client that stands at this state says in `Last-Event-ID`.
fn id_of(state: &Value) -> String {
    format!("{}-{}", state["gen"], state["rev"])
}

async fn limit(control: &Control, node: &Node, invite: &str, conns: u32) {
    let body = json!({ "limits": { "max_conns": conns } });
    let path = format!("/nodes/invites/{invite}");
    control.patch(&path, &node.key, body).await.with(200);
}

/// Waits until nobody watches.
async fn nobody_watches(control: &Control) {
    let began = Instant::now();
    loop {
        let url = format!("{}/metrics", control.api);
        let figures = answer(control.http.get(url).bearer_auth(&control.admin)).await;
        if figures.text.contains("\ntotoro_watchers 0\n") {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{}", figures.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_snapshot_then_what_changes() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (first, _) = control.invite(&node, json!({})).await;
    let mut stream = control.stream(&node, None).await;
    let headers = stream.headers();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-accel-buffering"], "no");

    let snapshot = stream.event().await;
    assert!(stream.aside[0].starts_with("retry:"), "{:?}", stream.aside);
    assert_eq!(
        (snapshot.name.as_str(), &snapshot.state["snapshot"]),
        ("snapshot", &json!(true))
    );
    assert_eq!(snapshot.id, id_of(&snapshot.state));
    assert_eq!(invites(&snapshot.state), [first.as_str()]);
    // The same as a poll is answered with.
    assert_eq!(
        control.get("/nodes/watch", &node.key).await.with(200),
        snapshot.state
    );

    let (second, _) = control.invite(&node, json!({})).await;
    let made = stream.event().await;
    assert_eq!(
        (made.name.as_str(), &made.state["snapshot"]),
        ("changes", &json!(false))
    );
    assert_eq!(invites(&made.state), [second.as_str()]);
    limit(&control, &node, &first, 7).await;
    let changed = stream.event().await;
    assert_eq!(changed.state["invites"][0]["limits"]["max_conns"], 7);
    assert_ne!(changed.id, made.id);
    // What is another node's is nothing to this one.
    let other = control.node("n2").await;
    control.invite(&other, json!({})).await;
    stream.silent(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn who_comes_back_goes_on_where_it_was() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (invite, _) = control.invite(&node, json!({})).await;
    let id = control.stream(&node, None).await.event().await.id;

    let mut nothing_new = control.stream(&node, Some(&id)).await;
    nothing_new.silent(Duration::from_millis(200)).await;
    limit(&control, &node, &invite, 3).await;
    assert_eq!(nothing_new.event().await.name, "changes");

    let missed = control.stream(&node, Some(&id)).await.event().await;
    assert_eq!(missed.name, "changes");
    assert_eq!(invites(&missed.state), [invite.as_str()]);
    // A first connection has no header to say it in.
    let (generation, rev) = id.split_once('-').unwrap();
    let url = format!(
        "{}/api/v1/nodes/watch?gen={generation}&rev={rev}",
        control.api
    );
    let request = control.http.get(url).bearer_auth(&node.key);
    let response = request.header("accept", "text/event-stream").send().await;
    let mut stream = Stream::of(response.unwrap());
    assert_eq!(stream.event().await.name, "changes");
}

#[tokio::test]
async fn a_gap_gives_a_snapshot() {
    let control = Control::start();
    let node = control.node("n1").await;
    control.invite(&node, json!({})).await;
    let snapshot = control.stream(&node, None).await.event().await;
    let (generation, rev) = snapshot.id.split_once('-').unwrap();
    let (generation, rev): (u64, u64) = (generation.parse().unwrap(), rev.parse().unwrap());
    for unknown in [
        // Of another incarnation of the store, as after a restore.
        format!("{}-{rev}", generation - 1),
        // That the log does not have, or not yet.
        format!("{generation}-1"),
        format!("{generation}-{}", rev + 1000),
        format!("{generation}-0"),
        // Nobody's.
        "17".to_owned(),
        "x-y".to_owned(),
        "+1--1".to_owned(),
        "99999999999999999999-1".to_owned(),
    ] {
        let event = control.stream(&node, Some(&unknown)).await.event().await;
        assert_eq!(event.name, "snapshot", "{unknown}");
        assert_eq!(event.id, snapshot.id, "{unknown}");
    }
}

#[tokio::test]
async fn a_slow_reader_gets_what_is_newest() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (invite, _) = control.invite(&node, json!({})).await;
    // Its invites are more than sockets and buffers hold.
    for part in 0..4 {
        let body = json!({ "count": 1000, "label": format!("{part} {{n}}") });
        control
            .post("/nodes/invites", &node.key, body)
            .await
            .with(201);
    }
    let slow = TcpSocket::new_v4().unwrap();
    slow.set_recv_buffer_size(16 * 1024).unwrap();
    let address = control.api.strip_prefix("http://").unwrap().parse();
    let slow = slow.connect(address.unwrap()).await.unwrap();
    let mut slow = slow.into_std().unwrap();
    slow.set_nonblocking(false).unwrap();
    let request = format!(
        "GET /api/v1/nodes/watch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         accept: text/event-stream\r\n\r\n",
        node.key
    );
    slow.write_all(request.as_bytes()).unwrap();
    // The snapshot has begun, and is not read.
    slow.read_exact(&mut [0; 64]).unwrap();
    let changes = 50;
    for conns in 1..=changes {
        limit(&control, &node, &invite, conns).await;
    }
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let last = format!("\"max_conns\":{changes}");
    let read = tokio::task::spawn_blocking(move || {
        let (mut whole, mut part) = (Vec::new(), vec![0; 1 << 20]);
        loop {
            let count = slow.read(&mut part).unwrap();
            assert!(count > 0, "it ended before the last change");
            whole.extend_from_slice(&part[..count]);
            let end = &whole[whole.len().saturating_sub(4096)..];
            if String::from_utf8_lossy(end).contains(&last) {
                return String::from_utf8_lossy(&whole).into_owned();
            }
        }
    });
    let read = read.await.unwrap();
    assert_eq!(read.matches("event:snapshot").count(), 1);
    let changes = read.matches("event:changes").count();
    assert!(
        (1..=5).contains(&changes),
        "{changes} events for 50 changes"
    );
}

#[tokio::test]
async fn a_node_holds_few_streams_and_polls_together() {
    let control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = control.stream(&node, None).await;
        stream.event().await;
        streams.push(stream);
    }
    assert_eq!(
        control.open_stream(&node.key, None).await.status().as_u16(),
        429
    );
    let poll = Node::watch_from(&state, "1s");
    control
        .get(&poll, &node.key)
        .await
        .refused(429, "rate_limited");
    // Another node has its own.
    let other = control.node("n2").await;
    control.stream(&other, None).await.event().await;
    drop(streams);
    nobody_watches(&control).await;
    control.get(&poll, &node.key).await.with(204);
}

#[tokio::test]
async fn a_stream_ends_after_its_time_and_another_goes_on() {
    let mut control = Control::start();
    control.reconfigure(&[("stream_life = \"1h\"", "stream_life = \"1s\"")]);
    let node = control.node("n1").await;
    let mut stream = control.stream(&node, None).await;
    let id = stream.event().await.id;
    assert!(stream.next().await.is_none(), "a whole end, not a cut");
    control.invite(&node, json!({})).await;
    let event = control.stream(&node, Some(&id)).await.event().await;
    assert_eq!(event.name, "changes");
}

#[tokio::test]
async fn all_streams_end_with_the_process_at_once() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    let mut stream = control.stream(&node, None).await;
    let id = stream.event().await.id;
    assert!(control.terminate().success());
    assert!(stream.next().await.is_none(), "a whole end, not a cut");
    // And go on after it: a restart is no new incarnation.
    control.restart();
    let (invite, _) = control.invite(&node, json!({})).await;
    let event = control.stream(&node, Some(&id)).await.event().await;
    assert_eq!(
        (event.name.as_str(), invites(&event.state)),
        ("changes", vec![invite.as_str()])
    );
}

#[tokio::test]
async fn a_removed_nodes_stream_and_poll_end() {
    let control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let mut stream = control.stream(&node, None).await;
    stream.event().await;
    let poll = Node::watch_from(&state, "20s");
    let removed = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let path = format!("/admin/nodes/{}", node.id);
        control.delete(&path, &control.admin).await.with(204)
    };
    let (polled, _) = tokio::join!(control.get(&poll, &node.key), removed);
    polled.refused(401, "not_authorized");
    assert!(stream.next().await.is_none());
    assert_eq!(
        control.open_stream(&node.key, None).await.status().as_u16(),
        401
    );
}

#[tokio::test]
async fn an_ended_key_gets_no_event_more() {
    let control = Control::start();
    let node = control.node("n1").await;
    let mut stream = control.stream(&node, None).await;
    stream.event().await;
    let new = Node::new(&node.id);
    let body = json!({ "key_hash": blake3::hash(new.key.as_bytes()).to_hex().as_str() });
    control
        .post("/nodes/self/key", &node.key, body)
        .await
        .with(200);
    // Until the new one is used, the old one goes on.
    let (invite, _) = control.invite(&node, json!({})).await;
    assert_eq!(invites(&stream.event().await.state), [invite.as_str()]);
    control.invite(&new, json!({})).await;
    assert!(stream.next().await.is_none());
    assert_eq!(
        control.stream(&new, None).await.event().await.name,
        "snapshot"
    );

    // One who enrols anew takes the node over.
    let mut former = control.stream(&new, None).await;
    former.event().await;
    let path = format!("/admin/nodes/{}/token", node.id);
    let made = control.post(&path, &control.admin, json!({})).await.body;
    let token = made["token"].as_str().unwrap();
    let next = Node::new(&node.id);
    control
        .post("/nodes/enroll", token, next.enrolment())
        .await
        .with(200);
    assert!(former.next().await.is_none());
}

#[tokio::test]
async fn what_a_node_applied_is_shown() {
    let control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let path = format!("/admin/nodes/{}", node.id);
    let shown = control.get(&path, &control.admin).await.with(200);
    assert_eq!(
        shown["policy"],
        json!({ "gen": state["gen"], "rev": state["rev"] })
    );
    let kid = &state["keys"][0]["kid"];
    let mut applied = json!({ "gen": state["gen"], "rev": state["rev"], "keys": [kid] });
    assert_eq!(shown["applied"], applied);

    applied["error"] = json!("TENANTS: map full");
    control
        .post("/nodes/applied", &node.key, applied.clone())
        .await
        .with(204);
    for (path, key) in [(path.as_str(), &control.admin), ("/nodes/self", &node.key)] {
        let shown = control.get(path, key).await.with(200);
        assert_eq!(shown["applied"], applied);
        assert_eq!(shown["state"], "degraded");
    }
}
