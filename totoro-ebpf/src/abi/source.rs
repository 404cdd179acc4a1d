//! Who comes, and how many of each.

use super::{Addr, abi};

/// [`SourceKey::kind`]: TCP connections.
pub const SOURCE_CONNS: u32 = 0;

/// [`SourceKey::kind`]: answered UDP flows.
pub const SOURCE_FLOWS: u32 = 1;

/// [`SourceKey::kind`]: TCP connections of an IPv6 site to frps's own port (tenant 0).
pub const SOURCE_SITES: u32 = 2;

/// As many connections to frps's own port as one source may have, so many times may an IPv6 site: who has one has
/// 65,536 sources, and the table of those connections has 16,384 places.
pub const SITE_SOURCES: u32 = 8;

/// Key of `SOURCES`: connections, or flows, of one source under one tenant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// The IPv4 address (v4-mapped), or the IPv6 /64 (a site: /48) with the rest zero.
    pub prefix: Addr,
    /// The tenant.
    pub tenant: u32,
    /// [`SOURCE_CONNS`], [`SOURCE_FLOWS`] or [`SOURCE_SITES`].
    pub kind: u32,
}

/// `SOURCES`: written by the kernel, which forgets what is idle.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Live connections, or flows.
    pub conns: u64,
    /// When it last changed, boot-time ns.
    pub last_ns: u64,
}

abi! { SourceKey: 24, Source: 16 }
