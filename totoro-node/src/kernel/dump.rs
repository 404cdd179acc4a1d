//! The TCP sockets of this network namespace, by sock_diag netlink.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Parseable,
};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, InetResponseHeader, SocketId, StateFlags, Timer,
    nlas::Nla,
};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage};
use netlink_sys::Socket;

use super::sockets::open;
use super::{Context, Result, failed};

/// A connection from ESTABLISHED on, while it has a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The interface that the socket is bound to, or 0.
    pub(super) interface: u32,
    pub(super) cookie: u64,
}

/// What was listed.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) connections: Vec<Live>,
    /// Ports that something listens on.
    pub(super) listening: HashSet<u16>,
}

/// Of a netlink message.
const HEADER: usize = 16;
/// `TCP_LISTEN` (include/net/tcp_states.h).
const TCP_LISTEN: u8 = 10;

/// Lists them. A table that changes meanwhile may miss some, and never invents any.
pub(super) fn sockets() -> Result<Listed> {
    let mut listed = Listed::default();
    // A socket of its own: its answers must not mix with those to destroys.
    let socket = open()?;
    let states = StateFlags::LISTEN
        | StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    for (family, id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        list(&socket, &request(family, id, states.clone()), |body| {
            listed.add(&InetResponseHeader::parse(body).on("read", "a TCP socket")?);
            Ok(())
        })?;
    }
    Ok(listed)
}

/// IPv6 sockets that listen, by inode: whether they leave IPv4 to others.
///
/// # Errors
/// The kernel does not list them.
pub fn only_v6() -> Result<HashMap<u64, bool>> {
    let mut found = HashMap::new();
    let request = request(AF_INET6, SocketId::new_v6(), StateFlags::LISTEN);
    list(&open()?, &request, |body| {
        let one = InetResponse::parse(body).on("read", "a TCP socket")?;
        found.extend(one.nlas.iter().find_map(|nla| match nla {
            Nla::SkV6Only(only) => Some((u64::from(one.header.inode), *only)),
            _ => None,
        }));
        Ok(())
    })?;
    Ok(found)
}

/// Asks, and takes each socket of the answer.
fn list(socket: &Socket, request: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    socket.send(request, 0).on("list", "TCP sockets")?;
    while read(socket, &mut each)? {}
    Ok(())
}

/// Reads one packet of answers; whether more are to come.
fn read(socket: &Socket, each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<bool> {
    let mut packet = vec![0u8; 64 * 1024];
    let read = socket
        .recv(&mut &mut packet[..], 0)
        .on("list", "TCP sockets")?;
    let mut rest = &packet[..read];
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = rest.get(HEADER..length) else {
            return Err(failed("list", "TCP sockets", "an answer was cut short"));
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = body
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                let error = std::io::Error::from_raw_os_error(-code);
                return Err(failed("list", "TCP sockets", error));
            }
            _ => each(body)?,
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

impl Listed {
    fn add(&mut self, one: &InetResponseHeader) {
        let id = &one.socket_id;
        if one.state == TCP_LISTEN {
            self.listening.insert(id.source_port);
            return;
        }
        // What waits for stray segments only is no socket any more, and its close was heard.
        if one.timer == Some(Timer::TimeWait) {
            return;
        }
        self.connections.push(Live {
            // v4-mapped ones are found as IPv4.
            local: (id.source_address.to_canonical(), id.source_port).into(),
            remote: (id.destination_address.to_canonical(), id.destination_port).into(),
            interface: id.interface_id,
            cookie: u64::from_ne_bytes(id.cookie),
        });
    }
}

fn request(family: u8, socket_id: SocketId, states: StateFlags) -> Vec<u8> {
    let message = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    });
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0u8; message.header.length as usize];
    message.serialize(&mut bytes);
    bytes
}
