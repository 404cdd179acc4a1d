//! The daemon's log as JSON: an object a line, whatever happens, and each line on a session, a lease or a
//! refusal says whose it is and why, by the same names.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::hostile::client::{USERS_DOOR, Way, file};
use crate::lab::Place;
use crate::net::user;
use crate::report::Report;
use crate::story::bring_up::run_node;
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::{World, within};
use totoro_api::Reason;

const PORT: u16 = 20_040;
/// Of no pool.
const OUTSIDE: u16 = 30_000;

pub(super) fn play(world: &mut World, report: &mut Report) {
    let from = match again(world) {
        Ok(from) => from,
        Err(error) => {
            report.check("a daemon that logs JSON", || Err(error));
            return;
        }
    };
    report.check(
        "sessions, leases and refusals say whose they are, and why",
        || tenant(world, from),
    );
    report.check("a daemon that can't start says so in JSON", || {
        second(world)
    });
    report.check("every line is an object", || whole(world, from));
}

/// Starts the daemon anew, with JSON; where its log begins.
fn again(world: &mut World) -> Result<usize> {
    world.node.take().context("the daemon runs")?.stop();
    let from = text(world)?.len();
    let mut command = world.node_command(&["run"]);
    command.env("TOTORO_NODE_LOG_JSON", "true");
    run_node(world, command)?;
    Ok(from)
}

/// A tenant's life: what is told of it, in its order.
fn tenant(world: &World, from: usize) -> Result<String> {
    let web = Proxy::new("web", "tcp", world.backend.tcp, PORT);
    let out = Proxy::new("out", "tcp", world.backend.tcp, OUTSIDE);
    let limits = json!({ "max_conns": 1, "max_proxies": 2, "max_clients": 1 });
    let both = [web.clone(), out];
    let (invite, file) = file(world, "logged", limits, Way::PLAIN, &both)?;
    let mut frpc = frpc::up(world, "logged", &file, &[web])?;
    let told = |message: &str, more: &[(&str, &str)]| -> Result<()> {
        let wanted = [("node_id", world.node_id.as_str()), ("invite_id", &invite)];
        let wanted = [&wanted, more].concat();
        within(PATIENCE, || {
            let lines = lines(world, from)?;
            let is = |line: &Value, (name, value): &(&str, &str)| line["fields"][name] == *value;
            let mut these = lines
                .iter()
                .filter(|line| line["fields"]["message"] == message);
            Ok(these
                .any(|line| wanted.iter().all(|one| is(line, one)))
                .then_some(()))
        })
        .with_context(|| format!("no line {message:?} with {wanted:?}"))
    };
    let port = format!("tcp/{PORT}");
    told("session opened", &[])?;
    told("proxy opened", &[("proxy_name", "web"), ("port", &port)])?;

    let held = user::connect(world.lab.ns(Place::User), user::at(USERS_DOOR, PORT)?)?;
    // Refused by a reset, which may come before or after the connection is made.
    user::connect(world.lab.ns(Place::User), user::at(USERS_DOOR, PORT)?).ok();
    told(
        "connections refused",
        &[("reason", Reason::MaxConns.code())],
    )?;
    drop(held);

    frpc::proxy_refused(&mut frpc, 0, "out", Reason::PortOutsidePool)?;
    let reason = Reason::PortOutsidePool.code();
    told(
        "proxy refused",
        &[("proxy_name", "out"), ("reason", reason)],
    )?;

    frpc::login_refused(world, "logged-too", &file, Reason::MaxClients)?;
    told("login refused", &[("reason", Reason::MaxClients.code())])?;

    world
        .lender()?
        .delete(&format!("/nodes/invites/{invite}"))?;
    told("proxy closed", &[("proxy_name", "web"), ("port", &port)])?;
    told(
        "session closed",
        &[("reason", Reason::InviteRevoked.code())],
    )?;
    frpc.stop();
    Ok("opened, refused four ways, closed".to_owned())
}

/// Beside the first, whose port it can't have.
fn second(world: &World) -> Result<String> {
    let done = world.node_cli(&["run", "--log-json"])?;
    ensure!(done.code == 1, "exit code {}: {}", done.code, done.err);
    let lines: Vec<Value> = done.err.lines().map(object).collect::<Result<_>>()?;
    let last = lines.last().context("it says nothing")?;
    let error = last["fields"]["error"].as_str().context("no error")?;
    ensure!(last["level"] == "ERROR", "{last}");
    Ok(error.to_owned())
}

fn whole(world: &World, from: usize) -> Result<String> {
    let lines = lines(world, from)?;
    for line in &lines {
        for name in ["timestamp", "level", "target"] {
            ensure!(line[name].is_string(), "no {name} in {line}");
        }
        ensure!(
            line["fields"]["message"].is_string(),
            "no message in {line}"
        );
    }
    Ok(format!("{} lines", lines.len()))
}

fn text(world: &World) -> Result<String> {
    fs::read_to_string(world.lab.file("node.log")).context("read the daemon's log")
}

/// All lines that are whole.
fn lines(world: &World, from: usize) -> Result<Vec<Value>> {
    let text = text(world)?;
    let written = text.get(from..).unwrap_or_default();
    let (whole, _) = written.rsplit_once('\n').unwrap_or_default();
    whole.lines().map(object).collect()
}

fn object(line: &str) -> Result<Value> {
    match serde_json::from_str(line) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => bail!("no object: {line}"),
    }
}
