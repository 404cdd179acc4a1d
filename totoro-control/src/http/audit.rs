//! `…/audit`: a node sees its own trail, admins all of it.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::event::AuditPage;
use warp::Filter as _;

use super::incoming::{Incoming, Query};
use super::route::{Route, plain};
use super::{Answer, Api, ApiError, Scope, reply};
use crate::app::{Failure, Reach};
use crate::audit::{Filter, find};

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    plain(
        api,
        warp::path!("audit").and(warp::get()).boxed(),
        move |api, incoming| list(api, scope, incoming),
    )
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let named = query.take("node");
    let node = match (&caller.reach, named) {
        (Reach::All, None) => None,
        (Reach::All, Some(name)) => Some(api.app.node_named(&name)?.value.id),
        (Reach::Node(_), named) => Some(caller.node(named.as_deref())?.to_owned()),
    };
    let reason = match query.take("reason") {
        Some(code) => Some(
            Reason::from_code(&code).ok_or_else(|| ApiError::malformed("query: unknown reason"))?,
        ),
        None => None,
    };
    let filter = Filter {
        node,
        invite: query.take("invite"),
        session: query.take("session"),
        kind: query.take("kind"),
        reason,
        since_ms: time(&mut query, "since")?,
        until_ms: time(&mut query, "until")?,
    };
    // `newest=true`: the last ones instead of the first.
    let newest = query.parse("newest")?.unwrap_or(false);
    let (cursor, limit) = (query.take("cursor"), query.limit()?);
    query.done()?;
    if newest && cursor.is_some() {
        return Err(ApiError::malformed("query: newest has no cursor"));
    }
    let _turn = api.queries.acquire().await;
    // It may read for long: not on a thread that answers others.
    let app = Arc::clone(&api.app);
    let query = move || find(&*app.store, &filter, cursor.as_deref(), limit, newest);
    let found = tokio::task::spawn_blocking(query).await;
    let page = found
        .map_err(|_| Failure::from(Reason::Internal))??
        .ok_or_else(|| ApiError::malformed("query: cursor is none of ours"))?;
    Ok(reply::ok(&AuditPage {
        items: page.events,
        next: page.next,
    }))
}

/// A time in a query, Unix milliseconds.
fn time(query: &mut Query, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = query.take(name) else {
        return Ok(None);
    };
    let at = time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339)
        .map_err(|_| ApiError::malformed(format!("query: {name}: write 2030-01-31T12:00:00Z")))?;
    let ms = at.unix_timestamp_nanos() / 1_000_000;
    Ok(i64::try_from(ms).ok())
}
