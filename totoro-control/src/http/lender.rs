//! The lender's own view of the node: describing it, draining it, a new key.

use std::sync::Arc;

use totoro_api::wire::node::{ChangeSelf, NewKey};
use warp::Filter as _;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let own = || warp::path!("self");
    any_of([
        plain(api, own().and(warp::get()).boxed(), show),
        plain(api, own().and(warp::patch()).boxed(), change),
        plain(
            api,
            warp::path!("self" / "key").and(warp::post()).boxed(),
            new_key,
        ),
    ])
}

async fn show(api: Arc<Api>, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let node = api.app.node_record(caller.node(None)?)?;
    let node = api.app.node_view(node)?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

async fn change(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let version = incoming.if_match()?;
    let change: ChangeSelf = incoming.json(BODY_LIMIT).await?;
    let node = api.app.change_self(&caller, version, change).await?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

/// Which key came with the request matters here: it is the one that is replaced.
async fn new_key(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let new: NewKey = incoming.json(BODY_LIMIT).await?;
    let shown = incoming.bearer().unwrap_or_default();
    Ok(reply::ok(&api.app.rotate_key(&caller, shown, &new).await?))
}
