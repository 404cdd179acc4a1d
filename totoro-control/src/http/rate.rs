//! Requests per minute and source on what anyone may call, and a lockout that grows for those who
//! guess keys and codes; events per minute and node. The arithmetic is `governor`'s (GCRA); what it remembers of sources is kept
//! in a table that has a bound (`sources`).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::problem::ApiError;
use super::sources::{Idle, Table};
use crate::config::Rates;

/// Sources remembered at once by one limiter.
const MAX_SOURCES: usize = 100_000;
/// The first lockout; each further one is twice as long.
const LOCKOUT: Duration = Duration::from_secs(10);
/// The longest lockout, and how long after it the next is the first again.
const MAX_LOCKOUT: Duration = Duration::from_secs(3600);

/// Time since the start, by a clock that never goes back.
#[derive(Clone, Debug)]
pub(super) struct Uptime(Instant);

impl Clock for Uptime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// When the allowance of a source is whole again.
struct WholeAt(Option<Nanos>);

impl Idle for WholeAt {
    fn is_idle(&self, now: Nanos) -> bool {
        self.0.is_none_or(|whole_at| whole_at <= now)
    }
}

/// governor's memory; a clone is the same one.
#[derive(Clone)]
struct Sources<C> {
    clock: C,
    table: Arc<Mutex<Table<WholeAt>>>,
}

impl<C: Clock<Instant = Nanos>> StateStore for Sources<C> {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, address: &IpAddr, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut table = lock(&self.table);
        let held = table.at(*address, self.clock.now(), || WholeAt(None));
        let (answer, whole_at) = measure(held.0)?;
        held.0 = Some(whole_at);
        Ok(answer)
    }
}

/// One allowance per source.
pub(super) struct Limiter<C: Clock<Instant = Nanos> = Uptime> {
    clock: C,
    limiter: RateLimiter<IpAddr, Sources<C>, C, NoOpMiddleware<Nanos>>,
    sources: Sources<C>,
}

impl<C: Clock<Instant = Nanos> + Clone> Limiter<C> {
    fn new(per_minute: u32, clock: &C) -> Self {
        let sources = Sources {
            clock: clock.clone(),
            table: Arc::new(Mutex::new(Table::new(MAX_SOURCES))),
        };
        Limiter {
            clock: clock.clone(),
            limiter: RateLimiter::new(quota(per_minute), sources.clone(), clock.clone()),
            sources,
        }
    }

    /// Spends one request of this address.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), ApiError> {
        let spent = self.limiter.check_key(&address);
        spent.map_err(|not_until| limited(not_until.wait_time_from(self.clock.now())))
    }

    fn forget(&self) {
        lock(&self.sources.table).forget(self.clock.now());
    }
}

/// A source that had too many failures.
#[derive(Default)]
struct Lockouts {
    count: u32,
    until: Duration,
}

impl Idle for Lockouts {
    fn is_idle(&self, now: Nanos) -> bool {
        self.until + MAX_LOCKOUT <= Duration::from(now)
    }
}

/// Spends on failures only: whoever has the right key is never held up by those who guess from the
/// same address. Past the allowance failures are answered with a lockout, at no further cost.
pub(super) struct Penalty<C: Clock<Instant = Nanos> = Uptime> {
    failures: Limiter<C>,
    lockouts: Mutex<Table<Lockouts>>,
}

impl<C: Clock<Instant = Nanos> + Clone> Penalty<C> {
    fn new(per_minute: u32, clock: &C) -> Self {
        Penalty {
            failures: Limiter::new(per_minute, clock),
            lockouts: Mutex::new(Table::new(MAX_SOURCES)),
        }
    }

    /// Counts a failure of this address; refuses it while the address is locked out.
    pub(super) fn fail(&self, address: IpAddr) -> Result<(), ApiError> {
        let now = self.failures.clock.now();
        let mut lockouts = lock(&self.lockouts);
        if let Some(held) = lockouts.get(address)
            && held.until > Duration::from(now)
        {
            return Err(limited(held.until - Duration::from(now)));
        }
        if self.failures.check(address).is_err() {
            let held = lockouts.at(address, now, Lockouts::default);
            if held.is_idle(now) {
                held.count = 0;
            }
            let length = LOCKOUT.saturating_mul(1 << held.count.min(16));
            held.until = Duration::from(now) + length.min(MAX_LOCKOUT);
            held.count += 1;
        }
        Ok(())
    }

    fn forget(&self) {
        self.failures.forget();
        lock(&self.lockouts).forget(self.failures.clock.now());
    }
}

/// One allowance per node. Who asks is known here, and nodes are the operator's: what is remembered of
/// them needs no other bound than that it is forgotten.
pub(super) struct Budget<C: Clock<Instant = Nanos> = Uptime> {
    clock: C,
    most: u32,
    limiter: RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<Nanos>>,
}

impl<C: Clock<Instant = Nanos> + Clone> Budget<C> {
    fn new(per_minute: u32, clock: &C) -> Self {
        Budget {
            clock: clock.clone(),
            most: per_minute,
            limiter: RateLimiter::hashmap_with_clock(quota(per_minute), clock.clone()),
        }
    }

    /// Spends so many of this node's. What is more than a minute's allowance costs all of that: it could
    /// never be had otherwise.
    pub(super) fn check(&self, node: &str, count: usize) -> Result<(), ApiError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.most);
        let Some(count) = NonZeroU32::new(count) else {
            return Ok(());
        };
        match self.limiter.check_key_n(&node.to_owned(), count) {
            Ok(Err(not_until)) => Err(limited(not_until.wait_time_from(self.clock.now()))),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

fn quota(per_minute: u32) -> Quota {
    // The settings refuse 0.
    Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN))
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
    pub(super) events: Budget,
}

impl Limiters {
    pub(super) fn new(rates: Rates) -> Self {
        let clock = Uptime(Instant::now());
        Limiters {
            resolve: Limiter::new(rates.resolve, &clock),
            token: Limiter::new(rates.token, &clock),
            public: Limiter::new(rates.public, &clock),
            wrong_key: Penalty::new(rates.wrong_key, &clock),
            wrong_code: Penalty::new(rates.wrong_code, &clock),
            events: Budget::new(rates.events, &clock),
        }
    }

    /// Forgets what need not be remembered.
    pub(super) fn forget(&self) {
        for limiter in [&self.resolve, &self.token, &self.public] {
            limiter.forget();
        }
        for penalty in [&self.wrong_key, &self.wrong_code] {
            penalty.forget();
        }
        self.events.forget();
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn by_address_and_by_64_refilled_evenly() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(2, &clock);
        let ask = |text: &str| {
            let answer = limiter.check(text.parse().unwrap());
            answer.map_err(|error| error.retry_after.unwrap()).err()
        };
        assert_eq!(ask("192.0.2.1"), None);
        assert_eq!(ask("::ffff:192.0.2.1"), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask("192.0.2.1"), Some(29));
        clock.advance(Duration::from_secs(29));
        assert_eq!(ask("192.0.2.1"), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask("192.0.2.1"), Some(29));
        assert_eq!(ask("192.0.2.2"), None, "another address has its own");
        assert_eq!(ask("2001:db8::1"), None);
        assert_eq!(ask("2001:db8::2"), None);
        assert_eq!(ask("2001:db8::3"), Some(30), "one /64");
        assert_eq!(ask("2001:db8:0:1::1"), None, "another /64");
    }

    #[test]
    fn a_node_has_an_allowance_of_its_own() {
        let clock = FakeRelativeClock::default();
        let budget = Budget::new(600, &clock);
        let ask = |node: &str, count| {
            let answer = budget.check(node, count);
            answer.map_err(|error| error.retry_after.unwrap()).err()
        };
        assert_eq!(ask("loud", 500), None);
        assert_eq!(ask("loud", 500), Some(40));
        assert_eq!(ask("loud", 100), None, "what is left");
        assert_eq!(ask("loud", 0), None);
        assert_eq!(ask("quiet", 500), None, "another has its own");
        clock.advance(Duration::from_secs(40));
        assert_eq!(ask("loud", 500), Some(10));
        clock.advance(Duration::from_secs(20));
        assert_eq!(ask("loud", 4096), None, "a whole minute's");
        assert_eq!(ask("loud", 1), Some(1));
        clock.advance(Duration::from_secs(61));
        budget.forget();
        assert!(budget.limiter.is_empty());
    }

    #[test]
    fn a_lockout_grows_and_is_forgotten() {
        let clock = FakeRelativeClock::default();
        let penalty = Penalty::new(2, &clock);
        let address = "192.0.2.1".parse().unwrap();
        let mut lockouts = Vec::new();
        while lockouts.len() < 11 {
            match penalty.fail(address) {
                Ok(()) => {}
                Err(limited) => {
                    let wait = limited.retry_after.unwrap();
                    lockouts.push(wait);
                    clock.advance(Duration::from_secs(wait));
                }
            }
        }
        assert_eq!(lockouts[..3], [10, 20, 40]);
        assert_eq!(lockouts[9..], [3600, 3600]);
        assert!(penalty.fail("192.0.2.2".parse().unwrap()).is_ok());
        clock.advance(2 * MAX_LOCKOUT);
        for _ in 0..3 {
            assert!(penalty.fail(address).is_ok());
        }
        let first_again = penalty.fail(address).unwrap_err();
        assert_eq!(first_again.retry_after, Some(10));
    }
}
