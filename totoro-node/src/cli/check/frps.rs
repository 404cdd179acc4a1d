//! The frps beside the node: whether it runs as `frps-config` would have it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::Path;

use procfs::Current;
use procfs::process::Process;
use totoro_api::ports::Pool;

use super::super::frps_config;
use super::{Line, Status, heap};
use crate::config::Config;
use crate::frps::{Frps, ServerInfo};
use crate::kernel::Inspector;
use crate::{machine, secret};

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
            if is_old(&info.version) {
                let detail = format!(
                    "version {} is older than any that was tried; use 0.61 or newer",
                    info.version
                );
                lines.push(Line::new("frps", target.clone(), Status::Warn, detail));
            }
            lines.extend(elsewhere(&info, config.frps_bind_port));
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
    lines.extend(processes(config));
    lines
}

/// A frps on another port than the settings say: the programs, which tie Logins to connections, look at that one.
fn elsewhere(info: &ServerInfo, wanted: u16) -> Option<Line> {
    let is = info.bind_port.filter(|is| *is != wanted)?;
    let detail = format!(
        "listens on port {is}, and frps_bind_port is {wanted}: no Login can be told whose it is. Restart frps with \
         the file that totoro-node frps-config writes, or set frps_bind_port = {is} and restart totoro-node"
    );
    Some(Line::new(
        "frps",
        format!("port {is}"),
        Status::Fail,
        detail,
    ))
}

/// The oldest frps that is tried with the plugin's protocol as it is used here.
const OLDEST: (u32, u32) = (0, 61);

/// Whether a version like `0.70.1` is old.
fn is_old(version: &str) -> bool {
    let mut parts = version
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    }
}

/// Its configuration's file, where it is meant to be, against what it should be now.
pub(in crate::cli) fn file(config: &Config, settings: &Path, pool: &Pool) -> Line {
    let path = settings.with_file_name("frps.toml");
    let target = path.display().to_string();
    let fix = format!("write it anew (totoro-node frps-config --out {target}) and restart frps");
    let (status, detail) = match (
        std::fs::read_to_string(&path),
        frps_config::text(config, pool),
    ) {
        (Err(error), _) if error.kind() == ErrorKind::NotFound => {
            (Status::Warn, format!("not there, or elsewhere; {fix}"))
        }
        (Err(error), _) => (Status::Warn, error.to_string()),
        (Ok(_), _) if secret::read(&path).is_err_and(|why| why.to_string().contains("chmod")) => (
            Status::Fail,
            format!("others may read it, and it has secrets in it; chmod 600 {target}"),
        ),
        // The lines on secrets say why.
        (_, Err(error)) => (Status::Warn, format!("{error:#}")),
        (Ok(is), Ok(wanted)) if is == wanted => (Status::Ok, "as it should be now".to_owned()),
        (Ok(_), Ok(_)) => {
            let differs = "differs from what the node would have now: the pool, a port or a secret \
                           changed, or somebody edited it";
            (Status::Warn, format!("{differs}; {fix}"))
        }
    };
    Line::new("frps config", target, status, detail)
}

/// What the running frps processes are like. Others' can't be looked into without root.
fn processes(config: &Config) -> Vec<Line> {
    let most = most_conns(config);
    let total = procfs::Meminfo::current().map_or(0, |memory| memory.mem_total);
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let is_frps = |process: &Process| process.stat().is_ok_and(|stat| stat.comm == "frps");
    let ours = |process: &Process| same_netns(process).unwrap_or(false);
    all.filter_map(Result::ok)
        .filter(|process| is_frps(process) && ours(process))
        .flat_map(|process| {
            let pid = format!("pid {}", process.pid());
            // Without any where it can't be looked into.
            let environ = process.environ().unwrap_or_default();
            let limit = memory_limit(&process);
            [
                mptcp(pid.clone(), &environ),
                memory(limit, total, most),
                heap(pid, &environ, limit),
            ]
        })
        .collect()
}

fn same_netns(process: &Process) -> Option<bool> {
    let mine = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(std::fs::read_link(format!("/proc/{}/ns/net", process.pid())).ok()? == mine)
}

fn mptcp(target: String, environ: &Environ) -> Line {
    if !matches!(
        machine::read_line("/proc/sys/net/mptcp/enabled").as_str(),
        "1"
    ) {
        return Line::new("frps mptcp", target, Status::Ok, "the kernel has it off");
    }
    let off = variable(environ, "GODEBUG").is_some_and(|value| value.contains(NO_MPTCP));
    Line::must(
        "frps mptcp",
        target,
        off,
        "off by GODEBUG",
        "on: its subflows escape the counts; start frps with GODEBUG=multipathtcp=0",
    )
}

/// What a process was started with.
type Environ = HashMap<OsString, OsString>;

/// One of its environment's variables.
fn variable(environ: &Environ, name: &str) -> Option<String> {
    let value = environ.get(OsStr::new(name))?;
    Some(value.to_string_lossy().into_owned())
}

/// How often Go looks through its heap.
fn heap(target: String, environ: &Environ, most: Option<u64>) -> Line {
    let [gogc, limit] = ["GOGC", "GOMEMLIMIT"].map(|name| variable(environ, name));
    let told = heap::Told {
        gogc: gogc.as_deref(),
        limit: limit.as_deref(),
    };
    let (status, detail) = heap::judge(told, most);
    Line::new("frps heap", target, status, detail)
}

/// The most connections that all tenants together may have now; `None` before anything is loaded.
fn most_conns(config: &Config) -> Option<u64> {
    let inspector = Inspector::open(&config.pin_root).ok()?;
    let ports = inspector.ports().ok()?;
    let leased: BTreeSet<u32> = ports.iter().map(|(_, lease, _)| lease.tenant).collect();
    let tenants = inspector.tenants().ok()?;
    let most = tenants
        .iter()
        .filter(|(number, ..)| leased.contains(number));
    let sum = most.map(|(_, tenant, _)| u64::from(tenant.max_conns)).sum();
    Some(match u64::from(config.max_conns_total) {
        0 => sum,
        total => total.min(sum),
    })
}

/// Whether the connections that may come fit the memory that frps may use: of the machine's as much as its cgroup
/// lets it have.
fn memory(limited: Option<u64>, total: u64, most: Option<u64>) -> Line {
    let limit = limited.unwrap_or(total).min(total);
    let fits = limit / PER_CONNECTION;
    let whose = match limited {
        Some(limited) if limited > total => "the whole machine's: its cgroup's limit is above that",
        Some(_) => "its cgroup's limit",
        None => "the whole machine's: it has no limit of its own, set MemoryMax",
    };
    let (status, detail) = match most {
        Some(most) if most > fits => (
            Status::Warn,
            format!(
                "{most} connections are allowed now (max_conns of who has a port), and {fits} that \
                 read nothing fit ({whose}; 12 MiB each): give frps more, or set \
                 max_conns_total"
            ),
        ),
        most => (
            Status::Ok,
            format!(
                "fits {fits} connections that read nothing ({whose}; 12 MiB each); {} are allowed now",
                most.unwrap_or(0)
            ),
        ),
    };
    Line::new(
        "frps memory",
        format!("{} MiB", limit >> 20),
        status,
        detail,
    )
}

/// The least `memory.max` of the process's cgroup and of those above it: all of them hold.
fn memory_limit(process: &Process) -> Option<u64> {
    let root = machine::cgroup2_root()?;
    let groups = process.cgroups().ok()?;
    let own = groups.0.into_iter().find(|group| group.hierarchy == 0)?;
    least_limit(&root, &root.join(own.pathname.trim_start_matches('/')))
}

fn least_limit(root: &Path, group: &Path) -> Option<u64> {
    group
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(|dir| std::fs::read_to_string(dir.join("memory.max")).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_older_than_the_oldest_that_was_tried_is_old() {
        for (version, old) in [
            ("0.60.0", true),
            ("0.9.1", true),
            ("0.61.0", false),
            ("0.70.1", false),
            ("1.0.0", false),
            ("1.0", false),
            ("unknown", false),
        ] {
            assert_eq!(is_old(version), old, "{version}");
        }
    }

    #[test]
    fn the_least_limit_of_all_cgroups_holds() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("system.slice/totoro-frps.service");
        std::fs::create_dir_all(&group).unwrap();
        let limit = |dir: &Path, text: &str| std::fs::write(dir.join("memory.max"), text).unwrap();
        assert_eq!(least_limit(root.path(), &group), None);
        limit(&group, "max\n");
        assert_eq!(least_limit(root.path(), &group), None);
        limit(&group, "2147483648\n");
        assert_eq!(least_limit(root.path(), &group), Some(2 << 30));
        limit(group.parent().unwrap(), "536870912\n");
        assert_eq!(least_limit(root.path(), &group), Some(512 << 20));
    }

    #[test]
    fn no_more_memory_than_the_machine_has_is_counted_on() {
        for (limited, total, fits, says) in [
            (Some(1_200), 2_400, 100, "its cgroup's limit;"),
            (Some(4_800), 2_400, 200, "above that"),
            (None, 2_400, 200, "set MemoryMax"),
        ] {
            let line = memory(limited.map(|mib: u64| mib << 20), total << 20, Some(201));
            assert_eq!(line.status, Status::Warn, "{limited:?}");
            let detail = line.detail;
            assert!(
                detail.contains(&format!("{fits} that read nothing fit")),
                "{detail}"
            );
            assert!(detail.contains(says), "{detail}");
        }
    }

    #[test]
    fn a_frps_on_another_port_is_told() {
        let told = |said: &str| elsewhere(&serde_json::from_str(said).unwrap(), 7000);
        assert!(told(r#"{"version":"0.70.1","bindPort":7000}"#).is_none());
        assert!(told(r#"{"version":"0.70.1"}"#).is_none(), "it does not say");
        let line = told(r#"{"version":"0.70.1","bindPort":7001}"#).unwrap();
        assert_eq!((line.status, &*line.target), (Status::Fail, "port 7001"));
        for next in ["frps-config", "frps_bind_port = 7001"] {
            assert!(line.detail.contains(next), "{}", line.detail);
        }
    }
}
