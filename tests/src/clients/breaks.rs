//! What breaks under a running tunnel, and how the client tells it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use totoro_api::wire::node::{Enroll, NodeCreated};

use super::{Totoro, run};
use crate::api::Api;
use crate::hostile::world;
use crate::lab::{Finished, NODE_CLIENT_V4, NODE_USER_V4, Place};
use crate::net::user;
use crate::report::Report;
use crate::story::{FRPS_PORT, World, bring_up};

/// Plays it.
///
/// # Errors
/// The lab does not come up, or a check failed.
pub fn play() -> Result<()> {
    let mut world = world("cl-breaks", &[])?;
    let tenant = world.invite("breaks", json!({ "max_clients": 2, "max_proxies": 4 }))?;
    let service = world.backend.tcp.to_string();
    let words = ["tcp", service.as_str()];
    let mut totoro = Totoro::start(&world, "cl-breaks", &words, Some(&tenant.code), None)?;
    let port = totoro.port()?;
    let mut report = Report::new(false);
    report.item("A tunnel comes back");
    report.check(
        "frps is killed and started: said, and the same port again",
        || node_again(&mut world, &mut totoro, port),
    );
    report.check(
        "another in the node's place: not trusted, and no login",
        || impostor(&mut world, &mut totoro, port),
    );
    report.check("paused: it waits, and is back when the invite is", || {
        paused(&world, &mut totoro, &tenant.invite.id, port)
    });
    report.check("the same again: it runs already", || {
        comes(&world, &service, &tenant.code, "runs already").map(told)
    });
    report.check("frpc is killed: said, and started again", || {
        kill(Pid::from_raw(totoro.frpc()?), Signal::SIGKILL)?;
        back(&world, &mut totoro, "frpc_ended", port)
    });
    report.check("frpc hangs: said, ended, and started again", || {
        kill(Pid::from_raw(totoro.frpc()?), Signal::SIGSTOP)?;
        back(&world, &mut totoro, "frpc_hangs", port)
    });
    report.check("totoro is killed: its frpc does not outlive it", || {
        killed(&world, &tenant.code)
    });
    report.item("The node is drained");
    report.check("who runs is told, and goes on", || {
        drained(&world, &mut totoro, port)
    });
    report.check("who comes is refused", || {
        let said = comes(&world, &service, &tenant.code, "node_draining")?;
        ensure!(said.out.contains("spare"), "no other is offered: {said:?}");
        Ok(told(said))
    });
    report.check("Ctrl-C", || {
        totoro.interrupt().map(|()| "exit 0".to_owned())
    });
    ensure!(report.finish(), "see above");
    Ok(())
}

/// Another who comes is refused with these words.
fn comes(world: &World, service: &str, code: &str, words: &str) -> Result<Finished> {
    let said = run(world, &["tcp", service, "--lang", "en"], Some(code))?;
    ensure!(said.code == 1 && said.err.contains(words), "{said:?}");
    Ok(said)
}

fn told(said: Finished) -> String {
    said.err.trim().to_owned()
}

fn fetch(world: &World, port: u16) -> Result<()> {
    user::fetch(world.lab.ns(Place::User), user::at(NODE_USER_V4, port)?).map(drop)
}

/// It says why it is away, and is back at the same port.
fn back(world: &World, totoro: &mut Totoro, why: &str, port: u16) -> Result<String> {
    let event = totoro.event("reconnecting")?;
    ensure!(event["why"] == why, "{event}");
    let now = totoro.port()?;
    ensure!(now == port, "it was {port} and is {now}");
    fetch(world, port)?;
    Ok(format!("{why}, back at {port}"))
}

fn node_again(world: &mut World, totoro: &mut Totoro, port: u16) -> Result<String> {
    world.frps.take().context("no frps")?.kill();
    let event = totoro.event("reconnecting")?;
    ensure!(event["why"] == "lost", "{event}");
    // frpc may find the connection that it had cut off once more first.
    totoro.away(|event| event["why"] == "node_unreachable")?;
    bring_up::run_frps(world)?;
    let now = totoro.port()?;
    ensure!(now == port, "it was {port} and is {now}");
    fetch(world, port)?;
    Ok(format!("back at {port}"))
}

/// frps with a certificate that it made up itself.
fn impostor(world: &mut World, totoro: &mut Totoro, port: u16) -> Result<String> {
    let file = world.lab.file("node/frps.toml");
    let true_text = std::fs::read_to_string(&file)?;
    let lines = true_text
        .lines()
        .filter(|line| !line.contains("certFile") && !line.contains("keyFile"));
    let false_text = lines.collect::<Vec<_>>().join("\n");
    ensure!(
        false_text.len() < true_text.len(),
        "no certificate in {true_text}"
    );
    std::fs::write(&file, false_text)?;
    world.frps.take().context("no frps")?.kill();
    bring_up::run_frps(world)?;
    // frpc tells the one or the other, as its multiplexer is quick.
    let event = totoro.away(|event| event["why"] == "not_trusted" || event["why"] == "cut_off")?;
    let log = world.frps.as_ref().context("no frps")?.log_after(0);
    let logins = log.rsplit("frps started successfully").next();
    ensure!(
        !logins.unwrap_or_default().contains("client login"),
        "{log}"
    );
    std::fs::write(&file, true_text)?;
    world.frps.take().context("no frps")?.kill();
    bring_up::run_frps(world)?;
    let now = totoro.port()?;
    ensure!(now == port, "it was {port} and is {now}");
    fetch(world, port)?;
    Ok(event["detail"].to_string())
}

fn paused(world: &World, totoro: &mut Totoro, invite: &str, port: u16) -> Result<String> {
    let path = format!("/nodes/invites/{invite}");
    let lender = world.lender()?;
    lender.patch::<Value>(&path, &json!({ "state": "paused" }))?;
    kill(Pid::from_raw(totoro.frpc()?), Signal::SIGKILL)?;
    totoro.away(|event| event["code"] == "invite_paused")?;
    lender.patch::<Value>(&path, &json!({ "state": "active" }))?;
    let now = totoro.port()?;
    ensure!(now == port, "it was {port} and is {now}");
    fetch(world, port)?;
    Ok(format!("invite_paused, then back at {port}"))
}

fn killed(world: &World, code: &str) -> Result<String> {
    let service = world.backend.udp.to_string();
    let mut other = Totoro::start(world, "cl-killed", &["udp", &service], Some(code), None)?;
    other.event("running")?;
    let frpc = other.frpc()?;
    other.process.kill();
    let path = format!("/proc/{frpc}");
    crate::story::within(super::PATIENCE, || {
        Ok((!std::path::Path::new(&path).exists()).then_some(()))
    })?;
    // What it left is known to be a dead one's.
    let shown = run(world, &["status", "--json"], None)?.ok()?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(shown.as_array().map(Vec::len) == Some(1), "{shown}");
    Ok("gone".to_owned())
}

fn drained(world: &World, totoro: &mut Totoro, port: u16) -> Result<String> {
    with_spare(world, || drain(world, totoro, port))
}

/// Another public node, `spare`, is up meanwhile: a key, heartbeats, and an address where something
/// listens.
pub(super) fn with_spare<T>(world: &World, story: impl FnOnce() -> Result<T>) -> Result<T> {
    let spare = spare(world)?;
    let (ended, beat) = (
        AtomicBool::new(false),
        json!({
            "instance": "00".repeat(16), "grade": "kernel", "frps_version": "0.70.1",
            "free_ports": { "tcp": 10, "udp": 10 },
        }),
    );
    spare.post::<Value>("/nodes/heartbeat", &beat)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                // A late one is made good by the next.
                spare.post::<Value>("/nodes/heartbeat", &beat).ok();
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let played = listed(world).and_then(|()| story());
        ended.store(true, Ordering::SeqCst);
        played
    })
}

/// Waits until the spare node can be used.
fn listed(world: &World) -> Result<()> {
    crate::story::within(super::PATIENCE, || {
        // An address may not ask for the list as often as it likes.
        std::thread::sleep(Duration::from_millis(700));
        let listed = run(world, &["nodes", "--json"], None)?.ok()?;
        let listed: Vec<Value> = serde_json::from_str(&listed)?;
        let up = |node: &&Value| node["name"] == "spare" && node["usable"] == true;
        ensure!(listed.iter().any(|node| up(&node)), "{listed:?}");
        Ok(Some(()))
    })
}

fn drain(world: &World, totoro: &mut Totoro, port: u16) -> Result<String> {
    let mut held = user::connect(world.lab.ns(Place::User), user::at(NODE_USER_V4, port)?)?;
    user::exchange(&mut held, b"before")?;
    world.node_cli(&["drain"])?.ok()?;
    let event = totoro.event("draining")?;
    ensure!(event["others"] == json!(["spare"]), "{event}");
    user::exchange(&mut held, b"after")?;
    Ok("another is offered; the live connection goes on".to_owned())
}

fn spare(world: &World) -> Result<Api> {
    let address = format!("{NODE_CLIENT_V4}:{FRPS_PORT}");
    let words = [
        "node",
        "add",
        "--name",
        "spare",
        "--pool-tcp",
        "30000-30009",
        "--public",
    ];
    let words = [&words[..], &["--server-addr", &address, "--json"]].concat();
    let created: NodeCreated = serde_json::from_str(&world.control_cli(&words)?.ok()?)?;
    let key = format!("tk1-{}", "k".repeat(43));
    let enroll = Enroll {
        key_hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        instance: "00".repeat(16),
        callback: false,
    };
    let token = world.anyone.with_token(&created.token);
    token.post::<Value>("/nodes/enroll", &enroll)?;
    Ok(world.anyone.with_token(&key))
}
