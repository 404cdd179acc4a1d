//! What passed tenants' leases, as it was last read. To read it is a system call for each lease, and most tenants of a
//! full node are at rest: what passed theirs is what it was.

use std::collections::HashMap;

use anyhow::Result;

use crate::kernel::TenantCounts;

/// A tenant is at rest for so long before what passed it is remembered, ns. The programs' clock stands still
/// between two ticks of the kernel's: what happens at the same moment as something before it changes nothing.
const SETTLES_NS: u64 = 1_000_000_000;

/// More leases than a node may have.
const MOST: u64 = 1 << 17;

/// While this is the same and nothing lives, nothing passes: the programs write down (`Usage::last_ns`) when a
/// connection begins or ends, when a flow begins, and each datagram of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sign {
    last_ns: u64,
    /// The newest one's number, and how many there are: numbers rise, so together they say which.
    leases: u64,
}

/// From users and to users, IP bytes.
pub(super) type Bytes = [u64; 2];

/// By the tenant's number.
#[derive(Debug, Default)]
pub(super) struct Passed(HashMap<u32, (Sign, Bytes)>);

impl Passed {
    /// What passed the leases of a tenant with these `numbers`: `read`, where anything may have passed since it was
    /// the last time. Its `counts` were taken at `now_ns`, or later.
    pub(super) fn of(
        &mut self,
        tenant: u32,
        counts: &TenantCounts,
        numbers: impl Iterator<Item = u64> + Clone,
        now_ns: u64,
        read: impl FnOnce() -> Result<Bytes>,
    ) -> Result<Bytes> {
        let last_ns = counts.usage.last_ns;
        if counts.usage.conns > 0 || counts.flows > 0 || last_ns + SETTLES_NS > now_ns {
            self.0.remove(&tenant);
            return read();
        }
        let sign = Sign {
            last_ns,
            leases: numbers.clone().max().unwrap_or(0) * MOST + numbers.count() as u64,
        };
        if let Some((_, bytes)) = self.0.get(&tenant).filter(|(of, _)| *of == sign) {
            return Ok(*bytes);
        }
        let bytes = read()?;
        self.0.insert(tenant, (sign, bytes));
        Ok(bytes)
    }

    /// Forgets tenants that are not there any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(u32) -> bool) {
        self.0.retain(|tenant, _| is_there(*tenant));
    }
}

#[cfg(test)]
mod tests {
    use totoro_ebpf::abi::Usage;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn counts(conns: u64, flows: u64, last_ns: u64) -> TenantCounts {
        let usage = Usage {
            conns,
            last_ns,
            ..Usage::default()
        };
        TenantCounts {
            usage,
            flows,
            flows_closed: 0,
        }
    }

    #[test]
    fn it_is_read_again_when_anything_may_have_passed() {
        let mut passed = Passed::default();
        let mut ask = |what: &str, counts: TenantCounts, numbers: &[u64], at: u64, reads: bool| {
            let numbers = numbers.iter().copied();
            let mut was_read = false;
            let read = || {
                was_read = true;
                Ok([at, 0])
            };
            let bytes = passed.of(7, &counts, numbers, at, read).unwrap();
            assert_eq!(was_read, reads, "{what}");
            bytes[0]
        };
        let quiet = |last_s: u64| counts(0, 0, last_s * S);
        ask("never before", quiet(1), &[4, 5], 10 * S, true);
        assert_eq!(ask("at rest", quiet(1), &[4, 5], 11 * S, false), 10 * S);
        ask("something was", quiet(11), &[4, 5], 20 * S, true);
        ask("a lease ended", quiet(11), &[5], 21 * S, true);
        ask("another began in its place", quiet(11), &[6], 22 * S, true);
        ask("at rest", quiet(11), &[6], 23 * S, false);
        ask(
            "a connection lives",
            counts(1, 0, 24 * S),
            &[6],
            30 * S,
            true,
        );
        ask("it still does", counts(1, 0, 24 * S), &[6], 31 * S, true);
        ask("it ended", quiet(31), &[6], 40 * S, true);
        ask("a flow lives", counts(0, 1, 31 * S), &[6], 41 * S, true);
        ask(
            "it ended, which is not written down",
            quiet(31),
            &[6],
            42 * S,
            true,
        );
        ask("at rest", quiet(31), &[6], 43 * S, false);
        ask("just now", quiet(44), &[6], 44 * S, true);
        ask(
            "and perhaps in the same moment",
            quiet(44),
            &[6],
            46 * S,
            true,
        );
        ask("at rest", quiet(44), &[6], 47 * S, false);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut passed = Passed::default();
        for tenant in [7, 8] {
            let read = || Ok([1, 2]);
            passed
                .of(tenant, &counts(0, 0, 0), [1].into_iter(), 9 * S, read)
                .unwrap();
        }
        passed.keep(|tenant| tenant == 8);
        assert_eq!(passed.0.len(), 1);
    }
}
