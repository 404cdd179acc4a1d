//! The ways that packets take on this machine: interfaces, other programs' ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use procfs::net::{TcpState, UdpState};
use procfs::process::FDTarget;
use totoro_api::ports::{Pool, Protocol};

use super::{Line, Status, tproxy};
use crate::config::Config;
use crate::kernel;

/// What the daemon is called.
const OURS: &str = "totoro-node";

pub(super) fn lines(config: &Config, pool: &Pool) -> Vec<Line> {
    let mut lines: Vec<Line> = config
        .interfaces
        .iter()
        .map(|name| interface(name, config))
        .collect();
    if config.interfaces.is_empty() {
        lines.push(Line::new(
            "interface",
            "-",
            Status::Warn,
            "none to filter; the socket lookup guards alone. Set `interfaces`",
        ));
    }
    let sockets = sockets();
    lines.push(listeners(&sockets, pool));
    lines.extend(taken(&sockets, config));
    lines.push(tproxy::line());
    lines
}

/// Addresses that the daemon listens on, and that another program has: a start would fail there.
fn taken(sockets: &[Socket], config: &Config) -> Vec<Line> {
    // systemd has the plugin's socket.
    let plugin = in_use(
        sockets,
        ("plugin", "plugin_listen"),
        config.plugin_listen,
        &[OURS, "systemd"],
    );
    let metrics = ("metrics", "metrics_listen");
    let metrics = config
        .metrics_listen
        .and_then(|at| in_use(sockets, metrics, at, &[OURS]));
    plugin.into_iter().chain(metrics).collect()
}

/// Who has an address that is a setting's, if it is none of those that may.
fn in_use(
    sockets: &[Socket],
    (component, name): (&'static str, &str),
    at: SocketAddr,
    may: &[&str],
) -> Option<Line> {
    let stands = |socket: &&Socket| {
        let has = socket.at;
        socket.protocol == Protocol::Tcp
            && has.port() == at.port()
            && (has.ip() == at.ip() || has.ip().is_unspecified())
    };
    let mut owners = sockets
        .iter()
        .filter(stands)
        .filter_map(|socket| socket.owner.as_ref());
    let (pid, comm) = owners.find(|(_, comm)| !may.contains(&comm.as_str()))?;
    let detail = format!(
        "{comm} (pid {pid}) listens there, and the daemon's start fails; stop it, or set another {name}"
    );
    Some(Line::new(component, at.to_string(), Status::Fail, detail))
}

/// How it would be filtered, and what that costs there.
fn interface(name: &str, config: &Config) -> Line {
    // Not by /sys/class/net, which may show another network namespace than ours.
    if nix::net::if_::if_nametoindex(name).is_err() {
        let detail = "not there now; it is guarded by the socket lookup only";
        return Line::new("interface", name, Status::Warn, detail);
    }
    let planned = kernel::planned(name, config.xdp);
    let status = match planned.costs {
        true => Status::Warn,
        false => Status::Ok,
    };
    let detail = format!("{} (xdp = {}): {}", planned.mode, config.xdp, planned.why);
    Line::new("interface", name, status, detail)
}

/// Ports of the pool that another program has: no lease could be served there.
fn listeners(sockets: &[Socket], pool: &Pool) -> Line {
    let target = format!("tcp {}; udp {}", pool.tcp, pool.udp);
    let taken = sockets
        .iter()
        .filter(|socket| pool.of(socket.protocol).contains(socket.at.port()));
    let others: BTreeSet<String> = taken
        .filter_map(|socket| {
            let (protocol, port) = (socket.protocol, socket.at.port());
            match &socket.owner {
                Some((_, comm)) if comm == "frps" => None,
                Some((pid, comm)) => Some(format!("{protocol} {port} ({comm}, pid {pid})")),
                None => Some(format!("{protocol} {port}")),
            }
        })
        .collect();
    if others.is_empty() {
        return Line::new(
            "listeners",
            target,
            Status::Ok,
            "only frps has ports of the pool",
        );
    }
    let detail = format!(
        "another program has {}: it gets no connection from outside while the node runs, and frps \
         can't open that port; stop it or take the port out of the pool",
        others.into_iter().collect::<Vec<_>>().join(", ")
    );
    Line::new("listeners", target, Status::Fail, detail)
}

/// A listening TCP or a bound, unconnected UDP socket.
struct Socket {
    protocol: Protocol,
    at: SocketAddr,
    /// Who holds it: pid and name, where that can be seen.
    owner: Option<(i32, String)>,
}

/// Those of this network namespace.
fn sockets() -> Vec<Socket> {
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
    let tcp = tcp.into_iter().filter_map(Result::ok).flatten();
    let tcp = tcp
        .filter(|entry| entry.state == TcpState::Listen)
        .map(|entry| (entry.inode, (Protocol::Tcp, entry.local_address)));
    let udp = [procfs::net::udp(), procfs::net::udp6()];
    let udp = udp.into_iter().filter_map(Result::ok).flatten();
    let udp = udp
        .filter(|entry| entry.state == UdpState::Close)
        .map(|entry| (entry.inode, (Protocol::Udp, entry.local_address)));
    let all: BTreeMap<u64, (Protocol, SocketAddr)> = tcp.chain(udp).collect();
    let mut owners = owners(&all.keys().copied().collect());
    all.into_iter()
        .map(|(inode, (protocol, at))| Socket {
            protocol,
            at,
            owner: owners.remove(&inode),
        })
        .collect()
}

/// Who holds these sockets: pid and name. Others' processes can't be looked into without root.
fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, (i32, String)> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    for process in procfs::process::all_processes()
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(open) = process.fd() else { continue };
        for target in open.flatten().map(|one| one.target) {
            let FDTarget::Socket(inode) = target else {
                continue;
            };
            if inodes.contains(&inode) {
                let comm = process.stat().map(|stat| stat.comm).unwrap_or_default();
                found.insert(inode, (process.pid(), comm));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn who_has_the_daemons_own_address_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = other.local_addr().unwrap();
        let named = |at: SocketAddr| {
            let line = in_use(&sockets(), ("metrics", "metrics_listen"), at, &[OURS]);
            line.map(|line| line.detail)
        };
        let pid = format!("(pid {})", std::process::id());
        let said = named(at).expect("it is in use");
        assert!(
            said.contains(&pid) && said.ends_with("set another metrics_listen"),
            "{said}"
        );
        let beside = SocketAddr::from(([127, 0, 0, 2], at.port()));
        assert_eq!(named(beside), None, "another address");
        drop(other);
        assert_eq!(named(at), None, "it has ended");
    }

    #[test]
    fn another_programs_ports_in_the_pool_are_named() {
        let (tcp, udp) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let (tcp, udp) = (
            tcp.local_addr().unwrap().port(),
            udp.local_addr().unwrap().port(),
        );
        let pool = |ports: &str| Pool {
            tcp: ports.parse().unwrap(),
            ..Pool::default()
        };
        let line = listeners(&sockets(), &pool(&tcp.to_string()));
        let pid = std::process::id();
        assert_eq!(line.status, Status::Fail);
        assert!(
            line.detail.contains(&format!("tcp {tcp} ("))
                && line.detail.contains(&format!("pid {pid})")),
            "{}",
            line.detail
        );
        let lent = Pool {
            udp: udp.to_string().parse().unwrap(),
            ..Pool::default()
        };
        assert!(
            listeners(&sockets(), &lent)
                .detail
                .contains(&format!("udp {udp} ("))
        );
        assert_eq!(listeners(&sockets(), &pool("1")).status, Status::Ok);
    }
}
