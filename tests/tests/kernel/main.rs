//! The kernel programs: packets through `BPF_PROG_TEST_RUN`, and real sockets in namespaces.

mod bans;
mod canary;
mod control;
mod daemon;
mod figures;
mod flows;
mod forged;
mod frames;
mod full;
mod interfaces;
mod lapse;
mod memory;
mod mending;
mod packets;
mod page;
mod pins;
mod races;
mod sockets;
mod support;
mod surplus;
mod table;
mod tcp;
mod total;
mod udp;
mod watch;
mod wire;
