//! Keeps the kernel's ephemeral ports out of the pool: a pool port picked as a source port would
//! have its answers judged as if they opened a flow.

use anyhow::{Context, Result};
use totoro_api::ports::{Pool, PortSet, Protocol};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn both(pool: &Pool) -> PortSet {
    let ranges = Protocol::ALL
        .iter()
        .flat_map(|protocol| pool.of(*protocol).ranges());
    ranges.copied().collect()
}

fn reserved() -> PortSet {
    crate::machine::read_line(RESERVED)
        .parse()
        .unwrap_or_default()
}

/// Whether the pool has ports of an ephemeral range as the kernel prints it (`32768 60999`, a tab between).
#[must_use]
pub fn overlaps(pool: &Pool, range: &str) -> bool {
    let mut ends = range
        .split_whitespace()
        .filter_map(|end| end.parse::<u16>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else {
        return false;
    };
    both(pool)
        .ranges()
        .iter()
        .any(|range| range.first() <= last && first <= range.last())
}

/// Whether the pool is reserved already.
#[must_use]
pub fn covers(pool: &Pool) -> bool {
    both(pool).is_subset(&reserved())
}

/// Reserves the pool beside what is reserved already, in this network namespace.
///
/// # Errors
/// The sysctl can't be written.
pub fn reserve(pool: &Pool) -> Result<()> {
    if covers(pool) {
        return Ok(());
    }
    let all: PortSet = both(pool)
        .ranges()
        .iter()
        .chain(reserved().ranges())
        .copied()
        .collect();
    std::fs::write(RESERVED, all.to_string()).with_context(|| format!("write {RESERVED}"))?;
    tracing::info!(ports = %all, "reserved: the kernel picks none of the pool's ports for itself");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_with_the_ephemeral_range() {
        let pool = |tcp: &str, udp: &str| Pool {
            tcp: tcp.parse().unwrap(),
            udp: udp.parse().unwrap(),
        };
        assert!(!overlaps(&pool("20000-20099", ""), "32768\t60999"));
        assert!(overlaps(&pool("20000-20099", "40000"), "32768\t60999"));
        assert!(overlaps(&pool("60999-61000", ""), "32768\t60999"));
        assert!(!overlaps(&pool("61000", ""), "32768\t60999"));
    }
}
