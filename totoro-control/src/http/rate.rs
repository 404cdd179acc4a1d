//! Requests per minute and address, on what anyone may call. IPv6 counts by /64: an address there
//! costs nothing. Memory is bounded.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::problem::ApiError;
use crate::config::Rates;

/// Addresses remembered at once by one limiter. Past it all share one allowance, until the idle ones
/// are forgotten: a flood from many addresses costs requests, never memory.
const MAX_ADDRESSES: usize = 100_000;

/// Where an address is counted; `Shared` is everybody who came when the table was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    V6(u64),
    Shared,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4.to_bits()),
            // The upper half is the /64.
            IpAddr::V6(v6) => Source::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// One allowance per address.
pub(super) struct Limiter {
    limiter: DefaultKeyedRateLimiter<Source>,
    clock: DefaultClock,
}

impl Limiter {
    fn new(per_minute: u32) -> Self {
        let rate = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::keyed(Quota::per_minute(rate));
        Limiter {
            limiter,
            clock: DefaultClock::default(),
        }
    }

    /// Spends one request of this address.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), ApiError> {
        let source = match self.limiter.len() {
            full if full >= MAX_ADDRESSES => Source::Shared,
            _ => Source::from(address),
        };
        self.limiter
            .check_key(&source)
            .map(|_| ())
            .map_err(|not_until| {
                let wait = not_until.wait_time_from(self.clock.now());
                ApiError::rate_limited(wait.as_secs() + 1)
            })
    }

    /// Forgets the addresses whose allowance is whole again.
    fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// Spends on failures only: whoever has the right key is never slowed down by it.
pub(super) struct Penalty {
    limiter: Limiter,
    spent: std::sync::Mutex<std::collections::HashMap<Source, std::time::Instant>>,
}

/// Addresses locked out at once; past it the oldest go.
const MAX_LOCKED: usize = 10_000;
/// How long a spent allowance locks an address out.
const LOCKED: std::time::Duration = std::time::Duration::from_secs(10);

impl Penalty {
    fn new(per_minute: u32) -> Self {
        Penalty {
            limiter: Limiter::new(per_minute),
            spent: std::sync::Mutex::default(),
        }
    }

    /// Refuses an address that has failed too often.
    pub(super) fn peek(&self, address: IpAddr) -> Result<(), ApiError> {
        let spent = self
            .spent
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match spent.get(&Source::from(address)) {
            Some(since) if since.elapsed() < LOCKED => {
                Err(ApiError::rate_limited(LOCKED.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Counts a failure.
    pub(super) fn spend(&self, address: IpAddr) {
        if self.limiter.check(address).is_err() {
            let mut spent = self
                .spent
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if spent.len() >= MAX_LOCKED {
                spent.retain(|_, since| since.elapsed() < LOCKED);
            }
            if spent.len() < MAX_LOCKED {
                spent.insert(Source::from(address), std::time::Instant::now());
            }
        }
    }

    fn forget(&self) {
        self.limiter.forget();
        let mut spent = self
            .spent
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        spent.retain(|_, since| since.elapsed() < LOCKED);
    }
}

/// All allowances.
pub(super) struct Limiters {
    pub(super) resolve: Limiter,
    pub(super) token: Limiter,
    pub(super) public: Limiter,
    pub(super) wrong_key: Penalty,
}

impl Limiters {
    pub(super) fn new(rates: Rates) -> Self {
        Limiters {
            resolve: Limiter::new(rates.resolve),
            token: Limiter::new(rates.token),
            public: Limiter::new(rates.public),
            wrong_key: Penalty::new(rates.wrong_key),
        }
    }

    /// Forgets what need not be remembered.
    pub(super) fn forget(&self) {
        for limiter in [&self.resolve, &self.token, &self.public] {
            limiter.forget();
        }
        self.wrong_key.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_address_and_by_64() {
        let limiter = Limiter::new(2);
        let ask = |text: &str| limiter.check(text.parse().unwrap()).is_ok();
        assert!(ask("192.0.2.1") && ask("::ffff:192.0.2.1") && !ask("192.0.2.1"));
        assert!(ask("192.0.2.2"), "another address has its own");
        assert!(
            ask("2001:db8::1") && ask("2001:db8::2") && !ask("2001:db8::3"),
            "one /64"
        );
        assert!(ask("2001:db8:0:1::1"), "another /64");
    }

    #[test]
    fn only_failures_lock_out() {
        let penalty = Penalty::new(2);
        let address = "192.0.2.1".parse().unwrap();
        for _ in 0..2 {
            penalty.spend(address);
            assert!(penalty.peek(address).is_ok());
        }
        penalty.spend(address);
        assert_eq!(penalty.peek(address).unwrap_err().retry_after, Some(10));
        assert!(penalty.peek("192.0.2.2".parse().unwrap()).is_ok());
    }
}
