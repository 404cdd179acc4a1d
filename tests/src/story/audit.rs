//! Item 11: the audit trail, by the command and by REST.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use totoro_api::Reason;
use totoro_api::wire::event::{AuditEvent, AuditPage, kind};

use super::world::{World, within};
use crate::report::Report;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check("the tenant's events, in order", || in_order(world));
    report.check("refused connections have their count", || {
        refused_conns(world)
    });
    report.check("the session's end has bytes and duration", || closed(world));
    report.check("node events are gapless by (spool, seq)", || gapless(world));
    report.check("totoro-control audit shows the same", || command(world));
}

/// All events that a query finds.
pub(crate) fn events(world: &World, query: &str) -> Result<Vec<AuditEvent>> {
    let admin = world.admin()?;
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: AuditPage = admin.get(&format!("/admin/audit?limit=200{query}{cursor}"))?;
        all.extend(page.items);
        let Some(next) = page.next else {
            return Ok(all);
        };
        ensure!(all.len() < 10_000, "the trail does not end");
        cursor = format!("&cursor={next}");
    }
}

fn of_tenant(world: &World) -> Result<Vec<AuditEvent>> {
    let id = &world
        .tenant
        .as_ref()
        .context("there is no invite from item 2")?
        .invite
        .id;
    events(world, &format!("&invite={id}"))
}

/// What must be told in this order.
const CHAINS: [&[&str]; 2] = [
    &[
        kind::INVITE_CREATED,
        kind::INVITE_RESOLVED,
        kind::SESSION_OPENED,
        kind::PROXY_OPENED,
        kind::PROXY_REFUSED,
        kind::INVITE_PAUSED,
        kind::INVITE_RESUMED,
        kind::INVITE_REVOKED,
        kind::SESSION_CLOSED,
    ],
    // The kernel's refusals are told of in sums, a little after they happened.
    &[
        kind::SESSION_OPENED,
        kind::CONN_REFUSED,
        kind::SESSION_CLOSED,
    ],
];

fn in_order(world: &World) -> Result<String> {
    within(Duration::from_secs(15), || {
        let events = of_tenant(world)?;
        // As the trail has them: whoever reads it from its beginning reads the story.
        let told: Vec<&str> = events
            .iter()
            .map(|event| event.subject.kind.as_str())
            .collect();
        for chain in CHAINS {
            let mut rest = told.iter();
            for wanted in chain {
                if !rest.any(|kind| kind == wanted) {
                    bail!("{wanted} is missing, or too early, in {told:?}");
                }
            }
        }
        Ok(Some(format!(
            "{} events: {}",
            events.len(),
            CHAINS[0].join(", ")
        )))
    })
}

fn refused_conns(world: &World) -> Result<String> {
    within(Duration::from_secs(10), || {
        let events = of_tenant(world)?;
        let count: u64 = events
            .iter()
            .filter(|event| event.subject.kind == kind::CONN_REFUSED)
            .filter(|event| {
                matches!(
                    event.subject.reason,
                    Some(Reason::MaxConns | Reason::Surplus)
                )
            })
            .filter_map(|event| event.subject.detail["count"].as_u64())
            .sum();
        let seen = world.refused_conns;
        ensure!(
            seen > 0 && count >= seen,
            "{count} are told of, the users saw {seen}"
        );
        Ok(Some(format!(
            "{count} by max_conns and surplus; the users saw {seen}"
        )))
    })
}

fn closed(world: &World) -> Result<String> {
    let events = of_tenant(world)?;
    let last = events
        .iter()
        .rfind(|event| event.subject.kind == kind::SESSION_CLOSED);
    let detail = &last.context("no session was closed")?.subject.detail;
    let number = |name: &str| {
        detail[name]
            .as_f64()
            .with_context(|| format!("no {name} in {detail}"))
    };
    let (bytes_in, bytes_out) = (number("bytes_in")?, number("bytes_out")?);
    let duration = number("duration_s").or_else(|_| number("duration_ms").map(|ms| ms / 1000.0))?;
    ensure!(
        bytes_out > 1_048_576.0,
        "only {bytes_out} bytes went out, less than the page"
    );
    Ok(format!(
        "in {bytes_in} B, out {bytes_out} B, {duration:.1} s, because {}",
        detail["why"]
    ))
}

fn gapless(world: &World) -> Result<String> {
    let mut by_spool = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for event in events(world, "")? {
        if let (Some(spool), Some(seq)) = (event.spool, event.seq) {
            by_spool.entry(spool).or_default().push(seq);
        }
    }
    ensure!(!by_spool.is_empty(), "no event of a node");
    let mut total = 0;
    for (spool, seqs) in by_spool {
        let expected: Vec<u64> = (1..=seqs.len() as u64).collect();
        ensure!(seqs == expected, "spool {spool} has {seqs:?}");
        total += seqs.len();
    }
    Ok(format!("{total} events, each once"))
}

fn command(world: &World) -> Result<String> {
    let id = &world
        .tenant
        .as_ref()
        .context("there is no invite from item 2")?
        .invite
        .id;
    // First REST: what arrives in between is in the command's answer only.
    let rest: Vec<String> = of_tenant(world)?
        .into_iter()
        .map(|event| event.id)
        .collect();
    let shown = world
        .control_cli(&["audit", "--invite", id, "--limit", "1000", "--json"])?
        .ok()?;
    let shown: AuditPage = serde_json::from_str(&shown).context("read what audit printed")?;
    let shown: Vec<String> = shown.items.into_iter().map(|event| event.id).collect();
    ensure!(
        shown.starts_with(&rest),
        "REST has {rest:?}, the command {shown:?}"
    );
    ensure!(shown.is_sorted(), "the ids do not rise: {shown:?}");
    Ok(format!("{} events, in the same order", rest.len()))
}
