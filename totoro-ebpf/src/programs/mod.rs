//! One file per hook. Entry points call a `try_…` and map its result; decisions are in
//! [`totoro_ebpf::logic`], parsing in [`totoro_ebpf::packet`].

mod admit;
mod bind;
mod charge;
mod conns;
mod datagram;
mod ending;
mod flows;
mod frame;
mod greeting;
mod idle;
mod known;
mod lease;
mod mend;
mod meter;
mod recycle;
mod shield;
mod tc;
mod waiting;
mod xdp;

use totoro_ebpf::abi::{Config, OutboundKey, TCP};
use totoro_ebpf::logic::admit::may_be_answered;
use totoro_ebpf::logic::pool;

use crate::maps::{CONFIG, OUTBOUND, POOL};
use crate::verdict::now;

/// What a callback of bpf_loop or bpf_for_each_map_elem says: on with the next one, or no more.
const NEXT: i64 = 0;
const LAST: i64 = 1;

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

/// Whether a TCP port is frps's own, as far as the configuration is written.
#[inline(always)]
fn is_bind_port(port: u16) -> bool {
    CONFIG
        .get(0)
        .is_some_and(|config| config.bind_port == port as u32)
}

/// Whether a port is frps's own.
#[inline(always)]
fn is_control(config: &Config, proto: u8, port: u16) -> bool {
    proto == TCP && config.bind_port == port as u32
}

/// Whether a datagram answers a flow that was opened from here a short while ago.
#[inline(always)]
fn is_answer(flow: &OutboundKey) -> bool {
    // SAFETY: the value is copied at once.
    unsafe { OUTBOUND.get(flow) }.is_some_and(|sent| may_be_answered(*sent, now()))
}
