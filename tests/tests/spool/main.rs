//! The real spool and the real control plane, each killed at any moment, put back, and full disks: every event
//! lands in the trail once, in order.

mod back;
mod full;
mod kills;
mod world;
