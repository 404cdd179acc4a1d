//! The frps beside the node: whether it runs as `frps-config` would have it.

use procfs::process::Process;
use totoro_api::ports::Pool;

use super::{Line, Status};
use crate::config::Config;
use crate::frps::Frps;
use crate::machine;

/// What frps needs per user connection at worst: yamux's window and buffers on both sides, bytes.
const PER_CONNECTION: u64 = 12 << 20;
/// The variable without which a Go program listens with MPTCP, whose subflows escape the counts.
const NO_MPTCP: &str = "multipathtcp=0";

pub(in crate::cli) async fn lines(config: &Config, pool: &Pool) -> Vec<Line> {
    let target = config.frps_admin.to_string();
    let info = match Frps::new(config) {
        Ok(frps) => frps.info().await,
        Err(error) => Err(error),
    };
    let mut lines = Vec::new();
    match info {
        Ok(info) => {
            let lacking = info.lacks(pool);
            lines.push(Line::must(
                "frps",
                target,
                lacking.is_none(),
                &format!("version {}, may open the whole pool", info.version),
                &format!(
                    "its allowPorts ({}) lack ports of the pool ({}); write its configuration \
                     anew (totoro-node frps-config) and restart it",
                    info.allow_ports,
                    lacking
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default()
                ),
            ));
        }
        Err(error) => lines.push(Line::new(
            "frps",
            target,
            Status::Warn,
            format!("{error:#}; start it with what `totoro-node frps-config` prints"),
        )),
    }
    lines.extend(processes(config.max_conns_total));
    lines
}

/// What the running frps processes are like. Others' can't be looked into without root.
fn processes(max_conns_total: u32) -> Vec<Line> {
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let is_frps = |process: &Process| process.stat().is_ok_and(|stat| stat.comm == "frps");
    let ours = |process: &Process| same_netns(process).unwrap_or(false);
    all.filter_map(Result::ok)
        .filter(|process| is_frps(process) && ours(process))
        .flat_map(|process| [mptcp(&process), memory(&process, max_conns_total)])
        .collect()
}

fn same_netns(process: &Process) -> Option<bool> {
    let mine = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(std::fs::read_link(format!("/proc/{}/ns/net", process.pid())).ok()? == mine)
}

fn mptcp(process: &Process) -> Line {
    let target = format!("pid {}", process.pid());
    if !matches!(
        machine::read_line("/proc/sys/net/mptcp/enabled").as_str(),
        "1"
    ) {
        return Line::new("frps mptcp", target, Status::Ok, "the kernel has it off");
    }
    let off = process.environ().is_ok_and(|all| {
        all.get(std::ffi::OsStr::new("GODEBUG"))
            .is_some_and(|value| value.to_string_lossy().contains(NO_MPTCP))
    });
    Line::must(
        "frps mptcp",
        target,
        off,
        "off by GODEBUG",
        "on: its subflows escape the counts; start frps with GODEBUG=multipathtcp=0",
    )
}

/// Whether the connections that the node bears fit the memory that frps may use.
fn memory(process: &Process, max_conns_total: u32) -> Line {
    let limit = memory_limit(process)
        .or_else(|| {
            let memory = procfs::Current::current().ok();
            memory.map(|memory: procfs::Meminfo| memory.mem_total)
        })
        .unwrap_or(0);
    let target = format!("{} MiB", limit >> 20);
    let fit = limit / PER_CONNECTION;
    match u64::from(max_conns_total) {
        0 => Line::new(
            "frps memory",
            target,
            Status::Ok,
            format!(
                "fits {fit} connections that read nothing (12 MiB each); set max_conns_total to no \
                 more, or keep the sum of max_conns below"
            ),
        ),
        total => Line::must(
            "frps memory",
            target,
            total <= fit,
            &format!("fits {fit} connections that read nothing; max_conns_total is {total}"),
            &format!(
                "fits {fit} connections that read nothing (12 MiB each), and max_conns_total is \
                 {total}; lower it, or raise frps's MemoryMax"
            ),
        ),
    }
}

/// `memory.max` of the process's cgroup, or of the nearest one above it that has one.
fn memory_limit(process: &Process) -> Option<u64> {
    let root = machine::cgroup2_root()?;
    let groups = process.cgroups().ok()?;
    let own = groups.0.into_iter().find(|group| group.hierarchy == 0)?;
    let dir = root.join(own.pathname.trim_start_matches('/'));
    dir.ancestors()
        .take_while(|dir| dir.starts_with(&root))
        .filter_map(|dir| std::fs::read_to_string(dir.join("memory.max")).ok())
        .find_map(|text| text.trim().parse().ok())
}
