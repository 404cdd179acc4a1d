//! A wire to another machine: a veth pair, and handshakes that wait for each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use crate::support::{Peer, ip};

/// The node's addresses on the wire.
pub(crate) const NODE4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 9, 1));
pub(crate) const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 9, 0, 0, 0, 0, 0, 1));
/// The user's addresses on the wire.
pub(crate) const USER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 9, 2));
pub(crate) const USER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 9, 0, 0, 0, 0, 0, 2));
/// Link-local ones.
pub(crate) const NODE_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const USER_LL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));
/// The node's end of the wire, and the user's.
pub(crate) const NODE_MAC: &str = "02:00:00:00:77:01";
const USER_MAC: &str = "02:00:00:00:77:02";
const NOBODY: &str = "02:00:00:00:77:99";

/// Makes `us0` here and its other end, with addresses, in a namespace that lives as long as the
/// answer.
pub(crate) fn link_up() -> Peer {
    let peer = Peer::new();
    link_to(&peer);
    peer
}

/// The same to a peer that is there.
pub(crate) fn link_to(peer: &Peer) {
    ip(&[
        "link", "add", "us0", "address", NODE_MAC, "type", "veth", "peer", "name", "peer0",
        "address", USER_MAC,
    ]);
    ip(&["link", "set", "peer0", "netns", &peer.tid()]);
    ip(&["addr", "add", "10.77.9.1/24", "dev", "us0"]);
    ip(&["addr", "add", "fd77:9::1/64", "dev", "us0", "nodad"]);
    ip(&["addr", "add", "fe80::1/64", "dev", "us0", "nodad"]);
    // No addresses but these.
    ip(&["link", "set", "us0", "addrgenmode", "none"]);
    ip(&["link", "set", "us0", "up"]);
    peer.run(|| {
        ip(&["addr", "add", "10.77.9.2/24", "dev", "peer0"]);
        ip(&["addr", "add", "fd77:9::2/64", "dev", "peer0", "nodad"]);
        ip(&["addr", "add", "fe80::2/64", "dev", "peer0", "nodad"]);
        ip(&["link", "set", "peer0", "addrgenmode", "none"]);
        ip(&["link", "set", "peer0", "up"]);
    });
}

/// Has the user's end compute the checksums of what it sends, as a real wire needs them: between two
/// ends of a veth pair nobody does, and nobody looks.
pub(crate) fn compute_checksums(peer: &Peer) {
    /// `struct ethtool_value`, and the command (include/uapi/linux/ethtool.h).
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const ETHTOOL_STXCSUM: u32 = 0x17;
    peer.run(|| {
        let mut value = Value {
            command: ETHTOOL_STXCSUM,
            data: 0,
        };
        // SAFETY: integers and pointers, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"peer0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // SAFETY: a request of the kernel's layout, whose data lives through the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    });
}

/// The node's link-local address, as the user has to name it.
pub(crate) fn link_local(peer: &Peer, port: u16) -> SocketAddr {
    let scope = peer.run(|| nix::net::if_::if_nametoindex("peer0").expect("index"));
    SocketAddrV6::new(NODE_LL, port, 0, scope).into()
}

/// Starts `count` connections of the user's at once, and has all their handshakes end together:
/// the node's answers are sent to nobody until every SYN has been judged.
pub(crate) fn burst(peer: &Peer, user: IpAddr, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    burst_from(peer, user, to, vec![None; count])
}

/// The same from these addresses, which are behind the user's `by`.
pub(crate) fn burst_from(
    peer: &Peer,
    by: IpAddr,
    to: SocketAddr,
    from: Vec<Option<IpAddr>>,
) -> Vec<TcpStream> {
    let neighbour = |mac: &str| {
        let by = by.to_string();
        ip(&[
            "neigh",
            "replace",
            &by,
            "lladdr",
            mac,
            "dev",
            "us0",
            "nud",
            "permanent",
        ]);
    };
    neighbour(NOBODY);
    let streams = peer.run(move || from.into_iter().map(|from| begin(from, to)).collect());
    std::thread::sleep(Duration::from_millis(200));
    neighbour(USER_MAC);
    streams
}

/// A connection that is being made.
fn begin(from: Option<IpAddr>, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None).expect("socket");
    if let Some(from) = from {
        let from = SockaddrStorage::from(SocketAddr::new(from, 0));
        bind(fd.as_raw_fd(), &from).expect("bind");
    }
    let begun = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
    assert_eq!(begun, Err(nix::errno::Errno::EINPROGRESS));
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false).expect("blocking");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("timeout");
    stream
}
