//! The real spool and the real control plane, each killed at any moment, and full disks: every event
//! lands in the trail once, in order.

mod full;
mod kills;
mod world;
