//! The layout of maps, events and load-time constants: the contract between the kernel programs
//! and userspace, and between two versions of Totoro that share pins.
//!
//! Rules: `repr(C)`, integers only, padding explicit, size and alignment asserted. Ports are in
//! host byte order, addresses 16 bytes in network order (IPv4 as v4-mapped, `::ffff:a.b.c.d`),
//! times nanoseconds of the boot-time clock (`bpf_ktime_get_boot_ns`, `CLOCK_BOOTTIME`), rates
//! GCRA intervals in nanoseconds. A change of a layout, or of the set of maps, moves [`VERSION`],
//! which names the pin directory. Values that the kernel writes are frozen: the next version shares
//! their maps with this one, so that nothing is lost while programs are replaced one by one; they
//! grow by spare fields, or by a map of their own.

mod event;
mod gate;
mod lease;
mod mend;
mod source;
mod state;

pub use event::*;
pub use gate::*;
pub use lease::*;
pub use mend::*;
pub use source::*;
pub use state::*;

/// The ABI's version: the pins live under `…/totoro/v<VERSION>/`.
pub const VERSION: u32 = 1;

/// IP protocol number of TCP (IANA).
pub const TCP: u8 = 6;
/// IP protocol number of UDP (IANA).
pub const UDP: u8 = 17;

/// An address: 16 bytes in network order, IPv4 as v4-mapped.
pub type Addr = [u8; 16];

/// `::ffff:0:0/96` followed by the IPv4 address in network order.
#[inline(always)]
#[must_use]
pub const fn v4_mapped(ip: [u8; 4]) -> Addr {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3],
    ]
}

/// Marks a type whose every bit pattern is a value, for aya's maps.
macro_rules! abi {
    ($($name:ident: $size:literal),+ $(,)?) => {
        $(const _: () = {
            assert!(core::mem::size_of::<$name>() == $size, concat!("size of ", stringify!($name)));
            assert!(core::mem::align_of::<$name>() <= 8);
        };
        #[cfg(feature = "user")]
        // SAFETY: repr(C), integers only, padding explicit: any bytes are a value.
        unsafe impl aya::Pod for $name {})+
    };
}
pub(crate) use abi;
