//! Ending sockets from outside: `SOCK_DESTROY` over sock_diag netlink, always with the socket's
//! cookie. Without one, a connection that has just closed falls through to its listener, and the
//! kernel would destroy that instead.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DESTROY, SockDiagMessage};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::{Context, Result, failed};

/// The kernel answers a destroy in microseconds; this bounds a kernel that does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whether this kernel can destroy sockets: asks it to end one that can't exist.
///
/// # Errors
/// It can't, or this process may not.
pub fn can_destroy() -> Result<()> {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
    Destroyer::open()?
        .destroy(nobody, nobody, 0, u64::MAX - 1)
        .map(drop)
}

/// A netlink socket of the network namespace that made it.
pub(super) struct Destroyer {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Destroyer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destroyer").finish_non_exhaustive()
    }
}

impl Destroyer {
    pub(super) fn open() -> Result<Destroyer> {
        Ok(Destroyer {
            socket: open()?,
            sequence: 0,
        })
    }

    /// Destroys the TCP socket with this cookie; false when it had ended already. `interface` is
    /// the one that the socket is bound to, or 0: the kernel finds an IPv6 link-local connection
    /// only there.
    pub(super) fn destroy(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        interface: u32,
        cookie: u64,
    ) -> Result<bool> {
        let subject = || format!("the connection {remote} -> {local}");
        self.sequence = self.sequence.wrapping_add(1);
        let request = self.request(local, remote, interface, cookie);
        self.socket.send(&request, 0).on("destroy", subject())?;
        let mut answer = vec![0u8; 4096];
        loop {
            let read = self
                .socket
                .recv(&mut &mut answer[..], 0)
                .on("destroy", subject())?;
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(&answer[..read])
                .on("destroy", subject())?;
            if message.header.sequence_number != self.sequence {
                continue; // the late answer to a request that timed out
            }
            return match message.payload {
                NetlinkPayload::Error(error) => match error.code.map_or(0, |code| code.get()) {
                    0 => Ok(true),
                    code if -code == libc::ENOENT || -code == libc::ESTALE => Ok(false),
                    code => Err(failed(
                        "destroy",
                        subject(),
                        std::io::Error::from_raw_os_error(-code),
                    )),
                },
                _ => Err(failed(
                    "destroy",
                    subject(),
                    "the kernel's answer is no acknowledgement",
                )),
            };
        }
    }

    fn request(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        interface: u32,
        cookie: u64,
    ) -> Vec<u8> {
        let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
        let message = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: local.port(),
                destination_port: remote.port(),
                source_address: unscoped(local.ip()),
                destination_address: unscoped(remote.ip()),
                interface_id: interface,
                cookie: cookie.to_ne_bytes(),
            },
        });
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        // The crate has no variant for it: the body is that of a query, the type says destroy.
        message.header.message_type = SOCK_DESTROY;
        let mut bytes = vec![0u8; message.header.length as usize];
        message.serialize(&mut bytes);
        // `serialize` writes the inner message's own type again.
        bytes[4..6].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
        bytes
    }
}

/// A sock_diag socket of the network namespace that this thread is in.
pub(super) fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).on("open", "sock_diag netlink")?;
    socket.bind_auto().on("bind", "sock_diag netlink")?;
    socket
        .connect(&NetlinkAddr::new(0, 0))
        .on("connect", "sock_diag netlink")?;
    let fd = std::os::fd::AsFd::as_fd(&socket);
    let timeout = nix::sys::time::TimeVal::new(ANSWER_WITHIN.as_secs() as i64, 0);
    nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)
        .on("set a timeout on", "sock_diag netlink")?;
    Ok(socket)
}

/// v4-mapped addresses are looked up as IPv4, whatever the socket's family.
fn unscoped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
