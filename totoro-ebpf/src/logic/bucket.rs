//! Token buckets as GCRA (the generic cell rate algorithm, ITU-T I.371): the whole state is one
//! `u64`, the theoretical arrival time (TAT), so that it can be changed by one compare-and-swap.
//!
//! A rate of `r` per second is an interval of `1e9 / r` ns; a burst of `b` is a tolerance of
//! `b * interval`. Time is any monotone clock in ns. A TAT of 0 is a full bucket.

/// Whether one more fits now: the TAT it leaves behind, or `None`.
///
/// `interval_ns` 0 means no limit.
#[inline(always)]
#[must_use]
pub fn take(tat_ns: u64, now_ns: u64, interval_ns: u64, tolerance_ns: u64) -> Option<u64> {
    if interval_ns == 0 {
        return Some(tat_ns);
    }
    let base = later(tat_ns, now_ns);
    // `tolerance` counts the whole burst, so the first of a burst may already use one interval.
    if base - now_ns + interval_ns > max(tolerance_ns, interval_ns) {
        return None;
    }
    Some(base + interval_ns)
}

/// Interval and tolerance, ns, of a rate per second with a burst of `burst` (at least one).
/// A rate of 0 means no limit: `(0, 0)`.
#[must_use]
pub const fn rate(per_second: u32, burst: u32) -> (u64, u64) {
    if per_second == 0 {
        return (0, 0);
    }
    let interval = 1_000_000_000 / per_second as u64;
    let interval = if interval == 0 { 1 } else { interval };
    (
        interval,
        interval * if burst == 0 { 1 } else { burst as u64 },
    )
}

/// The later of two moments that are less than 292 years apart. Without a branch: of many budgets some are
/// used up beyond now and some are not, and a processor guesses wrong half of the time.
#[inline(always)]
fn later(a: u64, b: u64) -> u64 {
    let ahead = a.wrapping_sub(b);
    b.wrapping_add(ahead & !sign(ahead))
}

/// All ones where a number is negative, else zero. As an instruction that the compiler does not look into:
/// it would make a branch of it again.
#[inline(always)]
fn sign(n: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut n = n;
        // SAFETY: one shift of a register.
        unsafe { core::arch::asm!("{0} s>>= 63", inout(reg) n, options(pure, nomem, nostack)) };
        n
    }
    #[cfg(not(target_arch = "bpf"))]
    (n.cast_signed() >> 63).cast_unsigned()
}

const fn max(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_rate() {
        let (interval, tolerance) = rate(10, 5);
        let mut tat = 0;
        let mut now = 1_000_000_000;
        for nth in 0..5 {
            tat = take(tat, now, interval, tolerance).unwrap_or_else(|| panic!("{nth} of burst"));
        }
        assert_eq!(
            take(tat, now, interval, tolerance),
            None,
            "the burst is spent"
        );
        now += interval - 1;
        assert_eq!(
            take(tat, now, interval, tolerance),
            None,
            "one nanosecond too early"
        );
        now += 1;
        assert!(
            take(tat, now, interval, tolerance).is_some(),
            "one interval gives one"
        );
    }

    #[test]
    fn no_limit() {
        assert_eq!(rate(0, 7), (0, 0));
        assert_eq!(take(9, 1, 0, 0), Some(9));
    }

    proptest! {
        #[test]
        fn the_later_one_is_the_greater(a in 0..=i64::MAX as u64, b in 0..=i64::MAX as u64) {
            prop_assert_eq!(later(a, b), a.max(b));
            prop_assert_eq!(later(b, a), a.max(b));
            prop_assert_eq!(later(a, a), a);
        }

        /// Never more than `burst + rate * elapsed`, whatever the arrivals.
        #[test]
        fn never_above_the_line(per_second in 1u32..100_000, burst in 1u32..1_000,
                                gaps in proptest::collection::vec(0u64..50_000_000, 1..300)) {
            let (interval, tolerance) = rate(per_second, burst);
            let (mut tat, mut now, mut taken) = (0u64, 5_000_000_000u64, 0u64);
            let start = now;
            for gap in gaps {
                now += gap;
                if let Some(next) = take(tat, now, interval, tolerance) {
                    tat = next;
                    taken += 1;
                }
                prop_assert!(taken <= u64::from(burst) + (now - start) / interval);
            }
        }
    }
}
