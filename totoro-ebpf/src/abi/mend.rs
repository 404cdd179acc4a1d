//! Orders to `totoro_mend`: a program that is attached nowhere and run by the daemon, so that what
//! the kernel counts is only ever changed by the kernel, atomically.

use super::{ControlKey, FlowKey, SourceKey, abi};

/// [`Mend::kind`]: the connection `cookie` has ended unheard: take its charges back.
pub const MEND_CONN: u32 = 1;
/// [`Mend::kind`]: the connection `cookie` to frps's own port, entered as `control`, has ended
/// unheard.
pub const MEND_CONTROL: u32 = 2;
/// [`Mend::kind`]: end the UDP flow `flow`.
pub const MEND_FLOW: u32 = 3;
/// [`Mend::kind`]: end all idle UDP flows and forget all idle sources, but for what [`Mend::spared`] says;
/// the answer is how many flows.
pub const MEND_IDLE: u32 = 4;
/// [`Mend::kind`]: add `by` to the live connections of `tenant`.
pub const MEND_CONNS_BY: u32 = 5;
/// [`Mend::kind`]: add `by` to the live flows of `tenant`.
pub const MEND_FLOWS_BY: u32 = 6;
/// [`Mend::kind`]: add `by` to what `source` has.
pub const MEND_SOURCE_BY: u32 = 7;

/// Bit of [`Mend::spared`]: there are no flows to look through.
pub const SPARE_FLOWS: u32 = 1;
/// Bit of [`Mend::spared`]: sources have been looked through a short while ago.
pub const SPARE_SOURCES: u32 = 2;

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
    /// For [`MEND_CONNS_BY`] and [`MEND_FLOWS_BY`].
    pub tenant: u32,
    /// For [`MEND_IDLE`]: `SPARE_…`, tables that are not walked through.
    pub spared: u32,
    /// Zero.
    pub pad: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// For [`MEND_CONTROL`].
    pub control: ControlKey,
    /// For [`MEND_SOURCE_BY`].
    pub source: SourceKey,
    /// For [`MEND_FLOW`].
    pub flow: FlowKey,
    /// How far a count is below the truth; negative: above.
    pub by: i64,
}

abi! { Mend: 104 }
