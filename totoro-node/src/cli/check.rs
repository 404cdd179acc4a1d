//! `check`: whether this machine can be a node, before anything is loaded.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use totoro_api::ports::Protocol;

use super::table::{Table, json};
use crate::config::Config;
use crate::machine;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Line {
    component: &'static str,
    target: String,
    status: Status,
    detail: String,
}

/// Prints the preflight; fails when something is missing.
pub(super) fn run(config: &Config, as_json: bool) -> Result<()> {
    let lines = lines(config);
    if as_json {
        json(&lines)?;
    } else {
        let mut table = Table::new(["COMPONENT", "TARGET", "STATUS", "DETAIL"]);
        for line in &lines {
            table.row([
                line.component.to_owned(),
                line.target.clone(),
                format!("{:?}", line.status).to_uppercase(),
                line.detail.clone(),
            ]);
        }
        table.print();
    }
    let failed = lines
        .iter()
        .filter(|line| line.status == Status::Fail)
        .count();
    if failed > 0 {
        bail!(
            "{failed} of {} checks failed; the lines say what to do",
            lines.len()
        );
    }
    Ok(())
}

fn lines(config: &Config) -> Vec<Line> {
    let line = |component, target: String, ok: bool, detail: &str, advice: &str| Line {
        component,
        target,
        status: if ok { Status::Ok } else { Status::Fail },
        detail: if ok { detail } else { advice }.to_owned(),
    };
    let root = nix::unistd::geteuid().is_root();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let pins = crate::kernel::is_on_bpffs(&config.pin_root);
    let cgroup = config.cgroup.join("cgroup.procs").exists();
    let object = config.object.exists();
    let low = config.plugin_listen.port() < 1024;
    let pool = config.pool.of(Protocol::Tcp);
    let apart = !pool.contains(config.frps_bind_port);
    let path = |path: &Path| path.display().to_string();
    let mut lines = vec![
        line(
            "privilege",
            "uid 0".to_owned(),
            root,
            "root",
            "run as root: loading programs needs it",
        ),
        line(
            "kernel",
            machine::kernel_release(),
            btf,
            "has BTF",
            "has no BTF (/sys/kernel/btf/vmlinux); use a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's",
        ),
        line(
            "bpffs",
            path(&config.pin_root),
            pins,
            "pins can be made",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        line(
            "cgroup",
            path(&config.cgroup),
            cgroup,
            "cgroup v2",
            "no cgroup v2 there: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or set `cgroup`",
        ),
        line(
            "object",
            path(&config.object),
            object,
            "there",
            "not there; build it: cargo xtask build-ebpf, or set `object`",
        ),
        line(
            "plugin",
            config.plugin_listen.to_string(),
            low,
            "below 1024",
            "any local user can take a port from 1024 on; choose a lower one",
        ),
        line(
            "pool",
            format!("tcp {}; udp {}", config.pool.tcp, config.pool.udp),
            apart,
            "apart from frps's own port",
            "contains frps's own port; change the pool or frps_bind_port",
        ),
    ];
    lines.push(ephemeral(config));
    lines.extend(config.interfaces.iter().map(|name| interface(name)));
    if config.interfaces.is_empty() {
        lines.push(Line {
            component: "interface",
            target: "-".to_owned(),
            status: Status::Warn,
            detail: "none to filter; the socket lookup guards alone. Set `interfaces`".to_owned(),
        });
    }
    lines
}

fn interface(name: &str) -> Line {
    // Not by /sys/class/net, which may show another network namespace than ours.
    let there = nix::net::if_::if_nametoindex(name).is_ok();
    Line {
        component: "interface",
        target: name.to_owned(),
        status: if there { Status::Ok } else { Status::Warn },
        detail: if there {
            "there"
        } else {
            "not there now; it is guarded by the socket lookup only"
        }
        .to_owned(),
    }
}

/// The pool against the ports that the kernel hands out by itself.
fn ephemeral(config: &Config) -> Line {
    let range = machine::read_line("/proc/sys/net/ipv4/ip_local_port_range");
    let overlaps = crate::reserve::overlaps(&config.pool, &range);
    let reserved = crate::reserve::covers(&config.pool);
    Line {
        component: "ephemeral",
        target: range.split_whitespace().collect::<Vec<_>>().join("-"),
        status: if overlaps && !reserved {
            Status::Warn
        } else {
            Status::Ok
        },
        detail: match (overlaps, reserved) {
            (false, _) => "apart from the pool",
            (true, true) => "overlaps the pool, which is reserved",
            (true, false) => {
                "overlaps the pool; `run` reserves it (net.ipv4.ip_local_reserved_ports)"
            }
        }
        .to_owned(),
    }
}
