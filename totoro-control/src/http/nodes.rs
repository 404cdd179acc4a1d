//! What a node's daemon sends: enrolment, heartbeats, what it applied, its events.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::ticket::Revision;
use totoro_api::wire::event::{EventBatch, EventsAccepted, NodeEvent, Subject, kind};
use totoro_api::wire::node::{Enroll, Enrolled, Heartbeat, HeartbeatAnswer};
use totoro_api::wire::push::Applied;

use super::about::{About, Who};
use super::incoming::{BATCH_LIMIT, BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain};
use super::{Answer, Api, ApiError, Scope, reply};
use crate::app::Failure;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, at!(post, "heartbeat"), reporting(), heartbeat),
        plain(api, at!(post, "events"), telling(), events),
        plain(api, at!(post, "applied"), applying(), applied),
        plain(api, at!(post, "enroll"), enrolling(), enroll),
    ])
}

/// What counts as one event of a node's allowance, bytes of its request: a larger one takes more of the
/// trail.
const EVENT_BYTES: usize = 256;
/// As an installation of the examples calls itself.
const INSTANCE: &str = "00112233445566778899aabbccddeeff";

fn reporting() -> About {
    let heartbeat = Heartbeat {
        instance: INSTANCE.to_owned(),
        agent_version: "0.1.0".to_owned(),
        frps_version: "0.70.1".to_owned(),
        ..Heartbeat::default()
    };
    About::new(Scope::Node, "A heartbeat")
        .says(
            "What is unknown here is ignored, what is too long is cut. A second installation that \
               shows the same key is a `conflict`.",
        )
        .body(BATCH_LIMIT, &heartbeat)
        .answer::<HeartbeatAnswer>(200, "The newest policy's revision, and the clock.")
        .refuses(&[Reason::Conflict, Reason::NodeUnknown])
}

fn telling() -> About {
    let event = NodeEvent {
        seq: 1,
        at_ms: 1_900_000_000_000,
        boot: "6d0f3c1e-0000-4000-8000-000000000000".to_owned(),
        subject: Subject {
            kind: kind::SESSION_OPENED.to_owned(),
            client: Some("192.0.2.7".to_owned()),
            detail: serde_json::json!({}),
            ..Subject::default()
        },
    };
    let batch = EventBatch {
        spool: INSTANCE.to_owned(),
        after: 0,
        events: vec![event],
    };
    About::new(Scope::Node, "Events for the audit trail")
        .says("The next ones of a spool, in the order of their `seq`; each lands once. Those before a \
               gap that no `audit.lost` closes are a `conflict`, which names the expected `seq`. A node that \
               sends too many has to wait (`rate.events`): they stay in its spool.")
        .body(BATCH_LIMIT, &batch)
        .answer::<EventsAccepted>(200, "All up to `seq` are durable.")
        .refuses(&[Reason::Conflict])
}

fn applying() -> About {
    let applied = Applied {
        revision: Revision {
            generation: 1,
            rev: 17,
        },
        keys: vec!["k1".to_owned()],
        error: None,
    };
    About::new(Scope::Node, "What the node stands at")
        .says("Tickets for it are signed only with a key that it names here.")
        .body(BODY_LIMIT, &applied)
        .empty(204, "Noted.")
}

fn enrolling() -> About {
    let enroll = Enroll {
        key_hash: blake3::hash(b"the text of the key").to_hex().to_string(),
        instance: INSTANCE.to_owned(),
        callback: false,
    };
    About::new(Who::Newcomer, "Enrol a machine as a node")
        .says(
            "The key is made by the node; only its hash travels. The token is good once; the same \
               request again is fine until the key is first used.",
        )
        .body(BODY_LIMIT, &enroll)
        .answer::<Enrolled>(
            200,
            "It is the node now; whatever was it before is not any more.",
        )
        .refuses(&[Reason::Conflict])
}

async fn heartbeat(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let heartbeat: Heartbeat = incoming.json(BATCH_LIMIT).await?;
    let node = api.app.node_record(caller.node(None)?)?;
    Ok(reply::ok(
        &api.app.heartbeat(&caller, node, heartbeat).await?,
    ))
}

async fn events(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let (batch, size) = incoming.json_and_size::<EventBatch>(BATCH_LIMIT).await?;
    // All nodes share one trail, whose oldest goes for what is new: none may have it to itself.
    let count = batch.events.len().max(size.div_ceil(EVENT_BYTES));
    api.limiters.events.check(caller.node(None)?, count)?;
    Ok(reply::ok(&api.app.accept_events(&caller, &batch).await?))
}

async fn applied(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let applied: Applied = incoming.json(BODY_LIMIT).await?;
    api.app.applied(&caller, &applied).await?;
    Ok(reply::nothing())
}

async fn enroll(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let address = incoming.address();
    let enroll: Enroll = incoming.json(BODY_LIMIT).await?;
    let token = incoming.bearer().unwrap_or_default();
    let enrolled = api
        .app
        .enrol(token, &enroll, address, incoming.request_id())
        .await;
    let wrong_key = |failure: &Failure| {
        failure
            .refusal()
            .is_some_and(|refusal| refusal.reason == Reason::NotAuthorized)
    };
    match enrolled {
        Ok(enrolled) => Ok(reply::ok(&enrolled)),
        Err(failure) if wrong_key(&failure) => Err(api.wrong_key(&incoming, failure)),
        Err(failure) => Err(ApiError::from(failure)),
    }
}
