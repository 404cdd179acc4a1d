//! The machine and its kernel.

use std::path::Path;

use totoro_api::ports::{Pool, Protocol};

use super::{Line, Status};
use crate::config::Config;
use crate::{kernel, machine, reserve, secret};

const LOW_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
const FAST_OPEN: &str = "/proc/sys/net/ipv4/tcp_fastopen";

pub(super) fn lines(config: &Config, pool: &Pool) -> Vec<Line> {
    let path = |path: &Path| path.display().to_string();
    let mut lines = vec![
        Line::must(
            "privilege",
            "uid 0",
            nix::unistd::geteuid().is_root(),
            "root",
            "run as root: loading programs needs it",
        ),
        Line::must(
            "bpffs",
            path(&config.pin_root),
            kernel::is_on_bpffs(&config.pin_root),
            "pins can be made",
            "no bpffs there: mount -t bpf bpf /sys/fs/bpf, and have `pin_root` below it",
        ),
        Line::must(
            "cgroup",
            path(&config.cgroup),
            config.cgroup.join("cgroup.procs").exists(),
            "cgroup v2",
            "no cgroup v2 there: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or set `cgroup`",
        ),
        object(config),
        destroy(),
        plugin_port(config),
    ];
    let fast_open = machine::read_line(FAST_OPEN).parse().unwrap_or(0);
    lines.extend(opens_with_data(fast_open));
    lines.push(apart(config, pool));
    lines.push(ephemeral(pool));
    lines.extend(config.interfaces.iter().flat_map(|name| neighbours(name)));
    lines
}

/// The kernel object, read as a start would.
fn object(config: &Config) -> Line {
    let target = kernel::object::shown(&config.object);
    match kernel::object::read(&config.object) {
        Ok(_) => Line::new("object", target, Status::Ok, "there"),
        Err(error) => Line::new("object", target, Status::Fail, error.whole()),
    }
}

/// Revocation ends sockets from outside, which a kernel can be built without.
fn destroy() -> Line {
    match kernel::can_destroy() {
        Ok(()) => Line::new("sock_destroy", "tcp", Status::Ok, "sockets can be ended"),
        Err(error) => Line::new(
            "sock_destroy",
            "tcp",
            Status::Fail,
            format!(
                "{}; use a kernel with CONFIG_INET_DIAG_DESTROY, as Debian's",
                error.whole()
            ),
        ),
    }
}

/// The plugin's port must be one that other local users can't take while the daemon is down.
fn plugin_port(config: &Config) -> Line {
    let first = machine::read_line(LOW_PORTS).parse().unwrap_or(1024);
    Line::must(
        "plugin",
        config.plugin_listen.to_string(),
        config.plugin_listen.port() < first,
        &format!("below {first}, so root's alone"),
        &format!("any local user can take a port from {first} on; choose a lower one"),
    )
}

/// A listener that takes data with a SYN has a connection before anybody has shown that the sender's address is his.
/// frps asks for none; bits of a sysctl's make all of them such (ip-sysctl: 0x2 servers, 0x400 without asking).
fn opens_with_data(flags: u32) -> Option<Line> {
    (flags & 0x402 == 0x402).then(|| {
        let detail = "every listener takes data with a SYN: forged ones count as connections until they time out; \
                      sysctl -w net.ipv4.tcp_fastopen=1";
        Line::new("fast open", format!("{flags:#x}"), Status::Warn, detail)
    })
}

/// No port of the machine's own work may be lent.
fn apart(config: &Config, pool: &Pool) -> Line {
    let target = format!("tcp {}; udp {}", pool.tcp, pool.udp);
    if pool.tcp.is_empty() && pool.udp.is_empty() {
        return Line::new("pool", target, Status::Warn, "nothing is lent yet");
    }
    let tcp = pool.of(Protocol::Tcp);
    match config
        .own_ports()
        .into_iter()
        .find(|(_, port)| tcp.contains(*port))
    {
        Some((what, port)) => Line::new(
            "pool",
            target,
            Status::Fail,
            format!("contains {what}, {port}; change the pool or that port"),
        ),
        None => Line::new(
            "pool",
            target,
            Status::Ok,
            "apart from the node's own ports",
        ),
    }
}

/// Other owners' programs that judge before ours.
pub(in crate::cli) fn neighbours(name: &str) -> Vec<Line> {
    let found = kernel::neighbours(name).unwrap_or_default();
    let line = |one: kernel::Neighbour| {
        let means = match one.hook {
            "xdp" => "is on the hook, which takes one only: the filter is in TC instead",
            _ => {
                "runs before Totoro's and may let pass what that would drop; the socket lookup \
                 refuses it all the same. To have ours first, attach that one again after it"
            }
        };
        let detail = format!("another owner's {one} {means}");
        Line::new(
            "neighbour",
            format!("{name} {}", one.hook),
            Status::Warn,
            detail,
        )
    };
    found.into_iter().map(line).collect()
}

/// The pool against the ports that the kernel hands out by itself.
fn ephemeral(pool: &Pool) -> Line {
    let range = machine::read_line("/proc/sys/net/ipv4/ip_local_port_range");
    let target = range.split_whitespace().collect::<Vec<_>>().join("-");
    let (status, detail) = match (reserve::overlaps(pool, &range), reserve::covers(pool)) {
        (false, _) => (Status::Ok, "apart from the pool"),
        (true, true) => (Status::Ok, "overlaps the pool, which is reserved"),
        (true, false) => (
            Status::Warn,
            "overlaps the pool; `run` reserves it (net.ipv4.ip_local_reserved_ports)",
        ),
    };
    Line::new("ephemeral", target, status, detail)
}

/// Files that only root may read.
pub(in crate::cli) fn secrets(config: &Config) -> Vec<Line> {
    let mut lines = needed_secrets(config);
    // Whoever has it can be this node's frps to all clients that pin the CA. It may well be kept elsewhere.
    let ca_key = config.tls_dir.join(crate::tls::CA_KEY);
    if ca_key.try_exists().unwrap_or(true) {
        lines.push(secret_file("CA key", &ca_key));
    }
    lines
}

/// Those without which nothing runs.
pub(super) fn needed_secrets(config: &Config) -> Vec<Line> {
    let frps_key = config.tls_dir.join(crate::tls::KEY);
    [
        ("node key", &config.key_file),
        ("plugin secret", &config.plugin_secret_file),
        ("frps password", &config.frps_password_file),
        ("frps key", &frps_key),
    ]
    .into_iter()
    .map(|(what, path)| secret_file(what, path))
    .collect()
}

fn secret_file(what: &'static str, path: &Path) -> Line {
    let target = path.display().to_string();
    match secret::read(path) {
        Ok(_) => Line::new(what, target, Status::Ok, "0600"),
        Err(error) => Line::new(what, target, Status::Fail, format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Settings;

    #[test]
    fn listeners_that_take_data_with_a_syn_are_told() {
        for (flags, is_told) in [
            (0, false),
            (1, false),
            (0x3, false),
            (0x403, true),
            (0x603, true),
        ] {
            assert_eq!(opens_with_data(flags).is_some(), is_told, "{flags:#x}");
        }
    }

    #[test]
    fn a_pool_with_a_port_of_the_nodes_own_is_told() {
        let given = Settings {
            metrics_listen: Some(([127, 0, 0, 1], 20_005).into()),
            ..Settings::default()
        };
        let config = Config::unenrolled(Path::new("/etc/totoro/node.toml"), given).unwrap();
        let line = |tcp: &str| {
            let pool = Pool {
                tcp: tcp.parse().unwrap(),
                ..Pool::default()
            };
            apart(&config, &pool)
        };
        let with = line("20000-20009");
        assert_eq!(with.status, Status::Fail);
        assert!(
            with.detail.contains("the metrics' port, 20005"),
            "{}",
            with.detail
        );
        assert_eq!(line("20006-20009").status, Status::Ok);
    }

    #[test]
    fn a_ca_key_that_others_read_is_told_and_an_absent_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let given = Settings {
            tls_dir: Some(dir.path().to_owned()),
            ..Settings::default()
        };
        let config = Config::unenrolled(&dir.path().join("node.toml"), given).unwrap();
        let told = || {
            let lines = secrets(&config);
            let line = lines.into_iter().find(|line| line.component == "CA key");
            line.map(|line| (line.status, line.detail))
        };
        assert_eq!(told(), None);
        let key = dir.path().join(crate::tls::CA_KEY);
        secret::write(&key, "x").unwrap();
        assert_eq!(told(), Some((Status::Ok, "0600".to_owned())));
        std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let (status, detail) = told().unwrap();
        assert_eq!(status, Status::Fail);
        assert!(detail.contains("chmod 600"), "{detail}");
        let needed = needed_secrets(&config);
        assert!(needed.iter().all(|line| line.component != "CA key"));
    }
}
