//! A packet socket bound to one interface: two system calls that no crate here wraps.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// All protocols, in network order (include/uapi/linux/if_ether.h).
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
/// Bytes that may wait for us.
const ROOM: usize = 256 << 20;

/// A socket that sees every frame of an interface of the calling thread's namespace, from the IP header on.
///
/// # Errors
/// No packet socket can be had, or there is no such interface.
pub(super) fn open(interface: &str) -> Result<Socket> {
    let index = nix::net::if_::if_nametoindex(interface)
        .with_context(|| format!("no interface {interface}"))?;
    // Without a protocol it hears nothing until it is bound.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))
        .context("a packet socket")?;
    force_room(&socket).context("room for what is captured")?;
    // SAFETY: the storage is zeroed, large enough for a sockaddr_ll and aligned for it; what is written
    // is a whole one, and its length is told.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*link).sll_protocol = ALL;
            (*link).sll_ifindex = index as libc::c_int;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address).context("bind to the interface")?;
    Ok(socket)
}

/// What a packet socket saw, and what of that it had no room for, since this was asked last.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn statistics(socket: &Socket) -> io::Result<(u32, u32)> {
    let mut told = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the value and its length live through the call, which writes at most so many bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut told).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        Ok((told.tp_packets, told.tp_drops))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives the beginning of a frame: how much of it, and whether the interface sent it.
///
/// # Errors
/// Nothing came in time.
pub(super) fn receive(fd: RawFd, buffer: &mut [u8]) -> nix::Result<(usize, bool)> {
    use nix::sys::socket::{LinkAddr, recvfrom};
    let (read, from) = recvfrom::<LinkAddr>(fd, buffer)?;
    let outgoing = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
    Ok((read, outgoing))
}

fn force_room(socket: &Socket) -> nix::Result<()> {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &ROOM)
}
