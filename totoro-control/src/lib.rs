//! The control plane: the only author of policy, and the audit trail.
//!
//! A request walks `http` → `app` → `store`; what it changed reaches its node through `push`, and
//! what happened stands in `audit`. Nothing here knows the kernel side.

pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod duration;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod push;
pub mod reach;
pub mod records;
pub mod store;

/// The process's exit code when the store cannot be written: it ends rather than acknowledge what
/// may be lost (sysexits' EX_IOERR).
pub const EXIT_STORE_FAILED: i32 = 74;
