//! Programs that let everything through and look at nothing.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{cgroup_skb, sk_lookup, sock_ops, xdp};
use aya_ebpf::programs::{SkBuffContext, SkLookupContext, SockOpsContext, XdpContext};

/// Entry point.
#[xdp]
pub(crate) fn nothing_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Entry point.
#[cgroup_skb(ingress)]
pub(crate) fn nothing_in(_ctx: SkBuffContext) -> i32 {
    1
}

/// Entry point.
#[cgroup_skb(egress)]
pub(crate) fn nothing_out(_ctx: SkBuffContext) -> i32 {
    1
}

/// Entry point.
#[sock_ops]
pub(crate) fn nothing_ops(_ctx: SockOpsContext) -> u32 {
    1
}

/// Entry point.
#[sk_lookup]
pub(crate) fn nothing_lookup(_ctx: SkLookupContext) -> u32 {
    1
}
