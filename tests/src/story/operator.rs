//! What the operator does on the node itself, with nobody to ask: `ban`, `kick`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use totoro_api::Reason;

use super::frpc::{self, PATIENCE, Proxy};
use super::world::{Tenant, World, ms, within};
use crate::lab::{CLIENT_V4_B, NODE_USER_V4, Place};
use crate::net::user;
use crate::report::Report;

const PORT: u16 = 20_003;
/// What frpc has to come from the banned address, and not to wait long for a node that says nothing.
const FROM_THERE: &str = "transport.dialServerTimeout = 2\n";

/// Someone who comes from [`CLIENT_V4_B`], with a ticket that is good for all of it.
pub(super) struct Guest {
    tenant: Tenant,
    ticket: String,
}

impl Guest {
    pub(super) fn new(tenant: Tenant, ticket: String) -> Guest {
        Guest { tenant, ticket }
    }

    fn file(&self, world: &World) -> (String, [Proxy; 1]) {
        let proxies = [Proxy::new("guest", "tcp", world.backend.tcp, PORT)];
        let more = format!("{FROM_THERE}transport.connectServerLocalIP = \"{CLIENT_V4_B}\"");
        let text = frpc::with_ticket(&self.tenant.invite.id, &self.ticket, &more, &proxies);
        (text, proxies)
    }

    /// Logs in, and is served.
    fn up(&mut self, world: &World) -> Result<String> {
        let (text, proxies) = self.file(world);
        let begun = Instant::now();
        self.tenant.frpc = Some(frpc::up(world, "guest", &text, &proxies)?);
        let took = begun.elapsed();
        user::fetch(world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?)?;
        Ok(ms(took))
    }

    /// Its live session.
    fn session(&self, world: &World) -> Result<Option<String>> {
        let told = world.node_cli(&["sessions", "--json"])?.ok()?;
        let all: Vec<Value> = serde_json::from_str(&told).context("read the sessions")?;
        let its = |line: &&Value| line["tenant"] == self.tenant.invite.id.as_str();
        let id = all.iter().find(its).and_then(|line| line["id"].as_str());
        Ok(id.map(str::to_owned))
    }
}

/// Plays it while the control plane is away. `others` looks whether those whom it does not mean are
/// served.
pub(super) fn play(
    world: &World,
    guest: &mut Guest,
    report: &mut Report,
    others: impl Fn() -> Result<String>,
) {
    report.check("a banned source can't log in, another is served", || {
        let said = banned(world, guest)?;
        others().context("another source")?;
        Ok(said)
    });
    report.check("ban list has it, and not once it is lifted", || {
        ensure!(listed(world)?, "not in the list");
        world.node_cli(&["ban", "remove", CLIENT_V4_B])?.ok()?;
        ensure!(!listed(world)?, "still in the list");
        let again = world.node_cli(&["ban", "remove", CLIENT_V4_B])?;
        ensure!(again.code == 1, "lifted twice: {again:?}");
        let took = guest.up(world).context("after the ban")?;
        Ok(format!("lifted, logged in after {took}"))
    });
    report.check("a ban ends the session that is there", || {
        world
            .node_cli(&["ban", "add", CLIENT_V4_B, "--for", "1h"])?
            .ok()?;
        let took = gone(world, guest)?;
        guest.tenant.frpc.take().context("no frpc")?.kill();
        world.node_cli(&["ban", "remove", CLIENT_V4_B])?.ok()?;
        guest.up(world).context("after the second ban")?;
        others().context("another source")?;
        Ok(took)
    });
    report.check("a session is kicked, and its ticket with it", || {
        let session = guest.session(world)?.context("no session")?;
        world.node_cli(&["kick", &session])?.ok()?;
        let took = gone(world, guest)?;
        let twice = world.node_cli(&["kick", &session])?;
        ensure!(twice.code == 1, "kicked twice: {twice:?}");
        guest.tenant.frpc.take().context("no frpc")?.kill();
        let (text, _) = guest.file(world);
        let said = frpc::login_refused(world, "kicked", &text, Reason::SessionExpired)?;
        others().context("another source")?;
        Ok(format!("{took}; {said}"))
    });
}

/// Bans the guest's address; its frpc is told nothing and gives up.
fn banned(world: &World, guest: &Guest) -> Result<String> {
    let before = world.refused(Reason::ClientBanned)?;
    world.node_cli(&["ban", "add", CLIENT_V4_B])?.ok()?;
    let (text, _) = guest.file(world);
    let begun = Instant::now();
    let mut frpc = frpc::start(world, "banned", &text)?;
    let line = frpc.wait_new("connect to server error", PATIENCE)?;
    let took = begun.elapsed();
    ensure!(
        !frpc.wait_exit(PATIENCE)?.success(),
        "it took that for success"
    );
    ensure!(line.contains("i/o timeout"), "{line}");
    ensure!(guest.session(world)?.is_none(), "it has a session");
    let dropped = within(Duration::from_secs(5), || {
        let more = world.refused(Reason::ClientBanned)?.saturating_sub(before);
        Ok((more > 0).then_some(more))
    });
    Ok(format!(
        "{} SYNs dropped, frpc gave up after {}",
        dropped.context("no SYN was counted")?,
        ms(took)
    ))
}

fn listed(world: &World) -> Result<bool> {
    let told = world.node_cli(&["ban", "list", "--json"])?.ok()?;
    let all: Vec<Value> = serde_json::from_str(&told).context("read the bans")?;
    let wanted = format!("{CLIENT_V4_B}/32");
    let mut found = all.iter().filter(|line| line["prefix"] == wanted.as_str());
    let line = found.next();
    ensure!(found.next().is_none(), "twice in {told}");
    if let Some(line) = line {
        ensure!(line["by"] == "node" && line["until"] == "", "{line}");
    }
    Ok(line.is_some())
}

/// Waits until the guest has no session, and looks that nobody is served at its port; how long the first
/// took.
fn gone(world: &World, guest: &Guest) -> Result<String> {
    let begun = Instant::now();
    within(PATIENCE, || {
        ensure!(guest.session(world)?.is_none(), "its session lives");
        Ok(Some(()))
    })?;
    let took = ms(begun.elapsed());
    let (ns, at) = (world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?);
    user::denied(ns, at, Duration::from_millis(500))?;
    Ok(took)
}
