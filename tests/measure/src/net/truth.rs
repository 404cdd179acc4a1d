//! What the kernel itself says, by `ss` (inet_diag) and `ip`, which share no code with Totoro.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use totoro_tests::lab::{Lab, Place};

/// Sockets of one of the node's ports by what they are to a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sockets {
    /// Connections: from ESTABLISHED until the socket is closed.
    pub(crate) live: u64,
    /// The same by [`source`].
    pub(crate) sources: HashMap<IpAddr, u64>,
    /// Handshakes under way, which count for nothing.
    pub(crate) half_open: u64,
}

/// What is one source to a limit: an IPv4 address, or an IPv6 /64.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(whole) => Ipv6Addr::from_bits(whole.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// How often the kernel of a process's namespace answered a SYN with a cookie, because too many handshakes
/// were under way. What ends such a handshake is judged as a packet of nobody's, and refused by a reset.
///
/// # Errors
/// The process is gone, or the kernel does not tell.
pub(crate) fn cookies(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/netstat"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs
        .find(|(name, _)| *name == "SyncookiesSent")
        .context("no SyncookiesSent in /proc/net/netstat")?;
    Ok(value.parse()?)
}

/// The hardware address of an interface.
///
/// # Errors
/// There is no such interface.
pub(crate) fn mac(lab: &Lab, place: Place, interface: &str) -> Result<String> {
    let mut ip = lab.command("ip");
    ip.args(["-o", "link", "show", "dev", interface]);
    let text = lab.run(place, ip)?.ok()?;
    let mut words = text.split_whitespace();
    words.find(|word| *word == "link/ether");
    Ok(words.next().context("no hardware address")?.to_owned())
}

/// The sockets of some ports on the node.
///
/// # Errors
/// `ss` can't be run.
pub(crate) fn sockets(lab: &Lab, ports: &[u16]) -> Result<Vec<Sockets>> {
    let mut command = lab.command("ss");
    command.args(["-H", "-t", "-a", "-n"]);
    let text = lab
        .run(Place::Node, command)?
        .ok()
        .context("ss (apt-get install iproute2)")?;
    let mut all = vec![Sockets::default(); ports.len()];
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (state, local, peer) = (fields.next(), fields.nth(2), fields.next());
        let port = local.and_then(|at| at.rsplit(':').next()?.parse().ok());
        let Some(nth) = ports.iter().position(|known| Some(*known) == port) else {
            continue;
        };
        match state {
            // A socket in TIME-WAIT, or in FIN-WAIT-2 without its process, is closed: what is left of it
            // is a note. `ss` tells the second kind by its inode, which is not asked for: nobody is left
            // in that state once everybody has gone.
            Some("LISTEN" | "TIME-WAIT") | None => {}
            Some("SYN-RECV") => all[nth].half_open += 1,
            Some(_) => {
                all[nth].live += 1;
                let peer: Option<SocketAddr> = peer.and_then(|at| at.parse().ok());
                let peer = peer.with_context(|| format!("ss: {line}"))?;
                *all[nth].sources.entry(source(peer.ip())).or_default() += 1;
            }
        }
    }
    Ok(all)
}
