//! `/api/v1/admin/tokens` and `/api/v1/admin/ticket-keys`.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::admin::{NewToken, TicketKeyPage, Token, TokenPage, TokenScope};
use warp::http::StatusCode;

use super::about::About;
use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain, with_id};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, at!(get, "tokens"), listing(), list),
        plain(api, at!(post, "tokens"), creating(), create),
        with_id(api, at!(delete, "tokens" / String), revoking(), revoke),
        plain(api, at!(get, "ticket-keys"), showing_keys(), keys_now),
        plain(api, at!(post, "ticket-keys"), rotating(), rotate),
    ])
}

fn about(summary: &'static str) -> About {
    About::new(Scope::Admin, summary)
}

fn listing() -> About {
    about("The admins' tokens")
        .answer::<TokenPage>(200, "All of them, in the order of their names.")
        .refuses(&[Reason::RequestMalformed])
}

fn creating() -> About {
    let example = NewToken {
        name: "helpdesk".to_owned(),
        scopes: vec![TokenScope::Read, TokenScope::Invites],
        expires_at: Some("2030-01-31T12:00:00Z".to_owned()),
    };
    about("Make a token")
        .says(
            "Its name is the actor of what it does in the audit trail. A time of expiry must be to \
               come.",
        )
        .body(BODY_LIMIT, &example)
        .idempotent()
        .answer::<Token>(201, "The token is shown this once.")
        .refuses(&[Reason::Conflict, Reason::NotFound])
}

fn revoking() -> About {
    about("Revoke a token")
        .says("The last one that may do everything stays.")
        .idempotent()
        .empty(204, "Revoked.")
        .refuses(&[Reason::NotFound, Reason::Conflict])
}

fn showing_keys() -> About {
    about("The keys that tickets are signed with")
        .says("Their public sides, and which nodes know each.")
        .answer::<TicketKeyPage>(200, "Those that may sign or still verify, newest first.")
        .refuses(&[Reason::RequestMalformed])
}

fn rotating() -> About {
    about("A new key for tickets")
        .says("It signs for a node once that node has acknowledged it.")
        .idempotent()
        .answer::<TicketKeyPage>(201, "All keys, the new one first.")
        .refuses(&[Reason::Conflict])
}

async fn list(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    incoming.query()?.done()?;
    Ok(reply::ok(&api.app.tokens()?))
}

async fn create(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewToken>(BODY_LIMIT).await?;
    let request = format!("token {text}");
    let request = incoming.idempotency(&request)?;
    let made = api.app.create_token(&caller, &new, request).await?;
    Ok(reply::with(StatusCode::CREATED, &made))
}

async fn revoke(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let request = incoming.asked("");
    let request = incoming.idempotency(&request)?;
    api.app.revoke_token(&caller, &id, request).await?;
    Ok(reply::nothing())
}

async fn keys_now(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    incoming.query()?.done()?;
    Ok(reply::ok(&api.app.ticket_key_list()?))
}

async fn rotate(api: Arc<Api>, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let request = incoming.idempotency("rotate")?;
    let keys = api.app.rotate_ticket_key(&caller, request).await?;
    Ok(reply::with(StatusCode::CREATED, &keys))
}
