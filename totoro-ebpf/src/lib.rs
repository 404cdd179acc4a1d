//! What the kernel programs and userspace share: the ABI ([`abi`]), packet parsing ([`packet`])
//! and the pure decisions ([`logic`]). No I/O, no maps, no helpers: all of it builds and tests on
//! the host, and runs unchanged in the kernel.
#![no_std]

pub mod abi;
pub mod logic;
pub mod packet;
