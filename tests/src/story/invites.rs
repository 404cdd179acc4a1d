//! Item 2: invites.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use totoro_api::Reason;

use super::world::World;
use crate::report::Report;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check(
        "totoro-node invite create: max_conns 5, max_proxies 2, tcp and udp, 20000-20049",
        || {
            let limits = json!({
                "max_conns": 5, "max_proxies": 2, "types": ["tcp", "udp"], "ports": ["20000-20049"],
            });
            let tenant = world.invite_by_command("story", &limits)?;
            ensure!(tenant.code.starts_with("tn1-"), "the code looks otherwise");
            let figure = format!(
                "{}, code of {} characters, shown once",
                tenant.invite.id,
                tenant.code.len()
            );
            world.tenant = Some(tenant);
            Ok(figure)
        },
    );
    report.check(
        "a second one by REST: tcp only, all ports but 20030-20049",
        || {
            let limits = json!({
                "max_proxies": 4, "max_clients": 4, "types": ["tcp"],
                "ports": ["20000-20029", "20050-20099"],
            });
            let tenant = world.invite("other", limits)?;
            let ticket = world.resolve(&tenant.code)?.ticket;
            world.early_ticket = Some((ticket, Instant::now()));
            let figure = tenant.invite.id.clone();
            world.other = Some(tenant);
            Ok(figure)
        },
    );
    report.check(
        "totoro-node invite list, show, change, pause, resume, rotate, revoke",
        || every_command(world),
    );
    report.check("a misspelt limit is named, nothing is made", || {
        misspelt(world)
    });
}

/// What a lender does to an invite in its life; answers how many commands that were.
fn every_command(world: &World) -> Result<String> {
    let made = world.invite_by_command("short-lived", &json!({ "max_conns": 5 }))?;
    let id = &*made.invite.id;
    let does = |args: &[&str]| -> Result<Value> {
        let text = world
            .node_cli(&[&["invite"], args, &["--json"]].concat())?
            .ok()?;
        serde_json::from_str(&text).with_context(|| format!("read {text:.200}"))
    };
    let listed = does(&["list", "--label", "short-lived"])?.to_string();
    ensure!(
        listed.contains(id) && !listed.contains(&made.code),
        "{listed:.400}"
    );
    let changed = does(&["change", id, "--limits", r#"{"max_conns":7}"#])?;
    ensure!(changed["limits"]["max_conns"] == 7, "{changed}");
    for (command, state) in [
        ("pause", "paused"),
        ("resume", "active"),
        ("show", "active"),
    ] {
        let is = does(&[command, id])?;
        ensure!(is["state"] == state, "{command}: {is}");
    }
    let rotated = does(&["rotate", id])?;
    let code = rotated["code"].as_str().context("rotate shows no code")?;
    ensure!(code != made.code, "the code is the old one");
    world.resolve(code)?;
    let old = json!({ "code": made.code });
    let reason = world.anyone.refused("/invites/resolve", &old)?;
    ensure!(
        reason == Reason::InviteUnknown,
        "the old code is refused by {reason}"
    );
    let revoked = does(&["revoke", id])?;
    ensure!(revoked["state"] == "revoked", "{revoked}");
    Ok("8 commands; the old code is unknown at once".to_owned())
}

fn misspelt(world: &World) -> Result<String> {
    let body = json!({ "label": "wrong", "limits": { "max_cons": 5 } });
    let reason = world.lender()?.refused("/nodes/invites", &body)?;
    ensure!(reason == Reason::RequestMalformed, "refused by {reason}");
    Ok(reason.to_string())
}
