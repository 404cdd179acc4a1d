//! What is around the node: frps, its file, and the control plane.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Told;
use crate::hostile::client::{Client, Way};
use crate::lab::{Place, Process, WallClock};
use crate::report::Report;
use crate::story::frpc::{PATIENCE, Proxy};
use crate::story::world::POOL;
use crate::story::{World, bring_up, start_frps, within};

/// What a connection may cost frps, as `check` counts.
const PER_CONNECTION_KIB: u64 = 12 << 10;
/// Of a frps beside the node's.
const OTHER_FRPS: u16 = 7_100;

pub(super) fn play(world: &mut World, report: &mut Report, clock: &WallClock) {
    report.check("a frps listens with MPTCP", || mptcp(world));
    report.check(
        "more connections are allowed than frps has memory for",
        || memory(world),
    );
    report.check("frps may not open the whole pool", || pool(world));
    report.check("frps is on another port than the settings say", || {
        let told = Told::of(world, &["--frps-bind-port", "7001"])?;
        told.says("frps", "fail", &["port 7000", "frps_bind_port = 7000"])
    });
    report.check("frps's file is another, is anybody's, is not there", || {
        file(world)
    });
    report.check("frps is away", || frps_away(world));
    report.check("the clock is off", || off(world, clock));
    report.check("the control plane does not know the key", || {
        stranger(world)
    });
    report.check("the control plane is away", || control_away(world));
}

/// One that is started as anybody would start it; the node's own, by its unit's environment, is not.
fn mptcp(world: &World) -> Result<String> {
    if !Path::new("/proc/sys/net/mptcp").exists() {
        return Told::of(world, &[])?.says("frps mptcp", "ok", &["the kernel has it off"]);
    }
    let config = world.lab.file("other-frps.toml");
    fs::write(&config, format!("bindPort = {OTHER_FRPS}\n"))?;
    let mut command = world.lab.command(&world.lab.tools.frps);
    command.arg("-c").arg(config);
    let mut other = world.lab.start(Place::Node, "other-frps", command)?;
    other.wait_new("frps started successfully", PATIENCE)?;
    let theirs = format!("pid {}", other.pid());
    let ours = world.frps.as_ref().map(Process::pid).context("frps runs")?;
    let told = Told::of(world, &[])?;
    // What it is told by is so.
    let is_mptcp = |port: u16| -> Result<bool> {
        let mut ss = world.lab.command("ss");
        ss.args(["-tlniH", &format!("sport = :{port}")]);
        let listed = world.lab.run(Place::Node, ss)?.ok()?;
        ensure!(
            listed.contains("LISTEN"),
            "nothing listens on {port}: {listed}"
        );
        Ok(listed.contains("mptcp"))
    };
    ensure!(
        is_mptcp(OTHER_FRPS)?,
        "a frps without GODEBUG listens with plain TCP"
    );
    ensure!(
        !is_mptcp(crate::story::FRPS_PORT)?,
        "the node's frps listens with MPTCP"
    );
    other.stop();
    told.says("frps mptcp", "ok", &[&format!("pid {ours}")])?;
    told.says(
        "frps mptcp",
        "fail",
        &[&theirs, "start frps with GODEBUG=multipathtcp=0"],
    )
}

/// One tenant may have more than the whole machine's memory serves, until the node's own bound.
fn memory(world: &World) -> Result<String> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total
        .context("MemTotal")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    let many = kib / PER_CONNECTION_KIB + 1;
    let proxies = [Proxy::new("many", "tcp", world.backend.tcp, 20_001)];
    let limits = json!({ "max_conns": many, "max_proxies": 1 });
    let client = Client::start(world, "many", limits, Way::PLAIN, &proxies)?;
    let (told, bound) = (
        Told::of(world, &[])?,
        Told::of(world, &["--max-conns-total", "10"])?,
    );
    client.revoke(world)?;
    client.frpc.stop();
    bound.says("frps memory", "ok", &["10 are allowed now"])?;
    let words = [
        &format!("{many} connections are allowed now"),
        "12 MiB each",
        "max_conns_total",
    ];
    told.says("frps memory", "warn", &words)
}

/// The pool has grown, and frps has not been told.
fn pool(world: &World) -> Result<String> {
    const GROWN: &str = "20000-20199";
    let change = |pool: &str| -> Result<Told> {
        world
            .control_cli(&["node", "change", &world.node_id, "--pool-tcp", pool])?
            .ok()?;
        within(PATIENCE, || {
            let told = Told::of(world, &[])?;
            Ok(told
                .says("pool", "ok", &[&format!("tcp {pool};")])
                .is_ok()
                .then_some(told))
        })
    };
    let told = change(GROWN)?;
    change(POOL)?;
    told.says(
        "frps config",
        "warn",
        &["frps.toml", "the pool, a port or a secret changed"],
    )?;
    let words = [
        "its allowPorts (20000-20099) lack ports of the pool (20000-20199)",
        "totoro-node frps-config",
    ];
    told.says("frps", "fail", &words)
}

fn file(world: &World) -> Result<String> {
    let path = world.lab.file("node/frps.toml");
    let was = fs::read_to_string(&path)?;
    let open = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
    open(0o644)?;
    Told::of(world, &[])?.says("frps config", "fail", &["others may read it", "chmod 600"])?;
    open(0o600)?;
    fs::write(&path, format!("{was}# by hand\n"))?;
    Told::of(world, &[])?.says(
        "frps config",
        "warn",
        &["somebody edited it", "restart frps"],
    )?;
    fs::remove_file(&path)?;
    let told = Told::of(world, &[])?;
    fs::write(&path, &was)?;
    open(0o600)?;
    told.says(
        "frps config",
        "warn",
        &["not there, or elsewhere", "totoro-node frps-config --out"],
    )
}

fn frps_away(world: &mut World) -> Result<String> {
    world.frps.take().context("frps runs")?.stop();
    let told = Told::of(world, &[])?;
    start_frps(world)?;
    told.says(
        "frps",
        "warn",
        &[
            "127.0.0.1:7500",
            "start it with what `totoro-node frps-config` prints",
        ],
    )
}

/// This machine's, beside the control plane's, which counts.
fn off(world: &World, clock: &WallClock) -> Result<String> {
    let told = |off_s| -> Result<Told> {
        clock.set(off_s)?;
        Told::by(world, |form| {
            let mut command = world.node_command(form);
            clock.give(&mut command);
            command
        })
    };
    told(0)?.says("clock", "ok", &["as the control plane's"])?;
    told(-30)?.says("clock", "warn", &["s behind of the control plane's"])?;
    told(3_600)?.says(
        "clock",
        "fail",
        &["s ahead of the control plane's", "timedatectl"],
    )
}

fn stranger(world: &World) -> Result<String> {
    let key = world.write_secret("stranger.key", "nobody-s-key")?;
    let told = Told::of(world, &["--key-file", &key.display().to_string()])?;
    told.says(
        "control",
        "fail",
        &["does not know this node's key", "enrol with a new token"],
    )
}

fn control_away(world: &mut World) -> Result<String> {
    world
        .control
        .take()
        .context("the control plane runs")?
        .stop();
    let told = Told::of(world, &[])?;
    bring_up::serve(world)?;
    told.says(
        "control",
        "warn",
        &["10.77.1.1:8080", "the node enforces what it knows"],
    )
}
