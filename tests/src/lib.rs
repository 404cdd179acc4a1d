//! The lab and the story.
//!
//! [`lab`] raises network namespaces with real processes in them and takes all of it down again;
//! [`net`] are the hand-made users and services; [`api`] is a small REST client; [`story`] is
//! what `cargo xtask demo` plays and the end-to-end test requires; [`clients`] is `totoro` in a
//! person's hands; [`faults`] kills and breaks what
//! the story has raised; [`hostile`] is what a node must survive; [`preflight`] is what it says
//! of a machine that is not fit, and [`seen`] what it shows while it is at work.

pub mod api;
pub mod clients;
pub mod faults;
pub mod hostile;
pub mod lab;
pub mod net;
pub mod preflight;
pub mod report;
pub mod seen;
pub mod story;
