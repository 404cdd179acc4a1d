//! Bodies on the wire. Each file is one conversation.
//!
//! Unknown fields: an error in what people write (`deny_unknown_fields`), ignored in what programs
//! of other versions send. Times are RFC 3339 UTC, rates bytes/s, sizes bytes.

pub mod admin;
pub mod ban;
pub mod event;
pub mod heartbeat;
pub mod invite;
pub mod node;
pub mod plugin;
pub mod problem;
pub mod push;
pub mod session;
