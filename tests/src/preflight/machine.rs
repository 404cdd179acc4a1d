//! What the machine has, or lacks.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Others, Told};
use crate::lab::Place;
use crate::report::Report;
use crate::story::World;

/// A port of the pool that nobody has leased.
const OF_THE_POOL: u16 = 20_090;
const RANGE: &str = "net/ipv4/ip_local_port_range";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
const LOW: &str = "net/ipv4/ip_unprivileged_port_start";

pub(super) fn play(world: &mut World, report: &mut Report, others: Others<'_>) {
    report.check("a TPROXY rule is found", || tproxy(world));
    report.check(
        "another socket lookup is found, and another XDP program",
        || neighbours(world, others),
    );
    report.check("another program has a port of the pool", || listener(world));
    report.check("the kernel hands out ports of the pool", || {
        ephemeral(world)
    });
    report.check("the plugin's port is anybody's", || low_ports(world));
    report.check("the pool has frps's own port", || {
        Told::of(world, &["--frps-bind-port", "20005"])?.says(
            "pool",
            "fail",
            &["frps's own port, 20005"],
        )
    });
    report.check("the pool has the metrics' port", || {
        Told::of(world, &["--metrics-listen", "127.0.0.1:20005"])?.says(
            "pool",
            "fail",
            &["the metrics' port, 20005"],
        )
    });
    report.check("there is no bpffs", || {
        let elsewhere = world.lab.file("pins").display().to_string();
        let told = Told::of(world, &["--pin-root", &elsewhere])?;
        told.says(
            "bpffs",
            "fail",
            &[&elsewhere, "mount -t bpf bpf /sys/fs/bpf"],
        )
    });
    report.check("there is no cgroup v2", || {
        let elsewhere = world.lab.file("node").display().to_string();
        let told = Told::of(world, &["--cgroup", &elsewhere])?;
        told.says("cgroup", "fail", &[&elsewhere, "mount -t cgroup2 cgroup2"])
    });
    report.check("state can't be kept", || {
        let file = world.node_config().display().to_string();
        let told = Told::of(world, &["--state-dir", &file])?;
        told.says("state", "fail", &[&file, "is no directory", "state_dir"])
    });
    report.check("there is no kernel object", || {
        let nowhere = world.lab.file("no.o").display().to_string();
        Told::of(world, &["--object", &nowhere])?.says("object", "fail", &[&nowhere])
    });
    report.check(
        "an interface is not there, and none is to be filtered",
        || {
            let told = Told::of(world, &["--interfaces", "gone0"])?;
            told.says("interface", "warn", &["gone0", "not there now"])
        },
    );
    report.check("a capability is missing", || capability(world));
    report.check("nobody in particular looks", || nobody(world));
    report.check("the node's key is readable for others", || key(world));
    report.check("it is not enrolled", || {
        let told = under(world, &[], &world.lab.file("nowhere.toml"))?;
        told.says("settings", "warn", &["next: totoro-node enroll"])
    });
}

/// The rule is in force: a chain of the packets' way, in the node's namespace.
fn tproxy(world: &World) -> Result<String> {
    let nft = |line: &str| -> Result<()> {
        let mut nft = world.lab.command("nft");
        nft.arg(line);
        let done = world.lab.run(Place::Node, nft);
        done.and_then(|done| done.ok())
            .context("nft (apt-get install nftables)")?;
        Ok(())
    };
    nft("add table inet theirs; \
         add chain inet theirs before { type filter hook prerouting priority mangle; }; \
         add rule inet theirs before tcp dport 20000-20099 counter accept")?;
    // A rule that does something else is nobody's business.
    Told::of(world, &[])?.says("tproxy", "ok", &["no rule"])?;
    nft("add rule inet theirs before meta l4proto tcp tproxy to :3000")?;
    let said = Told::of(world, &[])?.says(
        "tproxy",
        "warn",
        &[
            "table theirs, chain before",
            "past the socket lookup",
            "nft list ruleset",
        ],
    );
    nft("delete table inet theirs")?;
    said
}

fn neighbours(world: &World, others: Others<'_>) -> Result<String> {
    let node = world.lab.ns(Place::Node);
    node.ip(&[
        "link", "add", "oth0", "type", "veth", "peer", "name", "oth1",
    ])?;
    let held = others(node, "oth0")?;
    let told = Told::of(world, &["--interfaces", "oth0"])?;
    drop(held);
    node.ip(&["link", "delete", "oth0"])?;
    let lookup = told.says("sk_lookup", "warn", &["theirs_admit", "bpftool link show"])?;
    let xdp = told.says(
        "neighbour",
        "warn",
        &["oth0 xdp", "theirs_xdp", "the filter is in TC"],
    )?;
    Ok(format!("{lookup}; {xdp}"))
}

fn listener(world: &World) -> Result<String> {
    let node = world.lab.ns(Place::Node);
    let listener = node.run(|| Ok(TcpListener::bind(("0.0.0.0", OF_THE_POOL))?))?;
    let (what, who) = (
        format!("tcp {OF_THE_POOL} ("),
        format!("pid {}", std::process::id()),
    );
    let told = Told::of(world, &[])?;
    drop(listener);
    told.says(
        "listeners",
        "fail",
        &[&what, &who, "stop it or take the port out of the pool"],
    )
}

fn ephemeral(world: &World) -> Result<String> {
    let (range, reserved) = (sysctl(world, RANGE)?, sysctl(world, RESERVED)?);
    set(world, RANGE, "15000 60999")?;
    // The daemon has seen to it at its start.
    Told::of(world, &[])?.says("ephemeral", "ok", &["15000-60999", "which is reserved"])?;
    set(world, RESERVED, "")?;
    let told = Told::of(world, &[])?;
    set(world, RESERVED, &reserved)?;
    set(world, RANGE, &range)?;
    told.says(
        "ephemeral",
        "warn",
        &["15000-60999", "net.ipv4.ip_local_reserved_ports"],
    )
}

fn low_ports(world: &World) -> Result<String> {
    let low = sysctl(world, LOW)?;
    set(world, LOW, "500")?;
    let told = Told::of(world, &[])?;
    set(world, LOW, &low)?;
    told.says(
        "plugin",
        "fail",
        &[
            "any local user can take a port from 500 on",
            "choose a lower one",
        ],
    )
}

/// Root, but in a container that has not all of root's powers.
fn capability(world: &World) -> Result<String> {
    let told = under(world, &["--bounding-set", "-bpf"], &world.node_config())?;
    let said = told.says("capabilities", "fail", &["CAP_BPF missing", "run as root"])?;
    let told = under(world, &["--bounding-set", "-all"], &world.node_config())?;
    told.says(
        "capabilities",
        "fail",
        &["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"],
    )?;
    told.says(
        "bpf",
        "fail",
        &["can't be made: XDP programs", "not permitted"],
    )?;
    told.says("sk_lookup", "warn", &["can't be listed"])?;
    Ok(said)
}

/// Not even root: before it is enrolled, since its settings are root's.
fn nobody(world: &World) -> Result<String> {
    let less = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let told = under(world, &less, &world.lab.file("nowhere.toml"))?;
    told.says("privilege", "fail", &["run as root"])
}

fn key(world: &World) -> Result<String> {
    let open = |mode| fs::set_permissions(world.node_key(), fs::Permissions::from_mode(mode));
    open(0o644)?;
    let told = Told::of(world, &[])?;
    open(0o600)?;
    told.says("node key", "fail", &["node.key", "chmod 600"])
}

/// What `check` says of these settings to somebody whom `setpriv` has made less than root.
fn under(world: &World, less: &[&str], settings: &Path) -> Result<Told> {
    Told::by(world, |form| {
        let mut command = world.lab.command("setpriv");
        command.args(less).arg("--").arg(&world.lab.tools.node);
        command.args(form).arg("--config").arg(settings);
        command
    })
}

/// A setting of the node's network namespace.
fn sysctl(world: &World, name: &str) -> Result<String> {
    let read = || fs::read_to_string(format!("/proc/sys/{name}")).context("read a sysctl");
    Ok(world.lab.ns(Place::Node).run(read)?.trim().to_owned())
}

fn set(world: &World, name: &str, value: &str) -> Result<()> {
    let write = || fs::write(format!("/proc/sys/{name}"), format!("{value}\n"));
    world
        .lab
        .ns(Place::Node)
        .run(|| write().with_context(|| format!("set {name}")))
}
