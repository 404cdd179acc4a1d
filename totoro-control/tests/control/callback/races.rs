//! Many at once: exactly one wins.

use futures_util::future::join_all;
use serde_json::json;

use super::{Frps, Session, login_of, ticket};
use crate::support::Control;

const CLIENTS: usize = 64;

fn from(client: usize) -> String {
    format!("198.51.100.{}:1000", client + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_place_of_an_invite() {
    let control = Control::start();
    let frps = Frps::new(&control, "n1", json!({})).await;
    let limits = json!({ "limits": { "max_clients": 1 } });
    let (id, code) = control.invite(&frps.node, limits).await;
    let tickets = join_all((0..CLIENTS).map(|_| ticket(&control, &code))).await;
    let logins = tickets.iter().enumerate().map(|(client, ticket)| {
        let content = login_of(&id, ticket, &from(client));
        frps.login(&control, content)
    });
    let answers = join_all(logins).await;
    let won = answers
        .iter()
        .filter(|answer| answer["reject"] == false)
        .count();
    let lost = answers.iter().filter(|answer| {
        let said = answer["reject_reason"].as_str().unwrap();
        said.starts_with("totoro[max_clients]")
    });
    assert_eq!((won, lost.count()), (1, CLIENTS - 1), "{answers:?}");
    let kinds = control.kinds(&format!("&invite={id}&kind=session.")).await;
    let opened = kinds
        .iter()
        .filter(|kind| *kind == "session.opened")
        .count();
    assert_eq!((opened, kinds.len()), (1, CLIENTS), "one event each");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_port_of_a_node() {
    let control = Control::start();
    let small = json!({
        "pool": { "tcp": ["20000"], "udp": [] }, "defaults": { "max_clients": 100 },
    });
    let frps = Frps::new(&control, "n1", small).await;
    let (id, code) = control.invite(&frps.node, json!({})).await;
    let tickets = join_all((0..CLIENTS).map(|_| ticket(&control, &code))).await;
    let mut sessions = Vec::new();
    for (client, ticket) in tickets.iter().enumerate() {
        let content = login_of(&id, ticket, &from(client));
        sessions.push(Session::of(&frps.login(&control, content).await));
    }
    // Half of them name the port, half take any.
    let asking = sessions.iter().enumerate().map(async |(client, session)| {
        let (name, port) = (format!("p{client}"), 20_000 * i64::from(client % 2 == 0));
        frps.new_proxy(&control, session, (&name, "tcp", port))
            .await
    });
    let answers = join_all(asking).await;
    let won = answers
        .iter()
        .filter(|answer| answer["reject"] == false)
        .count();
    let lost = answers.iter().filter(|answer| {
        let said = answer["reject_reason"].as_str().unwrap();
        ["port_in_use", "pool_exhausted"]
            .iter()
            .any(|reason| said.starts_with(&format!("totoro[{reason}]")))
    });
    assert_eq!((won, lost.count()), (1, CLIENTS - 1), "{answers:?}");
    let kinds = control.kinds(&format!("&invite={id}&kind=proxy.")).await;
    let opened = kinds.iter().filter(|kind| *kind == "proxy.opened").count();
    assert_eq!((opened, kinds.len()), (1, CLIENTS), "one event each");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ticket_from_many_addresses() {
    let control = Control::start();
    let frps = Frps::new(
        &control,
        "n1",
        json!({ "defaults": { "max_clients": 100 } }),
    )
    .await;
    let (id, code) = control.invite(&frps.node, json!({})).await;
    let ticket = ticket(&control, &code).await;
    let logins = (0..CLIENTS).map(|client| {
        let content = login_of(&id, &ticket, &from(client));
        frps.login(&control, content)
    });
    let answers = join_all(logins).await;
    let won = answers
        .iter()
        .filter(|answer| answer["reject"] == false)
        .count();
    assert_eq!(won, 1, "{answers:?}");
}
