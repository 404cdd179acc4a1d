//! Orders to `totoro_mend`: a program that is attached nowhere and run by the daemon, so that what
//! the kernel counts is only ever changed by the kernel, atomically.

use super::{ControlKey, SourceKey, abi};

/// [`Mend::kind`]: the connection `cookie` has ended unheard: take its charges back.
pub const MEND_CONN: u32 = 1;
/// [`Mend::kind`]: the connection `cookie` to frps's own port, entered as `control`, has ended
/// unheard.
pub const MEND_CONTROL: u32 = 2;
/// [`Mend::kind`]: forget `source` if it has no connection.
pub const MEND_SOURCE: u32 = 3;
/// [`Mend::kind`]: one UDP flow of `source` has ended: take its charge back.
pub const MEND_FLOW: u32 = 4;

/// Answer: there was nothing to do.
pub const MEND_NOTHING: u32 = 0;
/// Answer: done.
pub const MEND_DONE: u32 = 1;

/// Where the order stands in the packet that the program is run with: after what the kernel takes
/// for an Ethernet header.
pub const MEND_OFFSET: usize = 14;

/// An order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mend {
    /// `MEND_…`
    pub kind: u32,
    /// Zero.
    pub pad: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// For [`MEND_CONTROL`].
    pub control: ControlKey,
    /// For [`MEND_SOURCE`] and [`MEND_FLOW`].
    pub source: SourceKey,
}

abi! { Mend: 64 }
