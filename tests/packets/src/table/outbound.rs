//! What leaves.

use totoro_ebpf::abi::{TCP, UDP};

use super::*;
use crate::build::packet;

/// What leaves.
pub(super) fn section(now: u64) -> Section {
    let from = |proto, from, port| packet(from, USER4, proto, 53).with(|p| p.ports.0 = port);
    let rows = vec![
        leaves(
            "a datagram from a pool port that is nobody's lease",
            &from(UDP, NODE4, FREE),
            now,
        )
        .changes(&["+ OUTBOUND 192.0.2.1 port 20001 to 198.51.100.7 port 53"]),
        leaves("one that is forwarded", &from(UDP, ROUTED, FREE), now)
            .changes(&["+ OUTBOUND 10.0.0.5 port 20001 to 198.51.100.7 port 53"]),
        leaves(
            "from a leased port: a user's answer",
            &from(UDP, NODE4, LEASED),
            now,
        ),
        leaves(
            "from a port outside of the pool",
            &from(UDP, NODE4, 30_000),
            now,
        ),
        leaves("TCP", &from(TCP, NODE4, FREE), now),
    ];
    Section {
        title: "What leaves",
        about: "TC egress. Remembers datagrams whose answers will come to a pool-numbered port; drops \
                nothing.",
        rows,
    }
}
