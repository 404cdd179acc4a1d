//! The node daemon as a library, so that tests reach its parts.

mod body;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod figures;
pub mod frps;
pub mod health;
pub mod heartbeat;
pub mod kernel;
pub mod local;
pub mod machine;
pub mod plugin;
pub mod privilege;
pub mod reserve;
pub mod secret;
pub mod session;
pub mod spool;
pub mod store;
pub mod sync;
pub mod tls;
