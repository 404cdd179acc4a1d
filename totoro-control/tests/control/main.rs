//! The control plane as its clients see it: the real binary on loopback, spoken to over HTTP. One
//! test program, so that it is linked once.

mod backup;
mod commands;
mod doctor;
mod durability;
mod events;
mod hygiene;
mod invites;
mod nodes;
mod support;
mod tickets;
