//! How the daemon fares, for `doctor` and the figures: when the control plane and frps last answered, and
//! what went wrong lately.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::{boot_ms, machine_ms};
use crate::kernel::Kernel;
use crate::session::Desk;

/// Problems that are remembered.
const REMEMBERED: usize = 20;
/// The longest text of one, bytes.
const MAX_TEXT: usize = 400;

/// Parts of the enforcement that are not there: what is not attached, and what the canary found not
/// to hold. One line each; empty = complete.
#[must_use]
pub fn missing(kernel: &Kernel, desk: &Desk) -> Vec<String> {
    let mut missing = kernel.missing();
    missing.extend(desk.canary_problem());
    missing
}

/// A warning or an error of the daemon's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// When, Unix ms by this machine's clock.
    pub at_ms: i64,
    /// Whether it was an error; a warning otherwise.
    pub error: bool,
    /// What the log said.
    pub text: String,
    /// How often in a row.
    pub times: u32,
}

/// What is remembered; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// When the control plane last took a heartbeat, ms since boot; 0 = never.
    answered_ms: AtomicI64,
    /// When frps last answered, ms since boot; 0 = not since the start.
    frps_ms: AtomicI64,
    /// It does no more.
    frps_gone: AtomicBool,
    problems: Mutex<VecDeque<Problem>>,
}

impl Health {
    /// The control plane took a heartbeat now.
    pub fn answered(&self) {
        self.0.answered_ms.store(boot_ms(), Ordering::Relaxed);
    }

    /// Seconds since the control plane last took a heartbeat; `None` = not yet.
    #[must_use]
    pub fn silent_s(&self) -> Option<u64> {
        let at = self.0.answered_ms.load(Ordering::Relaxed);
        (at != 0).then(|| u64::try_from((boot_ms() - at) / 1000).unwrap_or(0))
    }

    /// frps was asked, and whether it answered. Both changes are told in the log: without it there is no
    /// tunnel. A node whose frps never ran is being set up.
    pub fn frps(&self, answer: Result<(), &anyhow::Error>) {
        let state = &self.0;
        let before = match answer {
            Ok(()) => state.frps_ms.swap(boot_ms(), Ordering::Relaxed),
            Err(_) => state.frps_ms.load(Ordering::Relaxed),
        };
        let was_gone = state.frps_gone.load(Ordering::Relaxed);
        match answer {
            Ok(()) if before == 0 || was_gone => tracing::info!("frps answers"),
            Err(error) if before != 0 && !was_gone => tracing::warn!(
                error = format!("{error:#}"),
                "frps does not answer any more: there is no tunnel until it does"
            ),
            _ => {}
        }
        let is_gone = answer.is_err() && before != 0;
        state.frps_gone.store(is_gone, Ordering::Relaxed);
    }

    /// Whether frps answered when it was last asked.
    #[must_use]
    pub fn frps_answers(&self) -> bool {
        let state = &self.0;
        state.frps_ms.load(Ordering::Relaxed) != 0 && !state.frps_gone.load(Ordering::Relaxed)
    }

    /// Seconds since frps, which did answer, last did; `None` while it does, and where it never did.
    #[must_use]
    pub fn frps_gone_s(&self) -> Option<u64> {
        let at = self.0.frps_ms.load(Ordering::Relaxed);
        let gone = self.0.frps_gone.load(Ordering::Relaxed);
        gone.then(|| u64::try_from((boot_ms() - at) / 1000).unwrap_or(0))
    }

    /// The last warnings and errors, oldest first.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.lock().iter().cloned().collect()
    }

    fn note(&self, error: bool, text: String) {
        let mut problems = self.lock();
        let at_ms = machine_ms();
        if let Some(last) = problems.back_mut().filter(|last| last.text == text) {
            (last.at_ms, last.times) = (at_ms, last.times.saturating_add(1));
            return;
        }
        if problems.len() >= REMEMBERED {
            problems.pop_front();
        }
        problems.push_back(Problem {
            at_ms,
            error,
            text,
            times: 1,
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Problem>> {
        self.0
            .problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers what this program's own log says of problems. What a client caused is no problem of
/// the node's: refusals have their counters.
impl<S: Subscriber> Layer<S> for Health {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about = event.metadata();
        if *about.level() > Level::WARN || !about.target().starts_with("totoro") {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        if line.refusal {
            return;
        }
        let mut text = line.message + &line.fields;
        if let Some((end, _)) = text.char_indices().find(|(at, _)| *at >= MAX_TEXT) {
            text.truncate(end);
        }
        self.note(*about.level() == Level::ERROR, text);
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
    refusal: bool,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            // Changes each time, and would make every problem a new one.
            "wait" => {}
            name => {
                self.refusal |= name == "reason";
                let _ = write!(self.fields, " {name}={value:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn frps_is_gone_once_it_was_there_and_each_change_is_told_once() {
        let health = Health::default();
        let subscriber = tracing_subscriber::registry().with(health.clone());
        let refused = anyhow::anyhow!("refused");
        let is = || (health.frps_answers(), health.frps_gone_s().is_some());
        tracing::subscriber::with_default(subscriber, || {
            health.frps(Err(&refused));
            assert_eq!(is(), (false, false), "it never ran");
            health.frps(Ok(()));
            assert_eq!(is(), (true, false));
            for _ in 0..3 {
                health.frps(Err(&refused));
                assert_eq!(is(), (false, true));
            }
            health.frps(Ok(()));
            assert_eq!(is(), (true, false));
        });
        let problems = health.problems();
        assert_eq!((problems.len(), problems[0].times), (1, 1));
    }

    #[test]
    fn problems_are_remembered_and_refusals_are_not() {
        let health = Health::default();
        assert_eq!(health.silent_s(), None);
        health.answered();
        assert_eq!(health.silent_s(), Some(0));
        let subscriber = tracing_subscriber::registry().with(health.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("all is well");
            for wait in 0..3 {
                tracing::warn!(error = "no route", wait, "no heartbeat got through");
            }
            tracing::warn!(reason = "max_proxies", "proxy refused");
            tracing::error!("the sweep failed {}", "x".repeat(1000));
            for number in 0..REMEMBERED - 2 {
                tracing::warn!(number, "another");
            }
        });
        let problems = health.problems();
        assert_eq!(problems.len(), REMEMBERED);
        let first = &problems[0];
        assert_eq!(
            (first.times, first.error, first.text.as_str()),
            (3, false, "no heartbeat got through error=\"no route\"")
        );
        assert!(problems[1].error && problems[1].text.len() == MAX_TEXT);
    }
}
