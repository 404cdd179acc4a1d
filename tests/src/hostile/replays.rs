//! What was said once is said again: by somebody who has a ticket of another's, over the real frps, and by
//! somebody on the node who has frps's secret and has heard all of it.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::client::{USERS_DOOR, ample};
use super::handmade::{HandMade, run_id};
use super::said::{Said, ask, login};
use super::{from, world};
use crate::lab::{CLIENT_V4_B, NODE_CLIENT_V4, Place, Process};
use crate::net::user;
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::{FRPS_PORT, Tenant, World, within};

/// The victim's, and of who says frps's part.
const PORTS: [u16; 2] = [20_060, 20_061];
/// frps is asked every 10 s what it has.
const COMPARED: std::time::Duration = std::time::Duration::from_secs(30);

/// Plays all of it.
///
/// # Errors
/// Something was let through twice, or hurt who had said it first.
pub fn play() -> Result<()> {
    let world = world("replays", &[])?;
    let mut victim = Victim::start(&world)?;
    victim.is_copied(&world)?;
    victim.is_repeated(&world)?;
    victim.ends(&world)?;
    proxies(&world)
}

/// A stock frpc that carries its ticket by hand, so that the ticket is known.
struct Victim {
    tenant: Tenant,
    ticket: String,
    frpc: Process,
}

impl Victim {
    fn start(world: &World) -> Result<Victim> {
        let tenant = world.invite("victim", ample())?;
        let ticket = world.resolve(&tenant.code)?.ticket;
        let proxies = [Proxy::new("web", "tcp", world.backend.tcp, PORTS[0])];
        let text = frpc::with_ticket(&tenant.invite.id, &ticket, "", &proxies);
        let frpc = frpc::up(world, "victim", &text, &proxies)?;
        Ok(Victim {
            tenant,
            ticket,
            frpc,
        })
    }

    /// The same Login through frps from another address: it is somebody else's, and harms nobody.
    fn is_copied(&mut self, world: &World) -> Result<()> {
        let to = user::at(USERS_DOOR, PORTS[0])?;
        let mut session = user::connect(world.lab.ns(Place::User), to)?;
        user::exchange(&mut session, b"before")?;
        for _ in 0..2 {
            let copy = json!({
                "version": "0.70.1", "user": self.tenant.invite.id, "timestamp": 1, "pool_count": 1,
                "metas": { "totoro_ticket": self.ticket },
            });
            let answer = elsewhere(world)?.login(&copy)?;
            refused(&answer["error"], "ticket_in_use")?;
        }
        user::exchange(&mut session, b"after").context("the victim's user")?;
        ensure!(self.frpc.lives(), "the victim's frpc ended");
        println!(
            "a Login copied to another address: ticket_in_use, twice; the victim's user goes on"
        );
        Ok(())
    }

    /// The same Login said to the node of the victim's own connection, twice: no second session, and what
    /// frps has and the node does not is put right.
    fn is_repeated(&mut self, world: &World) -> Result<()> {
        let (id, client) = self.session(world)?;
        let content = json!({
            "version": "0.70.1", "user": self.tenant.invite.id, "timestamp": 1, "pool_count": 1,
            "run_id": "", "metas": { "totoro_ticket": self.ticket }, "client_address": client,
        });
        let body = json!({ "version": "0.1.0", "op": "Login", "content": content }).to_string();
        let mine = run_id(&self.frpc.wait_line("get run id [", PATIENCE)?)?;
        for _ in 0..2 {
            let answer = ask(world, "Login", body.as_bytes())?;
            let said = Said::by(&self.tenant.invite.id, &answer)?;
            ensure!(said.run_id() == mine, "another run_id: {answer}");
        }
        ensure!(self.session(world)?.0 == id, "another session");
        // Its proxy's lease went with the earlier Login. frps has the proxy still: frpc is sent away, and
        // comes back for it.
        within(COMPARED, || {
            let to = user::at(USERS_DOOR, PORTS[0])?;
            let mut session = user::connect(world.lab.ns(Place::User), to)?;
            user::exchange(&mut session, b"again")?;
            Ok(Some(()))
        })
        .context("the victim's port is not served any more")?;
        ensure!(self.session(world)?.0 == id, "another session");
        let leases = ports(world, &self.tenant)?;
        ensure!(leases == [PORTS[0]], "{leases:?}");
        println!(
            "the same Login said again of the victim's connection: one session, one lease, served"
        );
        Ok(())
    }

    /// Its session was ended, and the ticket with it.
    fn ends(self, world: &World) -> Result<()> {
        let (id, _) = self.session(world)?;
        let Victim {
            tenant,
            ticket,
            frpc,
        } = self;
        world.node_cli(&["kick", &id])?.ok()?;
        frpc.kill();
        let hand = here(world)?;
        for run_id in [String::new(), "0".repeat(32)] {
            let body = login(&hand, &tenant.invite.id, &ticket, &run_id);
            refused(
                &ask(world, "Login", &body)?["reject_reason"],
                "session_expired",
            )?;
        }
        ensure!(
            ports(world, &tenant)?.is_empty(),
            "a lease outlives the session"
        );
        // The invite is as good as it was.
        let fresh = Said::login(world, &hand, &tenant, "")?;
        ensure!(!fresh.run_id().is_empty());
        println!("the Login of a session that was ended: session_expired; a new ticket is taken");
        Ok(())
    }

    /// Its one session: id, and frpc's address.
    fn session(&self, world: &World) -> Result<(String, String)> {
        within(PATIENCE, || {
            let all = world.node_cli(&["sessions", "--json"])?.ok()?;
            let all: Vec<Value> = serde_json::from_str(&all)?;
            let mut ours = all
                .iter()
                .filter(|one| one["tenant"] == self.tenant.invite.id.as_str());
            let (one, more) = (ours.next().context("no session")?, ours.next());
            ensure!(more.is_none(), "two sessions: {all:?}");
            let word = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            Ok((one["connected"] == true).then(|| (word("id"), word("client"))))
        })
    }
}

/// What is asked for proxies, with frps's secret.
fn proxies(world: &World) -> Result<()> {
    let tenant = world.invite("proxies", ample())?;
    let ticket = world.resolve(&tenant.code)?.ticket;
    let user = tenant.invite.id.as_str();
    let name = json!({ "proxy_name": format!("{user}.web") });
    let asked = json!({ "proxy_type": "tcp", "remote_port": PORTS[1] });
    let open = |said: &Said| said.about("NewProxy", &[name.clone(), asked.clone()]);
    let close = |said: &Said| said.about("CloseProxy", std::slice::from_ref(&name));
    let leases = || ports(world, &tenant);

    let hand = here(world)?;
    let first = Said::by(
        user,
        &ask(world, "Login", &login(&hand, user, &ticket, ""))?,
    )?;
    allowed(&ask(world, "NewProxy", &open(&first))?)?;
    ensure!(leases()? == [PORTS[1]], "no lease");
    ask(world, "CloseProxy", &close(&first))?;
    ensure!(leases()?.is_empty(), "it was closed");
    // As if frpc had asked again: it can't be told from that. But frps does not have the proxy.
    allowed(&ask(world, "NewProxy", &open(&first))?)?;
    ensure!(leases()? == [PORTS[1]], "no lease");
    within(COMPARED, || Ok(leases()?.is_empty().then_some(())))
        .context("a lease for a proxy that frps does not have")?;
    println!(
        "a NewProxy said again after its CloseProxy: a lease until frps is asked, which has no such proxy"
    );

    let successor = here(world)?;
    let body = login(&successor, user, &ticket, first.run_id());
    let second = Said::by(user, &ask(world, "Login", &body)?)?;
    ensure!(
        second.run_id() == first.run_id() && second.nonce() != first.nonce(),
        "{second:?}"
    );
    within(PATIENCE, || Ok(hand.is_over().then_some(())))
        .context("the predecessor's connection")?;
    allowed(&ask(world, "NewProxy", &open(&second))?)?;
    ask(world, "CloseProxy", &close(&first))?;
    ensure!(
        leases()? == [PORTS[1]],
        "the predecessor's CloseProxy took its successor's lease"
    );
    refused(
        &ask(world, "NewProxy", &open(&first))?["reject_reason"],
        "session_expired",
    )?;
    ask(world, "CloseProxy", &close(&second))?;
    ensure!(leases()?.is_empty(), "it was closed");
    println!(
        "a CloseProxy of the predecessor's takes nothing; its NewProxy is refused, session_expired"
    );

    world.lender()?.delete(&format!("/nodes/invites/{user}"))?;
    within(PATIENCE, || Ok(successor.is_over().then_some(()))).context("revoked")?;
    refused(
        &ask(world, "NewProxy", &open(&second))?["reject_reason"],
        "session_expired",
    )?;
    ask(world, "CloseProxy", &close(&second))?;
    let last = here(world)?;
    let again = login(&last, user, &ticket, second.run_id());
    refused(
        &ask(world, "Login", &again)?["reject_reason"],
        "invite_revoked",
    )?;
    println!("after a revocation: session_expired, and the Login invite_revoked");
    Ok(())
}

/// A connection to frps from the victim's own machine and address.
fn here(world: &World) -> Result<HandMade> {
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    HandMade::connect(world.lab.ns(Place::Client), frps)
}

/// One from another address.
fn elsewhere(world: &World) -> Result<HandMade> {
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    HandMade::over(world.lab.ns(Place::Client), || {
        let socket = from(CLIENT_V4_B)?;
        socket.connect(&frps.into()).context("connect to frps")?;
        Ok(TcpStream::from(socket))
    })
}

/// The ports that a tenant has, by the kernel.
fn ports(world: &World, tenant: &Tenant) -> Result<Vec<u16>> {
    let rows = world.inspect("ports")?;
    let ours = rows
        .iter()
        .filter(|row| row["tenant"] == tenant.invite.id.as_str());
    let ports = ours.filter_map(|row| u16::try_from(row["port"].as_u64()?).ok());
    Ok(ports.collect())
}

fn allowed(answer: &Value) -> Result<()> {
    ensure!(answer["reject"] == false, "{answer}");
    Ok(())
}

fn refused(text: &Value, code: &str) -> Result<()> {
    let text = text.as_str().unwrap_or_default();
    ensure!(
        text.contains(&format!("totoro[{code}]")),
        "not {code}: {text:?}"
    );
    Ok(())
}
