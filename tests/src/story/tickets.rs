//! Item 8: logins whose ticket is wrong in some way, by stock frpc.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use totoro_api::Reason;
use totoro_api::ticket::SKEW_S;
use totoro_api::wire::invite::Invite;
use totoro_api::wire::node::{Enroll, NodeCreated};
use totoro_api::wire::push::{Applied, DesiredState};

use super::frpc::{self, Proxy};
use super::world::{FRPS_PORT, TICKET_TTL_S, World, ms};
use crate::lab::{CLIENT_V4_B, NODE_CLIENT_V4, Place};
use crate::net::user;
use crate::report::Report;

/// Named, so that it can't be one that a later item names.
const HELD_PORT: u16 = 20_058;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check("none", || {
        refused(world, "t-missing", "", Reason::TicketMissing)
    });
    report.check("garbage", || {
        refused(
            world,
            "t-garbage",
            "v4.public.bm90IGEgdGlja2V0",
            Reason::TicketMalformed,
        )
    });
    report.check("forged: one bit of the signature", || {
        let ticket = forge(&fresh(world)?)?;
        refused(world, "t-forged", &ticket, Reason::TicketForged)
    });
    report.check("of another node", || {
        let ticket = of_another_node(world)?;
        refused(world, "t-node", &ticket, Reason::TicketWrongNode)
    });
    report.check("in use from another address", || in_use(world));
    report.check(
        "pool_count = -100, which crashes an unprotected frps",
        || pool_count(world),
    );
    report.check("expired", || expired(world));
}

fn code(world: &World) -> Result<&str> {
    Ok(&world
        .other
        .as_ref()
        .context("there is no second invite from item 2")?
        .code)
}

fn user_name(world: &World) -> Result<&str> {
    Ok(&world
        .other
        .as_ref()
        .context("there is no second invite from item 2")?
        .invite
        .id)
}

fn fresh(world: &World) -> Result<String> {
    Ok(world.resolve(code(world)?)?.ticket)
}

fn refused(world: &World, name: &str, ticket: &str, reason: Reason) -> Result<String> {
    let text = frpc::with_ticket(user_name(world)?, ticket, "", &[]);
    frpc::login_refused(world, name, &text, reason)
}

/// The ticket with one bit of its signature turned: the payload's last 64 bytes, in base64url.
fn forge(ticket: &str) -> Result<String> {
    let mut parts: Vec<String> = ticket.split('.').map(str::to_owned).collect();
    let payload = parts.get_mut(2).context("the ticket has no payload")?;
    // Not the last symbol, some of whose bits mean nothing.
    let at = payload
        .len()
        .checked_sub(20)
        .context("the payload is too short")?;
    let other = if payload.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    payload.replace_range(at..=at, other);
    Ok(parts.join("."))
}

/// Makes a second node as its owner would, by REST alone, and fetches a ticket for it.
fn of_another_node(world: &World) -> Result<String> {
    let admin = world.admin()?;
    let node = json!({
        "name": "elsewhere", "server_addr": ["192.0.2.1:7000"],
        "pool": { "tcp": ["20000-20009"], "udp": ["20000-20009"] },
    });
    let created: NodeCreated = admin.post("/admin/nodes", &node)?;
    let mut random = [0; 48];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("random bytes: {error}"))?;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    // 43 symbols of base64url: hexadecimal digits are among them.
    let key = format!("tk1-{:.43}", hex(&random));
    let enroll = Enroll {
        key_hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        instance: hex(&random[..16]),
        callback: false,
    };
    let instance = enroll.instance.clone();
    let _: Value = world
        .anyone
        .with_token(&created.token)
        .post("/nodes/enroll", &enroll)?;
    let node = world.anyone.with_token(&key);
    let _: Value = node.post(
        "/nodes/heartbeat",
        &json!({ "instance": instance, "grade": "kernel" }),
    )?;
    let invite: Invite = node.post("/nodes/invites", &json!({ "label": "elsewhere" }))?;
    let state: DesiredState = node.get("/nodes/watch?wait=1s")?;
    let keys = state.keys.context("the snapshot has no ticket keys")?;
    let applied = Applied {
        revision: state.revision,
        keys: keys.into_iter().map(|key| key.kid).collect(),
        error: None,
    };
    node.send(
        reqwest::Method::POST,
        "/nodes/applied",
        Some(&applied),
        None,
    )?
    .success()?;
    let code = invite.code.context("the invite came without its code")?;
    Ok(world.resolve(&code)?.ticket)
}

fn in_use(world: &World) -> Result<String> {
    let ticket = fresh(world)?;
    let proxies = [Proxy::new("held", "tcp", world.backend.tcp, HELD_PORT)];
    let text = frpc::with_ticket(user_name(world)?, &ticket, "", &proxies);
    let first = frpc::up(world, "t-holder", &text, &proxies)?;
    let elsewhere = format!("transport.connectServerLocalIP = \"{CLIENT_V4_B}\"");
    let text = frpc::with_ticket(user_name(world)?, &ticket, &elsewhere, &[]);
    let said = frpc::login_refused(world, "t-inuse", &text, Reason::TicketInUse);
    first.stop();
    said
}

fn pool_count(world: &mut World) -> Result<String> {
    let ticket = fresh(world)?;
    let text = frpc::with_ticket(
        user_name(world)?,
        &ticket,
        "transport.poolCount = -100",
        &[],
    );
    let said = frpc::login_refused(world, "t-pool", &text, Reason::RequestMalformed)?;
    let frps = world.frps.as_mut().context("frps does not run")?;
    if !frps.lives() {
        bail!("frps is dead: {}", frps.log_after(0));
    }
    user::connect(
        world.lab.ns(Place::Client),
        user::at(NODE_CLIENT_V4, FRPS_PORT)?,
    )
    .context("frps's port")?;
    Ok(said)
}

/// The story's first ticket, once it is past its time and the clocks' allowed skew.
fn expired(world: &World) -> Result<String> {
    let (ticket, issued) = world
        .early_ticket
        .as_ref()
        .context("there is no ticket from item 2")?;
    let over = *issued + Duration::from_secs(TICKET_TTL_S + SKEW_S.unsigned_abs() + 1);
    let wait = over.saturating_duration_since(Instant::now());
    eprintln!(
        "     (waiting {} s: a ticket's time, and the 60 s that clocks may differ)",
        wait.as_secs()
    );
    std::thread::sleep(wait);
    let said = refused(world, "t-expired", ticket, Reason::TicketExpired)?;
    ensure!(!said.is_empty(), "frpc said nothing");
    Ok(format!("{said} (waited {})", ms(wait)))
}
