//! `POST /invites/resolve` and `/invites/usage`: for whoever holds a code, which travels in the
//! body only.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::invite::{Code, Resolved, Usage};

use super::about::{About, Who};
use super::incoming::{BODY_LIMIT, Incoming};
use super::public::UNAVAILABLE;
use super::route::{Route, any_of, at, plain};
use super::{Answer, Api, reply};
use crate::app::holder::Visitor;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, at!(post, "invites" / "resolve"), resolving(), resolve),
        plain(api, at!(post, "invites" / "usage"), looking(), usage),
    ])
}

fn about(summary: &'static str) -> About {
    let code = "tn1-0123-4567-89ab-cdef-ghjk-0".to_owned();
    About::new(Who::Holder, summary)
        .body(BODY_LIMIT, &Code { code })
        .refuses(&[
            Reason::InviteUnknown,
            Reason::RateLimited,
            Reason::Unsupported,
        ])
}

fn resolving() -> About {
    about("What a code is good for")
        .says(
            "The node, what holds, what is in use, a ticket, and a ready frpc.toml, which has the \
               code in it and so is a secret.",
        )
        .answer::<Resolved>(200, "All that its holder needs.")
        .refuses(UNAVAILABLE)
        .refuses(&[
            Reason::InviteRevoked,
            Reason::InviteExpired,
            Reason::InvitePaused,
            Reason::ClientBanned,
            Reason::NodeUnknown,
        ])
}

fn looking() -> About {
    about("What is in use under a code")
        .says("Sessions, leases, counts now, refusals by reason; also of an invite that is over.")
        .answer::<Usage>(200, "The usage.")
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
