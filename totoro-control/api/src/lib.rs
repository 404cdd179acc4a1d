//! Totoro's contract, apart from any implementation of it: wire types, refusal reasons, tickets
//! and the pure policy decisions that both the node and the control plane take.
//!
//! Nothing here does I/O or reads a clock. [`reason`] is `no_std`, so that the kernel programs
//! use the very same table (`default-features = false`).
#![cfg_attr(not(feature = "std"), no_std)]

pub mod reason;

#[cfg(feature = "std")]
pub mod code;
#[cfg(feature = "std")]
pub mod decide;
#[cfg(feature = "std")]
pub mod frpc;
#[cfg(feature = "std")]
pub mod limits;
#[cfg(feature = "openapi")]
pub mod openapi;
#[cfg(feature = "std")]
pub mod ports;
#[cfg(feature = "std")]
pub mod refusal;
#[cfg(feature = "std")]
pub mod ticket;
#[cfg(feature = "std")]
pub mod wire;

pub use reason::Reason;
#[cfg(feature = "std")]
pub use refusal::Refusal;
