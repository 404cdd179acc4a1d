//! A stock frpc: found, configured, run, understood.

pub mod admin;
pub mod config;
pub mod find;
pub mod log;
pub mod process;
mod sys;

pub use find::Frpc;
