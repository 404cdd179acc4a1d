//! Programs that do nothing, one of each kind that Totoro has on a packet's or a connection's way, and a
//! driver. Built for `bpfel-unknown-none` by `cargo xtask bench dataplane`; a stub on the host.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "atomics of the BPF target exist as intrinsics only"
    ),
    feature(core_intrinsics)
)]

#[cfg(target_arch = "bpf")]
mod drive;
#[cfg(target_arch = "bpf")]
mod nothing;

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier refuses a program from which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is the host's stub; the kernel object is made by: cargo xtask bench dataplane");
    std::process::exit(2);
}
