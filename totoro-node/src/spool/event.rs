//! An event before it has its place in the spool.

use anyhow::{Context, Result};
use serde::Serialize;
use totoro_api::wire::event::{About, Subject};

use super::full::is_sampled;

/// An event, written as it is delivered but for its place.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, Unix ms.
    at_ms: i64,
    /// It is a sample or a sum.
    sampled: bool,
    /// What it is about, JSON.
    about: String,
}

/// What stands before what it is about.
#[derive(Serialize)]
struct Place<'a> {
    seq: u64,
    at_ms: i64,
    boot: &'a str,
}

impl Event {
    /// Something that happened at `at_ms`.
    ///
    /// # Panics
    /// Never: what events are about are structs with text keys, which JSON has room for.
    #[must_use]
    pub fn new(at_ms: i64, about: &impl About) -> Event {
        Event {
            at_ms,
            sampled: is_sampled(about.kind()),
            about: serde_json::to_string(about).expect("events have text keys"),
        }
    }

    /// When, Unix ms.
    pub(crate) const fn at_ms(&self) -> i64 {
        self.at_ms
    }

    /// Whether it is a sample or a sum of what repeats.
    pub(crate) const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// What it is about, read again.
    pub(crate) fn subject(&self) -> Result<Subject> {
        serde_json::from_str(&self.about).context("read an event")
    }

    /// As a [`totoro_api::wire::event::NodeEvent`], in its place.
    pub(super) fn written(&self, seq: u64, boot: &str) -> Result<Vec<u8>> {
        let at_ms = self.at_ms;
        let mut out = Vec::with_capacity(self.about.len() + boot.len() + 64);
        serde_json::to_writer(&mut out, &Place { seq, at_ms, boot }).context("write an event")?;
        // One object of both. Neither is empty: an event has a kind.
        out.pop();
        out.push(b',');
        out.extend_from_slice(self.about.as_bytes().get(1..).unwrap_or_default());
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::wire::event::{NodeEvent, kind};

    use super::*;

    #[test]
    fn it_is_written_as_the_event_that_it_is() {
        let subjects = [
            (Subject::default(), false),
            (
                Subject {
                    kind: kind::CONN_REFUSED.to_owned(),
                    proxy: Some("a \"web\"".to_owned()),
                    detail: serde_json::json!({ "count": 3 }),
                    ..Subject::default()
                },
                true,
            ),
        ];
        for (subject, sampled) in subjects {
            let event = Event::new(7, &subject);
            assert_eq!(event.is_sampled(), sampled);
            assert_eq!(event.subject().unwrap(), subject);
            let read: NodeEvent =
                serde_json::from_slice(&event.written(3, "b\"oot").unwrap()).unwrap();
            let is = NodeEvent {
                seq: 3,
                at_ms: 7,
                boot: "b\"oot".to_owned(),
                subject,
            };
            assert_eq!(read, is);
        }
    }
}
