//! `POST /invites/resolve` and `/invites/usage`: for whoever holds a code, which travels in the
//! body only.

use std::sync::Arc;

use totoro_api::wire::invite::Code;
use warp::Filter as _;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain};
use super::{Answer, Api, reply};
use crate::app::holder::Visitor;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(
            api,
            warp::path!("invites" / "resolve").and(warp::post()).boxed(),
            resolve,
        ),
        plain(
            api,
            warp::path!("invites" / "usage").and(warp::post()).boxed(),
            usage,
        ),
    ])
}

async fn resolve(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    api.limiters.resolve.check(incoming.address())?;
    let Code { code } = incoming.json(BODY_LIMIT).await?;
    api.check_code(&incoming, &code)?;
    let visitor = Visitor {
        address: incoming.address(),
        request_id: incoming.request_id(),
    };
    Ok(reply::ok(&api.app.resolve(&code, visitor).await?))
}

async fn usage(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    api.limiters.resolve.check(incoming.address())?;
    let Code { code } = incoming.json(BODY_LIMIT).await?;
    api.check_code(&incoming, &code)?;
    Ok(reply::ok(&api.app.usage(&code)?))
}
