//! Connections and what HTTP asks of a server.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Control, Node};

fn connect(control: &Control) -> TcpStream {
    let stream = TcpStream::connect(control.api.strip_prefix("http://").unwrap()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(25)))
        .unwrap();
    stream
}

/// What is read until the server closes.
async fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    let end = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(|_| rest)
    });
    end.await.unwrap().expect("the server closes it")
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let mut control = Control::start();
    control.reconfigure(&[(
        "connections_per_address = 256",
        "connections_per_address = 3",
    )]);
    let held: Vec<TcpStream> = (0..3).map(|_| connect(&control)).collect();
    assert!(until_closed(connect(&control)).await.is_empty());
    // Those that were there first still are: it was not closed for being silent.
    for stream in &held {
        stream.set_nonblocking(true).unwrap();
        let open = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(open.kind(), ErrorKind::WouldBlock);
    }
    drop(held);
    let began = Instant::now();
    loop {
        let url = format!("{}/healthz", control.api);
        if control.http.get(url).send().await.is_ok() {
            break;
        }
        assert!(began.elapsed() < crate::support::PATIENCE);
    }
}

#[tokio::test]
async fn a_node_holds_few_long_polls() {
    let control = Control::start();
    let node = control.node("n1").await;
    let state = node.come_up(&control).await;
    let poll = Node::watch_from(&state, "2s");
    let polls = || control.get(&poll, &node.key);
    let answers = futures_util::future::join_all((0..6).map(|_| polls())).await;
    let of = |status: u16| {
        answers
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    };
    assert_eq!((of(204), of(429)), (4, 2));
    assert_eq!(
        polls().await.status.as_u16(),
        204,
        "their places are free again"
    );
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let control = Control::start();
    let head = control.call("HEAD", "/public/nodes", "", None).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_weak_version_matches_nothing() {
    let control = Control::start();
    let node = control.node("n1").await;
    let (id, _) = control.invite(&node, json!({})).await;
    let path = format!("/nodes/invites/{id}");
    let etag = control.get(&path, &node.key).await.etag();
    let body = || Some(json!({ "note": "x" }));
    for (tag, status, code) in [
        (format!("W/{etag}"), 412, "conflict"),
        ("17".to_owned(), 400, "request_malformed"),
    ] {
        let headers = [("if-match", tag.as_str())];
        let answer = control
            .call_with("PATCH", &path, &node.key, body(), &headers)
            .await;
        answer.refused(status, code);
    }
}
