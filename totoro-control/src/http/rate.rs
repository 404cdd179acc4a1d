//! Requests per minute and source on what anyone may call, and a lockout that grows for those who
//! guess keys and codes.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::problem::ApiError;
use super::sources::{Idle, Table};
use crate::config::Rates;

/// Sources remembered at once by one limiter.
const MAX_SOURCES: usize = 100_000;
/// What an allowance is for.
const MINUTE: Duration = Duration::from_secs(60);
/// The first lockout; each further one is twice as long.
const LOCKOUT: Duration = Duration::from_secs(10);
/// The longest lockout, and how long after it the next is the first again.
const MAX_LOCKOUT: Duration = Duration::from_secs(3600);

/// An allowance that refills evenly: when it is whole again.
struct Bucket {
    whole_at: Instant,
}

impl Bucket {
    /// Spends one of `per_minute`; or how long until there is one.
    fn spend(&mut self, per_minute: u32, now: Instant) -> Result<(), Duration> {
        let after = self.whole_at.max(now) + MINUTE / per_minute.max(1);
        let missing = after.duration_since(now).saturating_sub(MINUTE);
        if missing.is_zero() {
            self.whole_at = after;
            return Ok(());
        }
        Err(missing)
    }
}

impl Idle for Bucket {
    fn is_idle(&self, now: Instant) -> bool {
        self.whole_at <= now
    }
}

/// One allowance per source.
pub(super) struct Limiter {
    per_minute: u32,
    buckets: Mutex<Table<Bucket>>,
}

impl Limiter {
    fn new(per_minute: u32) -> Self {
        Limiter {
            per_minute,
            buckets: Mutex::new(Table::new(MAX_SOURCES)),
        }
    }

    /// Spends one request of this address.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), ApiError> {
        self.check_at(address, Instant::now())
    }

    fn check_at(&self, address: IpAddr, now: Instant) -> Result<(), ApiError> {
        lock(&self.buckets)
            .at(address, now, || Bucket { whole_at: now })
            .spend(self.per_minute, now)
            .map_err(limited)
    }
}

/// A source that failed.
struct Failing {
    bucket: Bucket,
    lockouts: u32,
    locked_until: Instant,
}

impl Idle for Failing {
    fn is_idle(&self, now: Instant) -> bool {
        self.bucket.is_idle(now) && self.locked_until + MAX_LOCKOUT <= now
    }
}

/// Spends on failures only: whoever has the right key is never held up by those who guess from the
/// same address. Past the allowance failures are answered with a lockout, at no further cost.
pub(super) struct Penalty {
    per_minute: u32,
    failing: Mutex<Table<Failing>>,
}

impl Penalty {
    fn new(per_minute: u32) -> Self {
        Penalty {
            per_minute,
            failing: Mutex::new(Table::new(MAX_SOURCES)),
        }
    }

    /// Counts a failure of this address; refuses it while the address is locked out.
    pub(super) fn fail(&self, address: IpAddr) -> Result<(), ApiError> {
        self.fail_at(address, Instant::now())
    }

    fn fail_at(&self, address: IpAddr, now: Instant) -> Result<(), ApiError> {
        let mut table = lock(&self.failing);
        let failing = table.at(address, now, || Failing {
            bucket: Bucket { whole_at: now },
            lockouts: 0,
            locked_until: now,
        });
        if failing.locked_until > now {
            return Err(limited(failing.locked_until.duration_since(now)));
        }
        if failing.locked_until + MAX_LOCKOUT <= now {
            failing.lockouts = 0;
        }
        if failing.bucket.spend(self.per_minute, now).is_err() {
            let length = LOCKOUT.saturating_mul(1 << failing.lockouts.min(16));
            failing.locked_until = now + length.min(MAX_LOCKOUT);
            failing.lockouts += 1;
        }
        Ok(())
    }
}

fn limited(wait: Duration) -> ApiError {
    // Rounded up: who comes when told is not early.
    ApiError::rate_limited(
        wait.as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX),
    )
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All allowances.
pub(super) struct Limiters {
    pub(super) resolve: Limiter,
    pub(super) token: Limiter,
    pub(super) public: Limiter,
    pub(super) wrong_key: Penalty,
    pub(super) wrong_code: Penalty,
}

impl Limiters {
    pub(super) fn new(rates: Rates) -> Self {
        Limiters {
            resolve: Limiter::new(rates.resolve),
            token: Limiter::new(rates.token),
            public: Limiter::new(rates.public),
            wrong_key: Penalty::new(rates.wrong_key),
            wrong_code: Penalty::new(rates.wrong_code),
        }
    }

    /// Forgets what need not be remembered.
    pub(super) fn forget(&self) {
        let now = Instant::now();
        for limiter in [&self.resolve, &self.token, &self.public] {
            lock(&limiter.buckets).forget(now);
        }
        for penalty in [&self.wrong_key, &self.wrong_code] {
            lock(&penalty.failing).forget(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_address_and_by_64_refilled_evenly() {
        let (limiter, now) = (Limiter::new(2), Instant::now());
        let ask = |text: &str, at| {
            let answer = limiter.check_at(text.parse().unwrap(), now + Duration::from_secs(at));
            answer.map_err(|error| error.retry_after.unwrap()).err()
        };
        assert_eq!(ask("192.0.2.1", 0), None);
        assert_eq!(ask("::ffff:192.0.2.1", 0), None);
        assert_eq!(ask("192.0.2.1", 1), Some(29));
        assert_eq!(ask("192.0.2.1", 30), None);
        assert_eq!(ask("192.0.2.1", 31), Some(29));
        assert_eq!(ask("192.0.2.2", 0), None, "another address has its own");
        assert_eq!(ask("2001:db8::1", 0), None);
        assert_eq!(ask("2001:db8::2", 0), None);
        assert_eq!(ask("2001:db8::3", 0), Some(30), "one /64");
        assert_eq!(ask("2001:db8:0:1::1", 0), None, "another /64");
    }

    #[test]
    fn a_lockout_grows_and_is_forgotten() {
        let (penalty, begun) = (Penalty::new(2), Instant::now());
        let mut now = begun;
        let address = "192.0.2.1".parse().unwrap();
        let mut lockouts = Vec::new();
        while lockouts.len() < 11 {
            match penalty.fail_at(address, now) {
                Ok(()) => {}
                Err(limited) => {
                    let wait = limited.retry_after.unwrap();
                    lockouts.push(wait);
                    now += Duration::from_secs(wait);
                }
            }
        }
        assert_eq!(lockouts[..3], [10, 20, 40]);
        assert_eq!(lockouts[9..], [3600, 3600]);
        let other = "192.0.2.2".parse().unwrap();
        assert!(penalty.fail_at(other, now).is_ok());
        now += 2 * MAX_LOCKOUT;
        for _ in 0..3 {
            assert!(penalty.fail_at(address, now).is_ok());
        }
        let first_again = penalty.fail_at(address, now).unwrap_err();
        assert_eq!(first_again.retry_after, Some(10));
    }
}
