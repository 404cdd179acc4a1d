//! The ways that packets take on this machine: interfaces, other programs' ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

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
    lines.push(listeners(&sockets, config, pool));
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
    let others = sockets.iter().filter_map(|socket| {
        let (pid, comm) = socket.owner.as_ref()?;
        let status = socket.keeps_from(at)?;
        (!may.contains(&comm.as_str())).then_some((status, socket.at, pid, comm))
    });
    // What is sure goes first.
    let (status, has, pid, comm) = others.max_by_key(|(status, ..)| *status == Status::Fail)?;
    let detail = match status {
        Status::Fail => format!(
            "{comm} (pid {pid}) listens there, and the daemon's start fails; stop it, or set another {name}"
        ),
        _ => format!(
            "{comm} (pid {pid}) listens on {has}; where it takes IPv4 too, which the kernel does not say, the \
             daemon's start fails: stop it, or set another {name}"
        ),
    };
    Some(Line::new(component, at.to_string(), status, detail))
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

/// Ports of the pool that another program has: no lease could be served there. Of the node's own the line on the
/// pool tells, whoever has them.
fn listeners(sockets: &[Socket], config: &Config, pool: &Pool) -> Line {
    let target = format!("tcp {}; udp {}", pool.tcp, pool.udp);
    let own: Vec<u16> = config.own_ports().iter().map(|(_, port)| *port).collect();
    let taken = sockets
        .iter()
        .filter(|socket| pool.of(socket.protocol).contains(socket.at.port()))
        .filter(|socket| socket.protocol != Protocol::Tcp || !own.contains(&socket.at.port()));
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
    /// Whether it leaves IPv4 to others, where it is IPv6's and that can be seen.
    only_v6: Option<bool>,
    /// Who holds it: pid and name, where that can be seen.
    owner: Option<(i32, String)>,
}

impl Socket {
    /// Whether it keeps others from listening on an address: surely, or, a warning, as far as can be seen.
    fn keeps_from(&self, at: SocketAddr) -> Option<Status> {
        let (has, wanted) = (self.at.ip().to_canonical(), at.ip().to_canonical());
        if self.protocol != Protocol::Tcp || self.at.port() != at.port() {
            return None;
        }
        if has == wanted {
            return Some(Status::Fail);
        }
        match (has.is_unspecified(), has, wanted) {
            (true, IpAddr::V4(_), IpAddr::V4(_)) | (true, IpAddr::V6(_), IpAddr::V6(_)) => {
                Some(Status::Fail)
            }
            (true, IpAddr::V6(_), IpAddr::V4(_)) => match self.only_v6 {
                Some(true) => None,
                Some(false) => Some(Status::Fail),
                None => Some(Status::Warn),
            },
            _ => None,
        }
    }
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
    let only_v6 = kernel::only_v6().unwrap_or_default();
    all.into_iter()
        .map(|(inode, (protocol, at))| Socket {
            protocol,
            at,
            only_v6: only_v6.get(&inode).copied(),
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
    use std::path::Path;

    use super::*;
    use crate::config::Settings;

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
    fn only_who_has_the_address_is_in_the_way() {
        use std::os::fd::AsRawFd as _;

        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
            socket, sockopt,
        };
        let on = |at: &str, only_v6: bool| {
            let at: SocketAddr = at.parse().unwrap();
            let family = match at {
                SocketAddr::V4(_) => AddressFamily::Inet,
                SocketAddr::V6(_) => AddressFamily::Inet6,
            };
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            if at.is_ipv6() {
                setsockopt(&socket, sockopt::Ipv6V6Only, &only_v6).unwrap();
            }
            bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).unwrap();
            listen(&socket, Backlog::new(1).unwrap()).unwrap();
            TcpListener::from(socket)
        };
        if TcpListener::bind("[::1]:0").is_err() {
            return;
        }
        // Who listens, whether on IPv6 alone, and whether 127.0.0.1 and ::1 are free beside it.
        for (at, only_v6, v4, v6) in [
            ("127.0.0.1:0", false, false, true),
            ("0.0.0.0:0", false, false, true),
            ("127.0.0.2:0", false, true, true),
            ("[::1]:0", true, true, false),
            ("[::1]:0", false, true, false),
            ("[::]:0", true, true, false),
            ("[::]:0", false, false, false),
            ("[::ffff:127.0.0.1]:0", false, false, true),
            ("[::ffff:0.0.0.0]:0", false, false, true),
        ] {
            let listener = on(at, only_v6);
            let port = listener.local_addr().unwrap().port();
            let sockets = sockets();
            for (ip, is_free) in [("127.0.0.1", v4), ("::1", v6)] {
                let wanted = SocketAddr::new(ip.parse().unwrap(), port);
                let line = in_use(&sockets, ("plugin", "plugin_listen"), wanted, &[]);
                let said = line.map(|line| line.status);
                let expected = (!is_free).then_some(Status::Fail);
                assert_eq!(said, expected, "{ip} beside {at}, only IPv6: {only_v6}");
                // The kernel says the same.
                let bound = TcpListener::bind(wanted).is_ok();
                assert_eq!(bound, is_free, "{ip} beside {at}, only IPv6: {only_v6}");
            }
        }
    }

    #[test]
    fn what_cannot_be_seen_of_a_listener_is_a_warning() {
        let socket = Socket {
            protocol: Protocol::Tcp,
            at: "[::]:988".parse().unwrap(),
            only_v6: None,
            owner: Some((7, "other".to_owned())),
        };
        let plugin = ("plugin", "plugin_listen");
        let line = in_use(&[socket], plugin, "127.0.0.1:988".parse().unwrap(), &[]).unwrap();
        assert_eq!(line.status, Status::Warn);
        assert!(line.detail.contains("[::]:988"), "{}", line.detail);
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
        let config = |given| Config::unenrolled(Path::new("/etc/totoro/node.toml"), given).unwrap();
        let ours = config(Settings {
            metrics_listen: Some(([127, 0, 0, 1], tcp).into()),
            ..Settings::default()
        });
        let config = config(Settings::default());
        let line = listeners(&sockets(), &config, &pool(&tcp.to_string()));
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
            listeners(&sockets(), &config, &lent)
                .detail
                .contains(&format!("udp {udp} ("))
        );
        let status = |config, ports: &str| listeners(&sockets(), config, &pool(ports)).status;
        assert_eq!(status(&config, "1"), Status::Ok);
        assert_eq!(
            status(&ours, &tcp.to_string()),
            Status::Ok,
            "the pool's line tells"
        );
    }
}
