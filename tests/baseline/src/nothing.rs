//! Programs that let everything through and look at nothing.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, classifier, sk_lookup, sock_ops, xdp};
use aya_ebpf::programs::{
    SkBuffContext, SkLookupContext, SockAddrContext, SockOpsContext, TcContext, XdpContext,
};

/// Entry point.
#[xdp]
pub(crate) fn nothing_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Entry point.
#[classifier]
pub(crate) fn nothing_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Entry point.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn nothing_send(_ctx: SockAddrContext) -> i32 {
    1
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
