//! frps's own port: one socket per Login, a share per source, and no MPTCP.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrStorage, setsockopt, sockopt,
};
use nix::sys::socket::{bind, connect as connect_fd, listen as listen_fd, socket};
use socket2::{Domain, Socket, Type};
use totoro_api::Reason;
use totoro_ebpf::abi::TCP;

use crate::sockets::{PORT, connect, five, lend, listen, v4};
use crate::support::{self, BIND_PORT, Node, eventually, ip};
use crate::wire::{NODE6, USER6, burst_from, link_local, link_up};

/// Connects from a port that other connections may have too.
fn connect_from(port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))?;
    connect_fd(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

#[test]
fn one_end_of_frpcs_is_one_connection() {
    let Some(node) = Node::new("same-end") else {
        return;
    };
    let node = node.with(|options| options.control_per_source = 2);
    node.run(|kernel| {
        let listener = listen(BIND_PORT);
        let second = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), BIND_PORT));
        let a = connect_from(4_000, v4(BIND_PORT)).expect("the first");
        let address = a.local_addr().expect("address");
        let before = kernel.control_socket(address).expect("read");
        // The same end towards another address of the node's.
        let b = connect_from(4_000, second);
        // One too many: destroyed, perhaps before `connect` has returned.
        let heard = b.as_ref().map(|mut b| b.read(&mut [0; 1]));
        assert!(!matches!(heard, Ok(Ok(1))), "it hears nothing");
        let after = kernel.control_socket(address).expect("read");
        assert_eq!(before, after, "the Login's socket");
        let refused = kernel.refused().expect("counters");
        assert!(
            refused.iter().any(|r| r.reason == Reason::Conflict),
            "{refused:?}"
        );
        drop((a, b, listener));
        eventually("forgotten", || {
            kernel.control_socket(address).is_ok_and(|s| s.is_none())
        });
        let _listener = listen(BIND_PORT);
        // The source has its whole share again, and no more.
        let _held = [0, 1].map(|_| connect(v4(BIND_PORT)).expect("room for two"));
        assert!(connect(v4(BIND_PORT)).is_err(), "no third of this source");
        let refused = kernel.refused().expect("counters");
        assert!(
            refused.iter().any(|r| r.reason == Reason::RateLimited),
            "{refused:?}"
        );
    });
}

#[test]
fn one_site_leaves_room_for_others() {
    let Some(node) = Node::new("site") else {
        return;
    };
    let node = node.with(|options| options.control_per_source = 1);
    node.run(|kernel| {
        let listener = listen(BIND_PORT);
        // Each a source of its own, of two sites.
        let source = |site: u16, nth: u16| -> IpAddr {
            Ipv6Addr::new(0x2001, 0xdb8, site, nth, 0, 0, 0, 1).into()
        };
        let from = |site, nth| {
            let addr = source(site, nth);
            let network = format!("{addr}/128");
            ip(&["addr", "replace", &network, "dev", "lo", "nodad"]);
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(addr, 0).into())?;
            let to = SocketAddr::from((Ipv6Addr::LOCALHOST, BIND_PORT));
            socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
            std::io::Result::Ok(socket)
        };
        let share = || [0, 1, 2, 3, 4, 5, 6, 7].map(|nth| from(1, nth));
        let held = share().map(|one| one.expect("eight times one source's share"));
        assert!(from(1, 0).is_err(), "a source has its share");
        assert!(from(1, 8).is_err(), "and so has the site");
        let other = from(2, 0).expect("another site");
        assert_eq!(kernel.sweep().expect("sweep").drifted, 0, "all is counted");
        drop((held, other, listener));
        let _listener = listen(BIND_PORT);
        eventually("the site has its share again", || {
            share().iter().all(Result::is_ok)
        });
    });
}

#[test]
fn a_site_that_ends_its_handshakes_together_has_its_share_and_no_more() {
    let Some(node) = Node::new("site-burst") else {
        return;
    };
    let source = |nth: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, nth, 0, 0, 0, 1));
    let before = || {
        let peer = link_up();
        ip(&["route", "add", "2001:db8::/32", "via", &USER6.to_string()]);
        peer.run(move || {
            for nth in 0..20 {
                let network = format!("{}/128", source(nth));
                ip(&["addr", "add", &network, "dev", "peer0", "nodad"]);
            }
        });
        peer
    };
    let node = node.with(|options| options.control_per_source = 1);
    node.run_after(before, |kernel, peer| {
        let listener = listen(BIND_PORT);
        let from = (0..20).map(|nth| Some(source(nth))).collect();
        let streams = burst_from(&peer, USER6, (NODE6, BIND_PORT).into(), from);
        let refused = || support::refused(&kernel, Reason::RateLimited);
        // What a refused one still sends may be refused, too.
        eventually("all are judged", || refused() >= 12);
        assert_eq!(kernel.controls().expect("read").len(), 8);
        // The share is back, of sources and of the site.
        drop((streams, listener));
        eventually("all have gone", || {
            kernel.controls().is_ok_and(|all| all.is_empty())
        });
        assert_eq!(kernel.sweep().expect("sweep").drifted, 0, "all is counted");
    });
}

#[test]
fn frpcs_connection_over_link_local_ends_on_demand() {
    let Some(node) = Node::new("control-ll") else {
        return;
    };
    node.run_after(link_up, |kernel, peer| {
        let listener = listen(BIND_PORT);
        let to = link_local(&peer, BIND_PORT);
        let client = peer.run(move || TcpStream::connect(to).expect("connect"));
        let (_server, from) = listener.accept().expect("accept");
        let SocketAddr::V6(from) = from else {
            panic!("{from}")
        };
        // As frps tells it, without an interface.
        let told = SocketAddrV6::new(*from.ip(), from.port(), 0, 0).into();
        let socket = kernel.control_socket(told).expect("read").expect("known");
        assert!(kernel.destroy_control(&socket).expect("destroy"), "found");
        assert!((&client).read(&mut [0; 1]).is_err(), "reset");
    });
}

/// A TCP socket that speaks MPTCP; `None` where this kernel has none.
fn mptcp() -> Option<std::os::fd::OwnedFd> {
    // nix has no name for it: IPPROTO_MPTCP (include/uapi/linux/in.h).
    const MPTCP: libc::c_int = 262;
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, MPTCP) };
    // SAFETY: a descriptor that the kernel just made for us.
    (fd >= 0).then(|| unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

#[test]
fn mptcp_is_not_admitted_and_plain_tcp_to_the_same_listener_is() {
    let Some(node) = Node::new("mptcp") else {
        return;
    };
    node.run(|kernel| {
        let Some(listener) = mptcp() else {
            eprintln!("skipped: this kernel has no MPTCP");
            return;
        };
        bind(listener.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, PORT)).expect("bind");
        listen_fd(&listener, Backlog::new(16).expect("backlog")).expect("listen");
        lend(&kernel, TCP, &five());
        let client = mptcp().expect("as the listener");
        // Refused by its end, which may come before `connect` has returned.
        let _ = connect_fd(client.as_raw_fd(), &SockaddrStorage::from(v4(PORT)));
        eventually("refused", || {
            let refused = kernel.refused().expect("counters");
            let counts = kernel.counts(1).expect("counts").usage;
            refused.iter().any(|r| r.reason == Reason::Unsupported)
                && (counts.conns, counts.surplus) == (0, 1)
        });
        let _plain = connect(v4(PORT)).expect("plain TCP");
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 1);
    });
}
