//! Packets through the kernel programs by `BPF_PROG_TEST_RUN`: random ones, which a model of the
//! programs must judge the same ([`soak`]).

pub mod build;
#[cfg(test)]
mod host;
pub mod node;
pub mod page;
pub mod random;
pub mod read;
pub mod soak;
pub mod step;
pub mod table;
pub mod words;
