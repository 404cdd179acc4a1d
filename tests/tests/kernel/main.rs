//! The kernel programs: packets through `BPF_PROG_TEST_RUN`, and real sockets in namespaces.

mod daemon;
mod frames;
mod interfaces;
mod packets;
mod sockets;
mod support;
mod table;
mod tcp;
mod udp;
