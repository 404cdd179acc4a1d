//! One file per hook. Entry points call a `try_…` and map its result; decisions are in
//! [`totoro_ebpf::logic`], parsing in [`totoro_ebpf::packet`].

mod admit;
mod bind;
mod charge;
mod conns;
mod flows;
mod meter;
mod shield;
mod tc;
mod xdp;

use totoro_ebpf::abi::{Config, TCP};
use totoro_ebpf::logic::pool;

use crate::maps::{CONFIG, POOL};

/// Whether a port is in the pool, or is frps's own (whose bit the daemon sets too).
#[inline(always)]
fn is_guarded(proto: u8, port: u16) -> bool {
    let (word, mask) = pool::bit(proto, port);
    POOL.get(word).is_some_and(|word| word & mask != 0)
}

/// The configuration; the programs stand aside until the daemon has written it.
#[inline(always)]
fn config() -> Option<&'static Config> {
    CONFIG
        .get(0)
        .filter(|config| config.abi == totoro_ebpf::abi::VERSION)
}

/// Whether a port is frps's own.
#[inline(always)]
fn is_control(config: &Config, proto: u8, port: u16) -> bool {
    proto == TCP && config.bind_port == port as u32
}
