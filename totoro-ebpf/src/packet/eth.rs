//! Ethernet II, IEEE 802.1Q and 802.1ad tags.

use super::{Family, Packet};

const ETH_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

/// The network header's family and offset, through up to two VLAN tags.
#[inline(always)]
pub fn network_offset(packet: &impl Packet) -> Option<(Family, usize)> {
    let mut kind = packet.half(ETH_LEN - 2)?;
    let mut at = ETH_LEN;
    // Two tags written out: a loop here costs the verifier more than it saves the reader.
    if kind == ETH_P_8021Q || kind == ETH_P_8021AD {
        kind = packet.half(at + 2)?;
        at += VLAN_LEN;
        if kind == ETH_P_8021Q || kind == ETH_P_8021AD {
            kind = packet.half(at + 2)?;
            at += VLAN_LEN;
        }
    }
    match kind {
        ETH_P_IP => Some((Family::V4, at)),
        ETH_P_IPV6 => Some((Family::V6, at)),
        _ => None,
    }
}
