//! When to ask again: exponential backoff with full jitter, and what the server says.

use std::time::{Duration, SystemTime};

use retry_policies::policies::ExponentialBackoff;
use retry_policies::{Jitter, RetryDecision, RetryPolicy};

use super::CallError;

/// The first ceiling, and the last.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// The least wait: a jitter of zero would be a busy loop.
const LEAST: Duration = Duration::from_millis(100);
/// The longest that a server may ask for.
const LONGEST: Duration = Duration::from_secs(3600);
/// Past this many failures nothing changes any more.
const ENOUGH: u32 = 30;

/// Full-jitter backoff, up to 120 s; `Retry-After` is honoured.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub fn next(&mut self, error: Option<&CallError>) -> Duration {
        self.next_within(error, BOUNDS.1)
    }

    /// The same, and no longer than `most`, but for what the server asks for.
    pub fn next_within(&mut self, error: Option<&CallError>, most: Duration) -> Duration {
        let policy = ExponentialBackoff::builder()
            .retry_bounds(BOUNDS.0, BOUNDS.1)
            .jitter(Jitter::Full)
            .base(2)
            .build_with_max_retries(u32::MAX);
        let now = SystemTime::now();
        let wait = match policy.should_retry(now, self.failures) {
            RetryDecision::Retry { execute_after } => execute_after.duration_since(now),
            RetryDecision::DoNotRetry => Ok(BOUNDS.1),
        };
        let wait = wait.unwrap_or_default().clamp(LEAST, BOUNDS.1).min(most);
        self.failures = (self.failures + 1).min(ENOUGH);
        match error {
            Some(CallError::Refused {
                retry_after: Some(after),
                ..
            }) => wait.max((*after).min(LONGEST)),
            _ => wait,
        }
    }
}

/// What a `Retry-After` says: seconds, or a date by the machine's clock.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value.trim()).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use totoro_api::wire::event::{Subject, kind};

    use super::*;
    use crate::control::Control;
    use crate::spool::{self, Spool};
    use crate::store::{Changes, Store};

    #[test]
    fn waits_are_spread_below_ceilings_that_double() {
        let ceiling = |failure: u32| BOUNDS.1.min(BOUNDS.0 * 2u32.pow(failure.min(20)));
        let mut sums = [Duration::ZERO; 12];
        for _ in 0..400 {
            let mut backoff = Backoff::default();
            for (failure, sum) in (0..).zip(&mut sums) {
                let wait = backoff.next(None);
                assert!(
                    (LEAST..=ceiling(failure)).contains(&wait),
                    "{failure}: {wait:?}"
                );
                *sum += wait;
            }
            backoff.reset();
            assert!(backoff.next(None) <= BOUNDS.0);
        }
        // Full jitter: anything from nothing to the ceiling, so half of it on average.
        for (failure, sum) in (0..).zip(sums) {
            let share = (sum / 400).as_secs_f64() / ceiling(failure).as_secs_f64();
            assert!((0.4..0.65).contains(&share), "{failure}: {share}");
        }
    }

    #[test]
    fn what_the_server_asks_for_goes_before() {
        let busy = |after| CallError::Refused {
            status: reqwest::StatusCode::SERVICE_UNAVAILABLE,
            code: String::new(),
            detail: String::new(),
            next: String::new(),
            retry_after: retry_after(after),
        };
        let mut backoff = Backoff::default();
        assert!(backoff.next(Some(&busy("300"))) >= Duration::from_secs(300));
        assert_eq!(backoff.next(Some(&busy("999999"))), LONGEST);
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
        assert!(backoff.next(Some(&busy(&soon))) > Duration::from_secs(500));
        let before = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(before), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
        // A heartbeat waits no longer than to the next, unless it is asked to.
        let most = Duration::from_millis(50);
        assert!(backoff.next_within(None, most) <= most);
        let asked = backoff.next_within(Some(&busy("300")), most);
        assert!(asked >= Duration::from_secs(300));
    }

    /// A server that is busy at first.
    async fn busy_once(listener: TcpListener, asked: Arc<Mutex<Vec<Instant>>>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let first = {
                let mut asked = asked.lock().unwrap();
                asked.push(Instant::now());
                asked.len() == 1
            };
            let (status, body) = match first {
                true => ("503 Busy\r\nRetry-After: 2", ""),
                false => ("200 OK", "{\"seq\":1}"),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_delivery_waits_as_long_as_it_was_asked_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(busy_once(listener, Arc::clone(&asked)));
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let mut changes = Changes::default();
        let subject = Subject {
            kind: kind::SESSION_OPENED.to_owned(),
            ..Subject::default()
        };
        changes.tell(1, &subject);
        store.commit(&changes).unwrap();
        let spool = Spool::of(store);
        let control = Arc::new(Control::new(&base, "key").unwrap());
        let delivering = tokio::spawn(spool::run(
            spool.clone(),
            control,
            Arc::default(),
            || async { Ok(()) },
        ));
        while spool.size().unwrap().events > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        delivering.abort();
        serving.abort();
        let asked = asked.lock().unwrap();
        assert!(asked[1] - asked[0] >= Duration::from_secs(2), "{asked:?}");
    }

    #[tokio::test]
    async fn one_answer_ends_everybodys_rest_after_an_outage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(busy_once(listener, Arc::default()));
        let nobody = Control::new("http://127.0.0.1:1", "key").unwrap();
        let failed = nobody.tell("/x", &()).await.unwrap_err();
        let control = Control::new(&here, "key").unwrap();
        let another = control.clone();
        let resting = tokio::spawn(async move {
            let hour = Duration::from_secs(3600);
            another.rest(hour, failed.downcast_ref()).await;
        });
        while !resting.is_finished() {
            let _ = control.tell("/x", &()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        serving.abort();
    }
}
