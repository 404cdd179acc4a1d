//! Item 10: an anonymous visitor of a public node.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use totoro_api::Reason;

use super::frpc::{self, PATIENCE, Proxy};
use super::world::{CONTROL, FRPS_PORT, World, ms, within};
use crate::lab::{CLIENT_V4, NODE_CLIENT_V4, NODE_USER_V4, Place, Process};
use crate::net::user::{self, Denied};
use crate::report::Report;

const PORT: u16 = 20_070;
/// What a visitor calls itself.
pub(super) const USER: &str = "visitor";

pub(super) fn play(world: &mut World, report: &mut Report) {
    let mut frpc = None;
    report.check(
        "public limits hold: one proxy, the second is refused",
        || second_proxy(world),
    );
    report.check("frpc with the secret public:NODE has a tunnel", || {
        start(world, &mut frpc)
    });
    report.check(
        "public limits hold: three connections, the fourth gets RST",
        || limits(world),
    );
    report.check(
        "public limits hold: one session, the second is refused",
        || {
            let text = file(world, USER, &[]);
            frpc::login_refused(world, "frpc-public-2", &text, Reason::MaxClients)
        },
    );
    report.check("the tenant is the prefix of the login's address", || {
        prefix(world)
    });
    report.check(
        "kill -9 and a new ticket at once: its own dead session is no bar",
        || again(world, &mut frpc),
    );
    if let Some(frpc) = frpc {
        frpc.stop();
    }
}

/// A visitor's file: no code, the node's name as the secret. The user's name is in those of its proxies.
#[must_use]
pub fn file(world: &World, user: &str, proxies: &[Proxy]) -> String {
    let head = format!(
        "serverAddr = \"{NODE_CLIENT_V4}\"\nserverPort = {FRPS_PORT}\nuser = \"{user}\"\n\
         auth.method = \"oidc\"\nauth.oidc.clientID = \"totoro\"\n\
         auth.oidc.clientSecret = \"public:{}\"\n\
         auth.oidc.tokenEndpointURL = \"{CONTROL}/api/v1/oauth/token\"\n",
        world.node_id
    );
    frpc::with_proxies(&head, proxies)
}

/// Two proxies in one file; frpc asks for them in an order of its own.
fn second_proxy(world: &World) -> Result<String> {
    let proxies = [
        Proxy::new("left", "tcp", world.backend.tcp, PORT + 1),
        Proxy::new("right", "tcp", world.backend.tcp, PORT + 2),
    ];
    let mut frpc = frpc::start(world, "frpc-public-pair", &file(world, USER, &proxies))?;
    let line = frpc.wait_line("] start error", PATIENCE)?;
    let said = frpc::said(&line, Reason::MaxProxies)?;
    frpc.wait_line("] start proxy success", PATIENCE)?;
    frpc.stop();
    Ok(said)
}

fn start(world: &World, frpc: &mut Option<Process>) -> Result<String> {
    let proxies = [Proxy::new("anon", "tcp", world.backend.tcp, PORT)];
    let text = file(world, USER, &proxies);
    *frpc = Some(frpc::up(world, "frpc-public", &text, &proxies)?);
    let took = user::fetch(world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?)?;
    Ok(format!("the page in {}", ms(took)))
}

/// `max_clients` is 1 here, and the killed frpc's session has not been missed by frps yet.
fn again(world: &World, frpc: &mut Option<Process>) -> Result<String> {
    frpc.take().context("no frpc runs")?.kill();
    let proxies = [Proxy::new("anon", "tcp", world.backend.tcp, PORT)];
    let text = std::fs::read_to_string(world.lab.file("other/frpc-public.toml"))?;
    let begun = Instant::now();
    *frpc = Some(frpc::up(world, "frpc-public", &text, &proxies)?);
    let took = begun.elapsed();
    user::fetch(world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?)?;
    Ok(format!("back after {}, on the same port", ms(took)))
}

fn limits(world: &World) -> Result<String> {
    let (ns, door) = (world.lab.ns(Place::User), user::at(NODE_USER_V4, PORT)?);
    // The page's connection is still closing.
    let mut held = Vec::new();
    within(Duration::from_secs(3), || {
        held.clear();
        for _ in 0..3 {
            let mut stream = user::connect(ns, door)?;
            user::exchange(&mut stream, b"held")?;
            held.push(stream);
        }
        Ok(Some(()))
    })?;
    match user::denied(ns, door, Duration::from_secs(3))? {
        Denied::Refused(took) => Ok(format!("Connection refused after {}", ms(took))),
        Denied::Dropped => bail!("no answer came"),
    }
}

fn prefix(world: &World) -> Result<String> {
    let rows = world.inspect("tenants")?;
    let row = rows.iter().find(|row| row.to_string().contains(CLIENT_V4));
    let row = row.with_context(|| format!("no tenant with {CLIENT_V4}: {rows:?}"))?;
    let name = row["tenant"]
        .as_str()
        .with_context(|| format!("no name in {row}"))?;
    ensure!(name.starts_with("public:"), "the tenant is {name}");
    Ok(name.to_owned())
}
