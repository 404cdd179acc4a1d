//! Events of the ring buffer: hints. The pinned counters are the truth.

use super::{Addr, abi};

/// [`Event::kind`]: something was refused (sampled).
pub const EVENT_REFUSED: u32 = 1;
// 2 was a TCP user connection that was admitted; nobody listened.
/// [`Event::kind`]: a TCP user connection ended.
pub const EVENT_CLOSED: u32 = 3;
/// [`Event::kind`]: a connection was established one too many: destroy it by its cookie.
pub const EVENT_SURPLUS: u32 = 4;
/// [`Event::kind`]: a connection to frps's own port ended.
pub const EVENT_CONTROL_CLOSED: u32 = 5;

/// One event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When, boot-time ns.
    pub at_ns: u64,
    /// The socket's cookie; 0 where there is none.
    pub cookie: u64,
    /// The lease; 0 where there is none.
    pub lease: u64,
    /// For `CLOSED`: how long the connection lived, ns.
    pub duration_ns: u64,
    /// For `CLOSED`: stream bytes from the user.
    pub bytes_in: u64,
    /// For `CLOSED`: stream bytes to the user that were acknowledged.
    pub bytes_out: u64,
    /// The other side's address.
    pub remote: Addr,
    /// The node's address; zero for what XDP refused.
    pub local: Addr,
    /// The other side's port.
    pub remote_port: u16,
    /// The pool port.
    pub port: u16,
    /// `EVENT_…`
    pub kind: u32,
    /// The reason's number; 0 where nothing was refused.
    pub reason: u32,
    /// The tenant; 0 = nobody's.
    pub tenant: u32,
    /// [`super::TCP`] or [`super::UDP`].
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// The interface that the socket is bound to, or 0.
    pub ifindex: u32,
}

abi! { Event: 104 }
