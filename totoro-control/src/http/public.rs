//! `/public/nodes`: for anyone.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::invite::PublicTicket;
use totoro_api::wire::node::PublicNodePage;

use super::about::{About, Who, string};
use super::incoming::Incoming;
use super::route::{Route, any_of, at, plain, with_id};
use super::{Answer, Api, reply};
use crate::app::holder::Visitor;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let ticket_of = at!(post, "nodes" / String / "ticket");
    any_of([
        plain(api, at!(get, "nodes"), listing(), list),
        with_id(api, ticket_of, asking(), ticket),
    ])
}

fn listing() -> About {
    About::new(Who::Anyone, "Public nodes")
        .says("Only those that the control plane has reached, with the addresses where it did.")
        .paged(string())
        .answer::<PublicNodePage>(200, "A page, in the order of the ids.")
        .refuses(&[Reason::RateLimited])
}

fn asking() -> About {
    About::new(Who::Anyone, "A ticket for a public node")
        .says(
            "Under the node's public limits, with a ready frpc.toml that fetches its own from then \
               on.",
        )
        .answer::<PublicTicket>(200, "The ticket.")
        .refuses(UNAVAILABLE)
        .refuses(&[
            Reason::NodeUnknown,
            Reason::ClientBanned,
            Reason::RateLimited,
        ])
}

/// Why a node issues no ticket now.
pub(super) const UNAVAILABLE: &[Reason] = &[
    Reason::NodeDisabled,
    Reason::NodeDraining,
    Reason::NodeOffline,
];

async fn list(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.limiters.public.check(incoming.address())?;
    let mut query = incoming.query()?;
    let (cursor, limit) = (query.take("cursor"), query.limit()?);
    query.done()?;
    Ok(reply::ok(
        &api.app.public_nodes(cursor.as_deref(), limit).await?,
    ))
}

async fn ticket(api: Arc<Api>, node: String, incoming: Incoming) -> Answer {
    api.limiters.public.check(incoming.address())?;
    let visitor = Visitor {
        address: incoming.address(),
        request_id: incoming.request_id(),
    };
    Ok(reply::ok(&api.app.public_access(&node, visitor).await?))
}
