//! Item 2: invites.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
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
    report.check("a misspelt limit is named, nothing is made", || {
        misspelt(world)
    });
}

fn misspelt(world: &World) -> Result<String> {
    let body = json!({ "label": "wrong", "limits": { "max_cons": 5 } });
    let reason = world.lender()?.refused("/nodes/invites", &body)?;
    ensure!(reason == Reason::RequestMalformed, "refused by {reason}");
    Ok(reason.to_string())
}
