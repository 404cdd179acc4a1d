//! A policy that can't hold here, or whose applying failed, and the control plane that mends it,
//! over HTTP.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use totoro_api::wire::push::InviteState::Active;
use totoro_api::wire::push::{Applied, DesiredState};

use super::world::world;
use crate::control::Control;
use crate::session::Desk;
use crate::sync;

/// The node's next request: its path and query behind the API's root, its body, and whom to answer.
struct Asked {
    path: String,
    body: Value,
    stream: TcpStream,
}

async fn next(listener: &TcpListener) -> Asked {
    let patience = Duration::from_secs(60);
    let asked = tokio::time::timeout(patience, listener.accept()).await;
    let mut reader = BufReader::new(asked.expect("it asks").unwrap().0);
    let mut first = String::new();
    reader.read_line(&mut first).await.unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.unwrap();
    let path = first.split(' ').nth(1).unwrap();
    Asked {
        path: path.strip_prefix("/api/v1/nodes").unwrap().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        stream: reader.into_inner(),
    }
}

impl Asked {
    async fn answer(mut self, state: Option<&DesiredState>) {
        let body = state.map_or_else(|| "{}".to_owned(), |it| serde_json::to_string(it).unwrap());
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        let answer = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// A control plane, and who follows it for this desk.
async fn follow(desk: &Arc<Desk>) -> (TcpListener, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let control = Control::new(&base, "key").unwrap();
    let desk = Arc::clone(desk);
    let following = tokio::spawn(async move {
        let mut stand = sync::Stand::default();
        loop {
            let _ = sync::step(&desk, &control, &mut stand).await;
        }
    });
    (listener, following)
}

fn after(state: &DesiredState) -> String {
    let (generation, rev) = (state.revision.generation, state.revision.rev);
    format!("/watch?wait=30s&gen={generation}&rev={rev}")
}

/// The node tells where it stands; its error.
async fn applied(listener: &TcpListener, of: &DesiredState) -> String {
    let told = next(listener).await;
    assert_eq!(told.path, "/applied");
    let report: Applied = serde_json::from_value(told.body.clone()).unwrap();
    assert_eq!(report.revision, of.revision);
    told.answer(None).await;
    report.error.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_asked_for_after_an_applying_that_panicked() {
    let mut world = world();
    let good = world.snapshot(&[("a", Active)]);
    let mut change = world.change();
    change.node = Some(world.node.clone());
    let whole = DesiredState {
        revision: change.revision,
        ..good.clone()
    };
    let (desk, kernel) = (Arc::new(world.desk), world.kernel);
    let (listener, following) = follow(&desk).await;
    next(&listener).await.answer(Some(&good)).await;
    assert_eq!(applied(&listener, &good).await, "");

    let second = next(&listener).await;
    assert_eq!(second.path, after(&good));
    kernel.maps().panicking = Some("set_hold");
    second.answer(Some(&change)).await;
    let third = next(&listener).await;
    assert_eq!(third.path, "/watch?wait=30s", "and nothing is told before");
    assert_eq!(desk.revision(), change.revision);
    kernel.maps().panicking = None;
    kernel.maps().tenants.clear();
    third.answer(Some(&whole)).await;
    assert_eq!(applied(&listener, &whole).await, "");
    assert!(!kernel.maps().tenants.is_empty(), "all of it is written");
    assert_eq!(next(&listener).await.path, after(&whole));
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_hold_is_told_and_its_mending_is_waited_for() {
    let mut world = world();
    let good = world.snapshot(&[("a", Active)]);
    let mut bad = world.snapshot(&[("a", Active), ("b", Active)]);
    // frps's own port.
    bad.node.as_mut().unwrap().pool.tcp = "6990-7010".parse().unwrap();
    let mended = world.snapshot(&[("a", Active), ("b", Active)]);
    let desk = Arc::new(world.desk);
    let (listener, following) = follow(&desk).await;

    let first = next(&listener).await;
    assert_eq!(first.path, "/watch?wait=30s", "it has nothing yet");
    first.answer(Some(&good)).await;
    assert_eq!(applied(&listener, &good).await, "");

    let second = next(&listener).await;
    assert_eq!(second.path, after(&good));
    second.answer(Some(&bad)).await;
    let error = applied(&listener, &good).await;
    assert!(error.contains("7000"), "{error}");

    // It waits for what comes after the bad one, and then asks for everything.
    let waiting = next(&listener).await;
    assert_eq!(waiting.path, after(&bad));
    waiting.answer(Some(&mended)).await;
    let whole = next(&listener).await;
    assert_eq!(whole.path, "/watch?wait=30s");
    assert_eq!(desk.revision(), good.revision);
    whole.answer(Some(&mended)).await;
    assert_eq!(applied(&listener, &mended).await, "");
    let on = next(&listener).await;
    assert_eq!(on.path, after(&mended));
    assert_eq!(desk.revision(), mended.revision);
    following.abort();
}
