//! What holds where `control.toml` says nothing.

use std::path::PathBuf;
use std::time::Duration;

use crate::duration::Span;

pub(super) fn default_data() -> PathBuf {
    "data".into()
}

pub(super) fn default_secrets() -> PathBuf {
    "secrets".into()
}

pub(super) fn default_ticket_ttl() -> Span {
    Span(Duration::from_secs(3600))
}

pub(super) fn default_heartbeat() -> Span {
    Span(Duration::from_secs(10))
}

pub(super) fn default_page() -> bool {
    true
}

pub(super) fn default_ping() -> Span {
    Span(Duration::from_secs(30))
}

pub(super) fn default_stream_life() -> Span {
    Span(Duration::from_secs(3600))
}

pub(super) fn default_port_time() -> Span {
    Span(Duration::from_secs(600))
}

pub(super) fn default_invites_per_node() -> u32 {
    20_000
}

pub(super) fn default_connections() -> u32 {
    10_000
}

pub(super) fn default_connections_per_address() -> u32 {
    256
}

pub(super) fn default_cache() -> u32 {
    64
}

pub(super) fn default_layer() -> u32 {
    32 * 1024
}
