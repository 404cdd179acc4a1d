//! `…/sessions`, for a node's key and for admins (who name the node to kick on).

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::session::SessionPage;

use super::about::{About, string};
use super::incoming::Incoming;
use super::route::{Route, any_of, at, plain, with_id};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    let all = at!(get, "sessions");
    any_of([
        plain(api, all, listing(scope), move |api, incoming| {
            list(api, scope, incoming)
        }),
        with_id(
            api,
            at!(delete, "sessions" / String),
            kicking(scope),
            move |api, id, incoming| kick(api, scope, id, incoming),
        ),
    ])
}

fn listing(scope: Scope) -> About {
    About::new(scope, "Who is on")
        .says("As the nodes last reported it.")
        .of_node()
        .paged(string().pattern(Some(r"\.")))
        .answer::<SessionPage>(
            200,
            "A page, in the order of the nodes' ids and the sessions'.",
        )
}

fn kicking(scope: Scope) -> About {
    About::new(scope, "End a session")
        .says(
            "Its node does it as soon as it hears of it. An admin names the node. Kicking it again \
               changes nothing; its ticket still admits a new one.",
        )
        .on_node()
        .idempotent()
        .empty(204, "It is to end.")
        .refuses(&[Reason::NotFound, Reason::RateLimited])
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let (node, cursor, limit) = (query.take("node"), query.take("cursor"), query.limit()?);
    query.done()?;
    let page = (cursor.as_deref(), limit);
    Ok(reply::ok(&api.app.sessions(
        &caller,
        node.as_deref(),
        page,
    )?))
}

async fn kick(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let node = query.take("node");
    query.done()?;
    let request = incoming.asked("");
    let request = incoming.idempotency(&request)?;
    let kicked = api.app.kick(&caller, node.as_deref(), &id, request);
    kicked.await?;
    Ok(reply::nothing())
}
