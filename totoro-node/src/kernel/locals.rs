//! The node's own addresses, so that the shield judges only what is addressed to the node.

use std::collections::HashSet;

use totoro_ebpf::abi;

use super::maps::{Maps, entries, gone};
use super::near::Near;
use super::{Context, Result, to_addr};

/// Writes the addresses of this network namespace into `LOCALS`, and removes what is no more, here and
/// from what the shield has at hand; how many changed.
pub(super) fn refresh(maps: &mut Maps, near: &mut Near) -> Result<usize> {
    let now = addresses()?;
    let before: HashSet<abi::Addr> = entries(maps.locals.iter(), "LOCALS")?
        .into_iter()
        .map(|(addr, _)| addr)
        .collect();
    near.place(&now)?;
    // First, so that there is room.
    for addr in before.difference(&now) {
        gone(maps.locals.remove(addr)).on("write", "LOCALS")?;
    }
    let mut left_out = 0;
    for addr in now.difference(&before) {
        match maps.locals.insert(addr, 1, 0).on("write", "LOCALS") {
            Err(error) if error.is_full() => left_out += 1,
            written => written?,
        }
    }
    if left_out != near.left_out {
        near.left_out = left_out;
        tracing::warn!(
            left_out,
            addresses = now.len(),
            "LOCALS is full: what goes to the other addresses of this machine is judged by the socket lookup alone"
        );
    }
    let changed = now.symmetric_difference(&before).count() - left_out;
    if changed > 0 {
        tracing::info!(changed, "the node's addresses changed");
    }
    Ok(changed)
}

fn addresses() -> Result<HashSet<abi::Addr>> {
    let interfaces = nix::ifaddrs::getifaddrs().on("list", "the addresses of this machine")?;
    Ok(interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
        })
        .map(to_addr)
        .collect())
}
