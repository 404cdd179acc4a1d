//! One file a reader, or a few of a kind.

pub(crate) mod backup;
pub(crate) mod client;
pub(crate) mod frps;
pub(crate) mod node_log;
pub(crate) mod packet;
pub(crate) mod plugin;
pub(crate) mod rest;
pub(crate) mod settings;
pub(crate) mod store;
pub(crate) mod text;
pub(crate) mod ticket;
pub(crate) mod trail;
