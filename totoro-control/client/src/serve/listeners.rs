//! What listens on this machine, as suggestions of what to expose.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::{FDTarget, all_processes};
use serde::Serialize;
use totoro_api::ports::Protocol;

/// So many are suggested.
const MOST: usize = 40;
/// UDP sockets at ports from here on are mostly those of clients.
const EPHEMERAL: u16 = 32_768;
/// So many processes are looked at for their names.
const PROCESSES: usize = 4096;

/// A service that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Its type.
    #[serde(rename = "type")]
    pub protocol: Protocol,
    /// How frpc reaches it: `host:port`.
    pub local: String,
    /// Its port.
    pub port: u16,
    /// Its program, where that is this user's.
    pub program: String,
}

/// What listens now, but for these programs and this port, which are ours.
#[must_use]
pub fn listeners(but: &[&str], own: u16) -> Vec<Listener> {
    let mut found = BTreeMap::new();
    let names = programs();
    let mut add = |protocol: Protocol, at: SocketAddr, inode: u64| {
        let program = names.get(&inode).cloned().unwrap_or_default();
        if at.port() == own || at.port() == 0 || but.contains(&program.as_str()) {
            return;
        }
        let found = found.entry((at.port(), protocol.as_str()));
        let local = reached(at);
        // The same service on several addresses is one; IPv4 is what frpc is written for.
        let listener = found.or_insert_with(|| Listener {
            protocol,
            local: local.clone(),
            port: at.port(),
            program,
        });
        if at.ip().to_canonical().is_ipv4() {
            listener.local = local;
        }
    };
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
    for entry in tcp.into_iter().flatten().flatten() {
        let TcpNetEntry {
            local_address,
            state,
            inode,
            ..
        } = entry;
        if state == TcpState::Listen {
            add(Protocol::Tcp, local_address, inode);
        }
    }
    let udp = [procfs::net::udp(), procfs::net::udp6()];
    for entry in udp.into_iter().flatten().flatten() {
        let UdpNetEntry {
            local_address,
            remote_address,
            inode,
            ..
        } = entry;
        let waits = remote_address.port() == 0 && local_address.port() < EPHEMERAL;
        if waits {
            add(Protocol::Udp, local_address, inode);
        }
    }
    found.into_values().take(MOST).collect()
}

/// Where a socket is reached from this machine.
fn reached(at: SocketAddr) -> String {
    let ip = match at.ip().to_canonical() {
        // Most that listen on all IPv6 addresses listen on IPv4 with them.
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, at.port()).to_string()
}

/// The programs of this user's sockets.
fn programs() -> HashMap<u64, String> {
    let mut names = HashMap::new();
    let Ok(processes) = all_processes() else {
        return names;
    };
    for process in processes.flatten().take(PROCESSES) {
        let (Ok(descriptors), Ok(stat)) = (process.fd(), process.stat()) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if let FDTarget::Socket(inode) = descriptor.target {
                names.insert(inode, stat.comm.clone());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_here_is_found_with_its_program() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let found = listeners(&[], 0);
        let ours = found
            .iter()
            .find(|one| one.port == port && one.protocol == Protocol::Tcp);
        // A busy machine may have more than are suggested.
        if let Some(ours) = ours {
            assert_eq!(ours.local, format!("127.0.0.1:{port}"));
            assert!(!ours.program.is_empty());
        } else {
            assert_eq!(found.len(), MOST);
        }
        assert!(!listeners(&[], port).iter().any(|one| one.port == port));
    }

    #[test]
    fn addresses() {
        for (at, local) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(reached(at.parse().unwrap()), local);
        }
    }
}
