//! `…/bans`, for a node's key and for admins (who may ban on all nodes).

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::ban::{BanEntry, BanPage, NewBan};

use super::about::{About, string};
use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain, with_id};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    let (post, get) = (at!(post, "bans"), at!(get, "bans"));
    any_of([
        plain(api, post, adding(scope), move |api, incoming| {
            add(api, scope, incoming)
        }),
        plain(api, get, listing(scope), move |api, incoming| {
            list(api, scope, incoming)
        }),
        with_id(
            api,
            at!(delete, "bans" / String),
            lifting(scope),
            move |api, id, incoming| lift(api, scope, id, incoming),
        ),
    ])
}

fn adding(scope: Scope) -> About {
    let example = NewBan {
        node: None,
        prefix: "192.0.2.0/24".to_owned(),
        until: Some("2030-01-31T12:00:00Z".to_owned()),
        note: "scans".to_owned(),
    };
    About::new(scope, "Ban an address or a prefix")
        .says(
            "What comes from it reaches neither the pool nor frps. An admin who names no node bans \
               on all of them.",
        )
        .body(BODY_LIMIT, &example)
        .idempotent()
        .answer::<BanEntry>(201, "The ban.")
        .refuses(&[Reason::NodeUnknown, Reason::Conflict])
}

fn listing(scope: Scope) -> About {
    About::new(scope, "Bans that hold")
        .says("For an admin who names no node: those of all nodes together.")
        .of_node()
        .paged(string())
        .answer::<BanPage>(200, "A page, in the order of the ids.")
}

fn lifting(scope: Scope) -> About {
    About::new(scope, "Lift a ban")
        .of_node()
        .idempotent()
        .empty(204, "Lifted.")
        .refuses(&[Reason::NotFound])
}

async fn add(api: Arc<Api>, scope: Scope, mut incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewBan>(BODY_LIMIT).await?;
    let request = format!("ban {text}");
    let request = incoming.idempotency(&request)?;
    let made = api.app.add_ban(&caller, &new, request).await?;
    Ok(reply::with(warp::http::StatusCode::CREATED, &made))
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let (node, cursor, limit) = (query.take("node"), query.take("cursor"), query.limit()?);
    query.done()?;
    Ok(reply::ok(&api.app.bans(
        &caller,
        node.as_deref(),
        cursor.as_deref(),
        limit,
    )?))
}

async fn lift(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let node = query.take("node");
    query.done()?;
    let request = incoming.asked("");
    let request = incoming.idempotency(&request)?;
    let lifted = api.app.lift_ban(&caller, node.as_deref(), &id, request);
    lifted.await?;
    Ok(reply::nothing())
}
