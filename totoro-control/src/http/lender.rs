//! The lender's own view of the node: describing it, draining it, a new key.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::node::{ChangeSelf, KeyRotated, NewKey, Node};

use super::about::About;
use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, at!(get, "self"), showing(), show),
        plain(api, at!(patch, "self"), changing(), change),
        plain(api, at!(post, "self" / "key"), rotating(), new_key),
    ])
}

fn showing() -> About {
    About::new(Scope::Node, "The node itself")
        .answer::<Node>(200, "The node.")
        .versioned(200)
        .refuses(&[Reason::NodeUnknown])
}

fn changing() -> About {
    let change = ChangeSelf {
        draining: Some(true),
        ..ChangeSelf::default()
    };
    About::new(Scope::Node, "Change what a lender may change")
        .says(
            "What is absent stays. Whether the node is public, its addresses and its pool are an \
               admin's to say.",
        )
        .if_match()
        .body(BODY_LIMIT, &change)
        .idempotent()
        .answer::<Node>(200, "The node as it is now.")
        .versioned(200)
        .refuses(&[
            Reason::NotFound,
            Reason::NodeUnknown,
            Reason::PortOutsidePool,
        ])
}

fn rotating() -> About {
    let key_hash = blake3::hash(b"the text of the new key")
        .to_hex()
        .to_string();
    About::new(Scope::Node, "A new key, made by the node")
        .says(
            "Only its hash travels. The key that comes with this request works on until the new \
               one's first use, 24 hours at most.",
        )
        .body(BODY_LIMIT, &NewKey { key_hash })
        .answer::<KeyRotated>(200, "The new key is good from now on.")
        .refuses(&[Reason::Conflict])
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
    let (change, text) = incoming.json_and_text::<ChangeSelf>(BODY_LIMIT).await?;
    let request = incoming.asked(&text);
    let request = incoming.idempotency(&request)?;
    let node = api.app.change_self(&caller, version, change, request);
    let node = node.await?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

/// Which key came with the request matters here: it is the one that is replaced.
async fn new_key(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let new: NewKey = incoming.json(BODY_LIMIT).await?;
    let shown = incoming.bearer().unwrap_or_default();
    Ok(reply::ok(&api.app.rotate_key(&caller, shown, &new).await?))
}
