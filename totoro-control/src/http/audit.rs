//! `…/audit`: a node sees its own trail, admins all of it. As pages, as a long poll for what comes
//! next (`wait`), or whole as NDJSON.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use totoro_api::Reason;
use totoro_api::wire::event::AuditPage;
use utoipa::PartialSchema as _;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use warp::reply::Reply as _;

use super::about::{About, formed, string};
use super::incoming::{Incoming, Query};
use super::route::{Route, at, plain};
use super::{Answer, Api, ApiError, Scope, reply};
use crate::app::{App, Reach};
use crate::audit::{Ask, Filter, Page, TrailError, read_id, write_id};
use crate::duration::Span;

/// One event a line.
const NDJSON: &str = "application/x-ndjson";
/// The longest wait: below what proxies on the way allow an answer to take.
const MAX_WAIT: Duration = Duration::from_secs(55);
/// When a node with too many open polls may try again, seconds.
const RETRY_S: u64 = 5;
/// Events read at once for an export: what it holds in memory.
const EXPORT_PAGE: usize = 1000;

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    let at = at!(get, "audit");
    plain(api, at, listing(scope), move |api, incoming| {
        list(api, scope, incoming)
    })
}

fn listing(scope: Scope) -> About {
    let id = || string().pattern(Some("^[0-9a-f]{28}$"));
    let flag = || string().enum_values(Some(["true", "false"]));
    About::new(scope, "The audit trail")
        .says("Oldest first. As pages; or, with `Accept: application/x-ndjson`, all that matches, one \
               event a line, as fast as you take it: `limit` is then as large as you like, the last \
               line's id is the cursor to go on from, and a transfer that breaks off was not whole.")
        .of_node()
        .query("invite", "Only what is about this invite.", string())
        .query("session", "Only what is about this session.", string())
        .query("kind", "Only this kind, like `session.opened`.", string())
        .query("reason", "Only refusals for this reason.", Reason::schema())
        .query("since", "From this time on.", formed("date-time"))
        .query("until", "Before this time.", formed("date-time"))
        .query("newest", "`true`: the newest page first, and so on back.", flag())
        .query("wait", "With the cursor in `follow`: wait so long (55s at most) for what comes next.", formed("span"))
        .paged(id())
        .answer::<AuditPage>(200, "A page, or an export.")
        .media(200, "", NDJSON, string())
        .refuses(&[Reason::NotFound])
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let named = query.take("node");
    let node = match (&caller.reach, named) {
        (Reach::All, None) => None,
        (Reach::All, Some(name)) => Some(api.app.node_ever(&name)?),
        (Reach::Node(_), named) => Some(caller.node(named.as_deref())?.to_owned()),
    };
    let filter = filter(node, &mut query)?;
    let cursor = match query.take("cursor") {
        Some(text) => Some(
            read_id(&text).ok_or_else(|| ApiError::malformed("query: cursor is none of ours"))?,
        ),
        None => None,
    };
    if incoming.accepts(NDJSON) {
        let limit = query.parse::<NonZeroU64>("limit")?;
        query.done()?;
        let ask = Ask {
            filter,
            cursor,
            limit: 0,
            newest: false,
        };
        let limit = limit.map_or(u64::MAX, NonZeroU64::get);
        return Ok(export(Arc::clone(&api.app), ask, limit));
    }
    // `newest=true`: the last ones instead of the first.
    let ask = Ask {
        filter,
        cursor,
        newest: query.parse("newest")?.unwrap_or(false),
        limit: query.limit()?,
    };
    let wait = query.parse::<Span>("wait")?;
    query.done()?;
    let page = match wait {
        Some(wait) => {
            let seat = match &caller.reach {
                Reach::Node(node) => api.polls.take(format!("audit/{node}")).map(Some),
                Reach::All => Some(None),
            };
            let _seat = seat.ok_or_else(|| ApiError::rate_limited(RETRY_S))?;
            let wait = wait.0.min(MAX_WAIT);
            let stopping = api.app.stopping();
            api.app.trail.page_or_wait(ask, wait, stopping).await?
        }
        None => api.app.trail.page(ask).await?,
    };
    Ok(reply::ok(&AuditPage {
        items: page.events,
        next: page.next.map(write_id),
        follow: page.follow.map(write_id),
        damaged: page.damaged,
    }))
}

fn filter(node: Option<String>, query: &mut Query<'_>) -> Result<Filter, ApiError> {
    let reason = match query.take("reason") {
        Some(code) => Some(
            Reason::from_code(&code).ok_or_else(|| ApiError::malformed("query: unknown reason"))?,
        ),
        None => None,
    };
    Ok(Filter {
        node,
        invite: query.take("invite"),
        session: query.take("session"),
        kind: query.take("kind"),
        reason,
        since_ms: time(query, "since")?,
        until_ms: time(query, "until")?,
    })
}

/// A time in a query, Unix milliseconds.
fn time(query: &mut Query<'_>, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = query.take(name) else {
        return Ok(None);
    };
    let at = time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339)
        .map_err(|_| ApiError::malformed(format!("query: {name}: write 2030-01-31T12:00:00Z")))?;
    let ms = at.unix_timestamp_nanos() / 1_000_000;
    Ok(i64::try_from(ms).ok())
}

/// All that matches up to the end of the trail, one event a line, read as fast as the client takes
/// it. A failure breaks the transfer off; the last line's id is the cursor to go on from.
fn export(app: Arc<App>, ask: Ask, limit: u64) -> warp::reply::Response {
    let mut response = warp::reply::stream(lines(app, ask, limit)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An export under way.
struct Export {
    app: Arc<App>,
    ask: Ask,
    left: u64,
    damaged: Vec<String>,
}

fn lines(
    app: Arc<App>,
    ask: Ask,
    limit: u64,
) -> impl Stream<Item = Result<Bytes, TrailError>> + Send + Sync {
    let export = Export {
        app,
        ask,
        left: limit,
        damaged: Vec::new(),
    };
    stream::try_unfold(Some(export), async |export| {
        let Some(mut export) = export else {
            return Ok(None);
        };
        if *export.app.stopping().borrow() {
            return Err(TrailError::Failed("the control plane is ending".to_owned()));
        }
        let most = usize::try_from(export.left).unwrap_or(usize::MAX);
        export.ask.limit = EXPORT_PAGE.min(most);
        let page = export.app.trail.page(export.ask.clone()).await?;
        export.left -= page.events.len() as u64;
        export.ask.cursor = page.next;
        let more = page.next.is_some() && export.left > 0;
        let lines = export.write(page, !more)?;
        Ok(Some((lines, more.then_some(export))))
    })
}

impl Export {
    /// The page's lines; after the last one those segments are named that miss something.
    fn write(&mut self, page: Page, last: bool) -> Result<Bytes, TrailError> {
        let mut lines = Vec::new();
        let failed = |error| TrailError::Failed(format!("an event cannot be written: {error}"));
        for event in &page.events {
            serde_json::to_writer(&mut lines, event).map_err(failed)?;
            lines.push(b'\n');
        }
        for name in page.damaged {
            if !self.damaged.contains(&name) {
                self.damaged.push(name);
            }
        }
        if last && !self.damaged.is_empty() {
            let damaged = serde_json::json!({ "damaged": self.damaged });
            lines.extend_from_slice(damaged.to_string().as_bytes());
            lines.push(b'\n');
        }
        Ok(lines.into())
    }
}
