//! `…/invites`, for a node's key and for admins.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::limits::Limits;
use totoro_api::wire::invite::{ChangeInvite, Invite, InvitePage, NewInvite};
use totoro_api::wire::push::InviteState;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};
use warp::reply::Response;

use super::about::{About, string};
use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain, with_id};
use super::{Answer, Api, Scope, reply};
use crate::app::invite_list::Filter;

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    any_of([
        plain(
            api,
            at!(post, "invites"),
            creating(scope),
            move |api, incoming| create(api, scope, incoming),
        ),
        plain(
            api,
            at!(get, "invites"),
            listing(scope),
            move |api, incoming| list(api, scope, incoming),
        ),
        with_id(
            api,
            at!(get, "invites" / String),
            showing(scope),
            move |api, id, incoming| show(api, scope, id, incoming),
        ),
        with_id(
            api,
            at!(patch, "invites" / String),
            changing(scope),
            move |api, id, incoming| change(api, scope, id, incoming),
        ),
        with_id(
            api,
            at!(delete, "invites" / String),
            revoking(scope),
            move |api, id, incoming| revoke(api, scope, id, incoming),
        ),
        with_id(
            api,
            at!(post, "invites" / String / "rotate"),
            rotating(scope),
            move |api, id, incoming| rotate(api, scope, id, incoming),
        ),
    ])
}

/// [`NewInvite`] of an admin, who has to name the node.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct NewInviteOn(NewInvite);

impl PartialSchema for NewInviteOn {
    fn schema() -> RefOr<Schema> {
        let node = ObjectBuilder::new()
            .property("node", string())
            .required("node");
        AllOfBuilder::new()
            .item(Ref::from_schema_name(NewInvite::name()))
            .item(node)
            .into()
    }
}

impl ToSchema for NewInviteOn {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((NewInvite::name().into_owned(), NewInvite::schema()));
        NewInvite::schemas(schemas);
    }
}

/// Limits that are refused: outside the pool, or past what the node can enforce.
const LIMITS: &[Reason] = &[Reason::PortOutsidePool, Reason::Unsupported];

fn creating(scope: Scope) -> About {
    let example = NewInvite {
        label: "a friend".to_owned(),
        limits: Limits {
            max_conns: Some(50),
            max_proxies: Some(2),
            ..Limits::default()
        },
        expires_at: Some("2030-01-31T12:00:00Z".to_owned()),
        ..NewInvite::default()
    };
    let about = About::new(scope, "Make an invite, or many");
    let about = match scope {
        Scope::Node => about.body(BODY_LIMIT, &example),
        Scope::Admin => about.body(
            BODY_LIMIT,
            &NewInviteOn(NewInvite {
                node: Some("n1".to_owned()),
                ..example
            }),
        ),
    };
    about
        .says(
            "With `count`, so many alike, and the answer is a page of them. A limit that the node \
               cannot enforce is refused. An admin names the node.",
        )
        .idempotent()
        .answers_either::<Invite, InvitePage>(201, "Made; the codes are shown this once.")
        .versioned(201)
        .tells(
            201,
            "Location",
            "Where the invite is; only for a single one.",
        )
        .refuses(LIMITS)
        .refuses(&[Reason::NodeUnknown, Reason::NotFound, Reason::Conflict])
        .refuses(&[Reason::MaxInvites])
}

fn listing(scope: Scope) -> About {
    let states = ["active", "paused", "revoked", "expired"];
    About::new(scope, "Invites")
        .says(
            "With a filter a page may be short, even empty, and there may be more all the same: \
               `next` says so.",
        )
        .of_node()
        .query("label", "What the label has in it, in any case.", string())
        .query(
            "state",
            "Their state now.",
            string().enum_values(Some(states)),
        )
        .paged(string().pattern(Some("^[A-Za-z0-9_-]{1,64}$")))
        .answer::<InvitePage>(200, "A page, in the order of the ids.")
        .refuses(&[Reason::NotFound])
}

fn showing(scope: Scope) -> About {
    About::new(scope, "An invite")
        .answer::<Invite>(200, "The invite; its code is not known any more.")
        .versioned(200)
        .refuses(&[Reason::NotFound])
}

fn changing(scope: Scope) -> About {
    let example = ChangeInvite {
        state: Some(InviteState::Paused),
        ..ChangeInvite::default()
    };
    About::new(scope, "Change an invite")
        .says(
            "What is absent stays. It holds for live sessions at once: lowering a limit below what \
               is in use refuses what is new and cuts nothing, pausing refuses what is new, an \
               earlier end may cut what lives.",
        )
        .if_match()
        .body(BODY_LIMIT, &example)
        .idempotent()
        .answer::<Invite>(200, "The invite as it is now.")
        .versioned(200)
        .refuses(LIMITS)
        .refuses(&[Reason::NotFound, Reason::InviteRevoked, Reason::NodeUnknown])
}

fn revoking(scope: Scope) -> About {
    About::new(scope, "Revoke an invite")
        .says(
            "Final, and what lives under it is cut. Its record stays for the audit trail. Revoking \
               it again changes nothing.",
        )
        .if_match()
        .idempotent()
        .answer::<Invite>(200, "The invite, revoked.")
        .versioned(200)
        .refuses(&[Reason::NotFound])
}

fn rotating(scope: Scope) -> About {
    About::new(scope, "A new code for the same invite")
        .says("The old one is void, and what lives under it is cut.")
        .if_match()
        .idempotent()
        .answer::<Invite>(
            200,
            "The invite with its new code, which is shown this once.",
        )
        .versioned(200)
        .refuses(&[Reason::NotFound, Reason::InviteRevoked])
}

async fn create(api: Arc<Api>, scope: Scope, mut incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewInvite>(BODY_LIMIT).await?;
    let request = format!("create {text}");
    let request = incoming.idempotency(&request)?;
    if let Some(count) = new.count {
        let made = api.app.create_invites(&caller, &new, count, request);
        return Ok(reply::with(warp::http::StatusCode::CREATED, &made.await?));
    }
    let made = api.app.create_invite(&caller, &new, request).await?;
    let group = match scope {
        Scope::Node => "nodes",
        Scope::Admin => "admin",
    };
    let location = format!("/api/v1/{group}/invites/{}", made.id);
    Ok(reply::versioned(
        reply::created(&location, &made),
        made.version,
    ))
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let (node, cursor, limit) = (query.take("node"), query.take("cursor"), query.limit()?);
    let filter = Filter::read(query.take("label"), query.take("state").as_deref())?;
    query.done()?;
    let page = api.app.invites(
        &caller,
        node.as_deref(),
        &filter,
        (cursor.as_deref(), limit),
    )?;
    Ok(reply::ok(&page))
}

async fn show(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    Ok(shown(&api.app.invite(&caller, &id)?))
}

async fn change(api: Arc<Api>, scope: Scope, id: String, mut incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let version = incoming.if_match()?;
    let (change, text) = incoming.json_and_text::<ChangeInvite>(BODY_LIMIT).await?;
    let request = incoming.asked(&text);
    let request = incoming.idempotency(&request)?;
    Ok(shown(
        &api.app
            .change_invite(&caller, &id, version, &change, request)
            .await?,
    ))
}

async fn revoke(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let version = incoming.if_match()?;
    let request = incoming.asked("");
    let request = incoming.idempotency(&request)?;
    Ok(shown(
        &api.app
            .revoke_invite(&caller, &id, version, request)
            .await?,
    ))
}

async fn rotate(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let version = incoming.if_match()?;
    let request = incoming.asked("");
    let request = incoming.idempotency(&request)?;
    Ok(shown(
        &api.app
            .rotate_invite(&caller, &id, version, request)
            .await?,
    ))
}

fn shown(invite: &Invite) -> Response {
    reply::versioned(reply::ok(invite), invite.version)
}
