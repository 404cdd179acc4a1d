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
        let asked = error.and_then(CallError::retry_after).unwrap_or_default();
        wait.max(asked.min(LONGEST))
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
    use crate::control::{Control, Silence};
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
        let in_front = Silence::InFront {
            status: reqwest::StatusCode::SERVICE_UNAVAILABLE,
            retry_after: retry_after("300"),
        };
        let in_front = CallError::Unreachable("c".to_owned(), in_front);
        for busy in [&busy("300"), &in_front] {
            assert!(backoff.next(Some(busy)) >= Duration::from_secs(300));
        }
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

    /// The server's first answers, which are what is given; what a call gets from each.
    async fn called(answers: &'static [(&'static str, &'static str)]) -> Vec<anyhow::Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for (head, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                let length = body.len();
                let whole = format!(
                    "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(whole.as_bytes()).await.unwrap();
            }
        });
        let control = Control::new(&here, "key").unwrap();
        let mut errors = Vec::new();
        for (head, _) in answers {
            let answered = control.answers.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            let error = control.tell("/x", &()).await.unwrap_err();
            let is_heard = tokio::time::timeout(Duration::ZERO, answered).await.is_ok();
            let call = error.downcast_ref::<CallError>().unwrap();
            let is_away = matches!(call, CallError::Unreachable(..));
            assert_ne!(
                is_heard, is_away,
                "{head}: only an answer ends others' rests"
            );
            errors.push(error);
        }
        errors
    }

    #[tokio::test]
    async fn an_error_that_is_not_the_control_planes_own_is_no_answer() {
        const FULL: &str = r#"{"type": "t", "title": "t", "status": 503, "detail": "d",
            "code": "internal", "next": "n", "request_id": "r"}"#;
        let away = called(&[
            (
                "502 Bad Gateway\r\ncontent-type: text/html",
                "<html>502</html>",
            ),
            ("503 Service Unavailable\r\nretry-after: 7", ""),
            ("504 Gateway Timeout", r#"{"error": "timeout"}"#),
            ("521 Web Server Is Down", "error code: 521"),
        ]);
        for (error, after) in away.await.iter().zip([None, Some(7), None, None]) {
            let call = error.downcast_ref::<CallError>().unwrap();
            assert!(matches!(call, CallError::Unreachable(..)), "{call}");
            assert_eq!(call.retry_after(), after.map(Duration::from_secs));
            let told = format!("{error:#}");
            assert!(told.contains("can't be reached: HTTP 5"), "{told}");
        }
        let own = called(&[
            ("503 Service Unavailable\r\nretry-after: 7", FULL),
            (
                "500 Oh\r\ncontent-type: application/problem+json",
                r#"{"code": "later"}"#,
            ),
            ("404 Not Found", "<html>"),
        ]);
        for (error, after) in own.await.iter().zip([Some(7), None, None]) {
            let call = error.downcast_ref::<CallError>().unwrap();
            assert!(matches!(call, CallError::Refused { .. }), "{call}");
            assert_eq!(call.retry_after(), after.map(Duration::from_secs));
        }
    }

    #[tokio::test]
    async fn what_was_asked_for_is_waited_whoever_answers_others() {
        let control = Control::new("http://127.0.0.1:1", "key").unwrap();
        for (retry_after, least) in [(None, 1), (Some(Duration::from_secs(2)), 2)] {
            let silence = Silence::InFront {
                status: reqwest::StatusCode::SERVICE_UNAVAILABLE,
                retry_after,
            };
            let error = CallError::Unreachable("c".to_owned(), silence);
            let from = Instant::now();
            let answering = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    control.answers.notify_waiters();
                }
            };
            tokio::select! {
                () = control.rest(Duration::from_secs(60), Some(&error)) => {}
                () = answering => {}
            }
            let rested = Duration::from_secs(least)..Duration::from_secs(50);
            assert!(rested.contains(&from.elapsed()), "{retry_after:?}");
        }
    }
}
