//! Totoro's client: everything but the terminal. A program makes a [`Control`], finds an
//! [`frpc::Frpc`], opens a [`tunnel::Tunnel`], and shows its state and events as it likes.

pub mod access;
pub mod canary;
pub mod cli;
pub mod control;
pub mod doctor;
pub mod error;
pub mod frpc;
pub mod invite;
pub mod lang;
pub mod nodes;
pub mod private;
pub mod running;
pub mod serve;
pub mod settings;
pub mod target;
pub mod told;
pub mod tunnel;

pub use access::Source;
pub use control::Control;
pub use error::Error;
pub use lang::Lang;
