//! TC egress: remembers datagrams that leave from a pool-numbered port that is nobody's lease, so that
//! their answers pass. Drops nothing.

use totoro_ebpf::abi::{OutboundKey, UDP};

use crate::world::port_key;
use crate::{Seen, Span, World};

impl World {
    /// A frame that leaves.
    pub fn leave(&mut self, frame: &[u8], now: Span) {
        let Some(seen) = Seen::read(frame).filter(|seen| seen.proto == UDP) else {
            return;
        };
        let is_leased = self.ports.contains_key(&port_key(UDP, seen.from_port));
        if self.guards(UDP, seen.from_port) && !is_leased {
            let key = OutboundKey {
                remote: seen.to,
                local: seen.from,
                remote_port: seen.to_port,
                local_port: seen.from_port,
                pad: 0,
            };
            self.outbound.insert(key, now);
        }
    }
}
