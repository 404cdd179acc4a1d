//! `/api/v1/admin/nodes`.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::ports::Pool;
use totoro_api::wire::node::{ChangeNode, NewNode, Node, NodeCreated, NodePage};

use super::about::{About, string};
use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain, with_id};
use super::{Answer, Api, Scope, reply};
use crate::app::checked_id;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, at!(post, "nodes"), creating(), create),
        plain(api, at!(get, "nodes"), listing(), list),
        with_id(api, at!(get, "nodes" / String), showing(), show),
        with_id(api, at!(patch, "nodes" / String), changing(), change),
        with_id(api, at!(delete, "nodes" / String), removing(), remove),
        with_id(
            api,
            at!(post, "nodes" / String / "token"),
            enrolling(),
            token,
        ),
    ])
}

fn about(summary: &'static str) -> About {
    About::new(Scope::Admin, summary)
}

/// The fields beside it are as a new node has them.
fn example() -> NewNode {
    let ports = || "20000-20099".parse().unwrap_or_default();
    NewNode {
        name: "n1".to_owned(),
        visibility: Default::default(),
        server_addr: vec!["n1.example.org:7000".to_owned()],
        pool: Pool {
            tcp: ports(),
            udp: ports(),
        },
        defaults: Default::default(),
        public_limits: Default::default(),
        public_max: Default::default(),
        region: "eu-west".to_owned(),
        isp: String::new(),
        tags: Vec::new(),
        abuse_contact: "abuse@example.org".to_owned(),
    }
}

fn creating() -> About {
    about("Make a node")
        .says(
            "It begins with a token that its daemon enrols with, once. Limits whose ports are not \
               in the pool are refused.",
        )
        .body::<NewNode>(BODY_LIMIT, &example())
        .idempotent()
        .answer::<NodeCreated>(201, "Made; the token is shown this once.")
        .tells(201, "Location", "Where the node is.")
        .refuses(&[Reason::Conflict, Reason::PortOutsidePool])
}

fn listing() -> About {
    about("All nodes")
        .paged(string())
        .answer::<NodePage>(200, "A page, in the order of the ids.")
}

fn showing() -> About {
    about("A node, by id or name")
        .answer::<Node>(200, "The node.")
        .versioned(200)
        .refuses(&[Reason::NodeUnknown])
}

fn changing() -> About {
    let change = ChangeNode {
        draining: Some(true),
        ..ChangeNode::default()
    };
    about("Change a node")
        .says(
            "What is absent stays. Its daemon is told at once. Only here a node becomes public, \
               is switched off, or gets other addresses and another pool.",
        )
        .if_match()
        .body(BODY_LIMIT, &change)
        .idempotent()
        .answer::<Node>(200, "The node as it is now.")
        .versioned(200)
        .refuses(&[Reason::NotFound, Reason::PortOutsidePool])
}

fn removing() -> About {
    about("Remove a node")
        .says("With its invites, sessions and bans; its part of the audit trail stays.")
        .if_match()
        .idempotent()
        .empty(204, "Removed.")
        .refuses(&[Reason::NotFound])
}

fn enrolling() -> About {
    about("A new enrolment token")
        .says("For a machine that takes the node over; tokens before it are void.")
        .idempotent()
        .answer::<NodeCreated>(201, "The token is shown this once.")
        .refuses(&[Reason::NotFound])
}

async fn create(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewNode>(BODY_LIMIT).await?;
    let request = format!("node {text}");
    let request = incoming.idempotency(&request)?;
    let made = api.app.create_node(&caller, new, request).await?;
    Ok(reply::created(
        &format!("/api/v1/admin/nodes/{}", made.id),
        &made,
    ))
}

async fn list(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    let mut query = incoming.query()?;
    let (cursor, limit) = (query.take("cursor"), query.limit()?);
    query.done()?;
    Ok(reply::ok(&api.app.nodes(cursor.as_deref(), limit)?))
}

async fn show(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    let node = api.app.node_view(api.app.node_named(&id)?)?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

async fn change(api: Arc<Api>, id: String, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let version = incoming.if_match()?;
    let (change, text) = incoming.json_and_text::<ChangeNode>(BODY_LIMIT).await?;
    let request = incoming.asked(&text);
    let request = incoming.idempotency(&request)?;
    let node = api
        .app
        .change_node(&caller, checked_id(&id)?, version, &change, request)
        .await?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

async fn remove(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let version = incoming.if_match()?;
    let id = checked_id(&id)?;
    let request = incoming.asked("");
    let request = incoming.idempotency(&request)?;
    api.app.delete_node(&caller, id, version, request).await?;
    Ok(reply::nothing())
}

async fn token(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let request = incoming.idempotency("token")?;
    let made = api
        .app
        .new_enrolment(&caller, checked_id(&id)?, request)
        .await?;
    Ok(reply::with(warp::http::StatusCode::CREATED, &made))
}
