//! Item 1: everything starts, and the node is listed.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use totoro_api::Reason;
use totoro_api::wire::node::{Enroll, Grade, NodeCreated, PublicNode};

use super::world::{CONTROL, FRPS_PORT, POOL, World, ms, within};
use crate::lab::{NODE_CLIENT_V4, Place};
use crate::report::Report;

/// The longest that a start may take, where everybody else is busy, too.
const START: Duration = Duration::from_secs(60);

pub(crate) fn play(world: &mut World, report: &mut Report) {
    report.check("control plane on sled answers", || control(world));
    report.check("node enrolled with a one-time token", || enrol(world));
    report.check("the token is good only once", || token_again(world));
    report.check("totoro-node loads its programs and pins them", || {
        node(world)
    });
    report.check("stock frps runs on the printed configuration", || {
        frps(world)
    });
    report.check(
        "first heartbeat; GET /public/nodes lists it at grade kernel",
        || listed(world),
    );
}

pub(crate) fn control(world: &mut World) -> Result<String> {
    let begun = Instant::now();
    let dir = world.lab.file("control");
    let mut init = world.lab.command(&world.lab.tools.control);
    init.args([
        "init",
        "--listen",
        "10.77.1.1:8080",
        "--public-url",
        CONTROL,
        "--insecure-http",
    ]);
    init.args(["--ticket-ttl", &format!("{}s", world.ticket_ttl_s)]);
    if let Some(interval) = world.heartbeat {
        init.args(["--heartbeat-interval", interval]);
    }
    world
        .lab
        .run(Place::Node, {
            init.arg("--dir").arg(&dir);
            init
        })?
        .ok()?;
    serve(world)?;
    let db = dir.join("data");
    ensure!(db.is_dir(), "{} is not there", db.display());
    Ok(ms(begun.elapsed()))
}

/// Starts the control plane, at first or again.
pub(crate) fn serve(world: &mut World) -> Result<()> {
    let mut serve = world.lab.command(&world.lab.tools.control);
    serve
        .arg("serve")
        .arg("--config")
        .arg(world.lab.file("control/control.toml"));
    let mut control = world.lab.start(Place::Node, "control", serve)?;
    control.wait_new("listening", START)?;
    world.control = Some(control);
    Ok(())
}

pub(crate) fn enrol(world: &mut World) -> Result<String> {
    let limits = r#"{"max_conns":3,"max_proxies":1,"max_clients":1}"#;
    let added = world.control_cli(&[
        "node",
        "add",
        "--name",
        "lab",
        "--pool-tcp",
        POOL,
        "--pool-udp",
        POOL,
        "--server-addr",
        &format!("{NODE_CLIENT_V4}:{FRPS_PORT}"),
        "--public",
        "--public-limits",
        limits,
        "--json",
    ])?;
    let created: NodeCreated = serde_json::from_str(&added.ok()?).context("read the new node")?;
    let mut enrol = world.lab.command(&world.lab.tools.node);
    enrol
        .args(["enroll", "--control", CONTROL, "--insecure-http"])
        .arg("--dir");
    enrol
        .arg(world.lab.file("node"))
        .env("TOTORO_TOKEN", &created.token);
    world.lab.run(Place::Node, enrol)?.ok()?;
    let key = fs::metadata(world.node_key()).context("the node's key")?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777;
    ensure!(mode == 0o600, "node.key has mode {mode:o}");
    world.node_id = created.id;
    world.spent_token = created.token;
    Ok(format!("{}, key made on the node, 0600", world.node_id))
}

fn node(world: &mut World) -> Result<String> {
    let more = [("xdp", "\"native\"")].into_iter();
    let more: Vec<_> = more.chain(world.settings.iter().copied()).collect();
    configure(world, &more)?;
    let begun = Instant::now();
    let command = world.node_command(&["run"]);
    run_node(world, command)?;
    let took = begun.elapsed();
    let pins = fs::read_dir(world.lab.pin_root()).context("the pins' directory")?;
    let names: Vec<_> = pins.flatten().map(|pin| pin.file_name()).collect();
    ensure!(!names.is_empty(), "nothing is pinned");
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    Ok(format!("{}, pins under {}", ms(took), names.join(" ")))
}

/// Sets in node.toml what differs from a machine of its own: names, and a cgroup that is not the
/// root; and `more`, as TOML.
pub(crate) fn configure(world: &World, more: &[(&str, &str)]) -> Result<()> {
    let config = world.node_config();
    let mut text = fs::read_to_string(&config).context("read node.toml")?;
    for (key, path) in [
        ("pin_root", world.lab.pin_root()),
        ("cgroup", world.lab.cgroup().to_owned()),
        ("object", world.lab.tools.object.clone()),
        ("state_dir", world.lab.file("node/state")),
        ("run_dir", world.lab.run_dir().join("node")),
    ] {
        text = set(&text, key, &format!("{:?}", path.display().to_string()));
    }
    text = set(&text, "interfaces", r#"["cl0", "us0"]"#);
    for (key, value) in more {
        text = set(&text, key, value);
    }
    fs::write(&config, text).context("write node.toml")
}

/// Starts the daemon by this command, at first or again.
pub(crate) fn run_node(world: &mut World, command: Command) -> Result<()> {
    let mut node = world.lab.start(Place::Node, "node", command)?;
    node.wait_new("ready", START)?;
    world.node = Some(node);
    Ok(())
}

/// The same token with another key, once the first one was used: somebody found it in a shell's
/// history.
fn token_again(world: &World) -> Result<String> {
    // The first use of the key seals the enrolment.
    world.lender()?.get::<serde_json::Value>("/nodes/invites")?;
    let enroll = Enroll {
        key_hash: blake3::hash(b"another key").to_hex().to_string(),
        instance: "00".repeat(16),
        callback: false,
    };
    let thief = world.anyone.with_token(&world.spent_token);
    let reason = thief.refused("/nodes/enroll", &enroll)?;
    ensure!(reason == Reason::NotAuthorized, "refused by {reason}");
    Ok(format!("refused by {reason}"))
}

/// TOML text with a top-level key set.
fn set(text: &str, key: &str, value: &str) -> String {
    let others = text
        .lines()
        .filter(|line| line.split('=').next().is_none_or(|name| name.trim() != key));
    std::iter::once(format!("{key} = {value}"))
        .chain(others.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Writes the configuration that the node prints, and starts frps on it.
pub(crate) fn frps(world: &mut World) -> Result<String> {
    let printed = world.node_cli(&["frps-config"])?.ok()?;
    ensure!(
        printed.contains("httpPlugins"),
        "no plugin in the configuration"
    );
    let printed = format!("{}{printed}", world.frps_more);
    let path = world.lab.file("node/frps.toml");
    fs::write(&path, printed).context("write frps.toml")?;
    // It has secrets in it: `check` wants them nobody else's.
    let owners = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, owners).context("close frps.toml")?;
    let begun = Instant::now();
    run_frps(world)?;
    Ok(ms(begun.elapsed()))
}

/// Starts frps on the file that was printed, at first or again.
pub(crate) fn run_frps(world: &mut World) -> Result<()> {
    run_frps_with(world, super::frps::environment())
}

/// The same with another environment than its unit's.
pub(crate) fn run_frps_with(
    world: &mut World,
    environment: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Result<()> {
    let mut command = world.lab.command(&world.lab.tools.frps);
    let config = world.lab.file("node/frps.toml");
    command.arg("-c").arg(config).envs(environment);
    let mut frps = world.lab.start(Place::Node, "frps", command)?;
    frps.wait_new("frps started successfully", START)?;
    world.frps = Some(frps);
    Ok(())
}

fn listed(world: &mut World) -> Result<String> {
    let begun = Instant::now();
    let node: PublicNode = within(START, || {
        // A stranger's address may not ask a hundred times a second for long.
        std::thread::sleep(Duration::from_millis(300));
        let nodes: serde_json::Value = world.anyone.get("/public/nodes")?;
        let items = nodes.get("items").unwrap_or(&nodes).clone();
        let nodes: Vec<PublicNode> = serde_json::from_value(items).context("read the nodes")?;
        let node = nodes
            .into_iter()
            .find(|node| node.id == world.node_id)
            .context("not listed")?;
        let version = |part: &str| node.versions.get(part).is_some_and(|text| !text.is_empty());
        ensure!(
            version("agent") && version("frps") && version("kernel"),
            "versions: {:?}",
            node.versions
        );
        ensure!(
            node.grade == Grade::Kernel,
            "grade {:?}, state {:?}",
            node.grade,
            node.state
        );
        Ok(Some(node))
    })?;
    let version = |part: &str| node.versions.get(part).cloned().unwrap_or_default();
    ensure!(
        version("frps").contains("0.70.1"),
        "frps {}",
        version("frps")
    );
    Ok(format!(
        "after {}; agent {}, frps {}, kernel {}",
        ms(begun.elapsed()),
        version("agent"),
        version("frps"),
        version("kernel")
    ))
}
