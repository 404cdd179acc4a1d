//! What the kernel programs and userspace share: the ABI ([`abi`]), packet parsing ([`packet`])
//! and the pure decisions ([`logic`]). No I/O, no maps, no helpers: all of it builds and tests on
//! the host, and runs unchanged in the kernel.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod logic;
pub mod packet;
