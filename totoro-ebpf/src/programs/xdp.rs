//! XDP: the shield at the cheapest place under a flood.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use super::frame::Frame;
use super::shield;

/// Entry point.
#[xdp]
pub(crate) fn totoro_xdp(ctx: XdpContext) -> u32 {
    let frame = Frame::new(ctx.data(), ctx.data_end());
    if shield::passes(&frame) {
        return XDP_PASS;
    }
    // For people who change the parsers: `cargo xtask build-ebpf --log`. Not in what is shipped,
    // because each call site costs the hot path; the counters say why in any case.
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &ctx,
        "dropped {} bytes on ifindex {}",
        frame.len(),
        ctx.ingress_ifindex()
    );
    XDP_DROP
}
