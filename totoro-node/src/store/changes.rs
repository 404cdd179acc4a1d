//! What becomes durable in one go.

use std::collections::HashMap;

use serde::Serialize;
use totoro_api::wire::event::{About, Subject, kind};

use super::{Kind, Ops, Records};
use crate::spool::{self, Event};

/// The most events that wait in memory while the disk takes none, samples and sums least of all.
const MAX_WAITING: usize = 10_000;
/// What writes may take, bytes, beside twice what of them matters.
const SLACK: usize = 64 << 10;

/// Changes that become durable together, and the events that tell of them.
#[derive(Debug, Default)]
pub struct Changes {
    /// As the log has them. Of two writes of one record only the later matters.
    pub(super) records: Ops,
    /// What the records took when only such were left that matter, bytes.
    least: usize,
    pub(super) events: Vec<Event>,
}

impl Changes {
    /// Writes a record.
    ///
    /// # Panics
    /// Never: records are structs with text keys, which JSON has room for.
    pub fn put(&mut self, table: Records, key: impl AsRef<str>, value: &impl Serialize) {
        let key = key.as_ref().as_bytes();
        self.records.push_by(Kind::Put, table.number, key, |out| {
            serde_json::to_writer(out, value).expect("records have text keys");
        });
    }

    /// Removes a record.
    pub fn remove(&mut self, table: Records, key: impl AsRef<str>) {
        let key = key.as_ref().as_bytes();
        self.records.push(Kind::Remove, table.number, key, &[]);
    }

    /// Tells of something that happened at `at_ms`, Unix ms.
    pub fn tell(&mut self, at_ms: i64, about: &impl About) {
        self.events.push(Event::new(at_ms, about));
    }

    /// The same, already written.
    pub(crate) fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.bytes().is_empty() && self.events.is_empty()
    }

    /// Whether there is something to deliver.
    #[must_use]
    pub fn tells(&self) -> bool {
        !self.events.is_empty()
    }

    /// Puts later changes behind these. While the disk takes nothing they gather here, so of too
    /// many events the oldest give way to one that counts them.
    pub fn append(&mut self, later: Changes) {
        if self.is_empty() {
            *self = later;
        } else {
            self.records.copy(later.records.bytes());
            self.events.extend(later.events);
        }
        if self.records.bytes().len() > 2 * self.least + SLACK {
            self.records = latest([&self.records]);
            self.least = self.records.bytes().len();
        }
        if self.events.len() <= MAX_WAITING {
            return;
        }
        let any = self.events.iter().any(Event::is_sampled);
        let mut room = 0;
        let (lost, kept): (Vec<_>, Vec<_>) = self.events.drain(..).partition(|event| {
            let goes = room < MAX_WAITING / 2 && (!any || event.is_sampled());
            room += usize::from(goes);
            goes
        });
        self.events = kept;
        let at_ms = lost.last().map_or(0, Event::at_ms);
        // What was written can be read.
        let by_kind = spool::by_kind(lost.iter().filter_map(|event| event.subject().ok()));
        let lost = Subject {
            kind: kind::AUDIT_LOST.to_owned(),
            detail: serde_json::json!({ "by_kind": by_kind }),
            ..Subject::default()
        };
        self.events.insert(0, Event::new(at_ms, &lost));
    }
}

/// What matters of writes that came one after the other: of each record the last.
pub(super) fn latest<'a>(all: impl IntoIterator<Item = &'a Ops>) -> Ops {
    let all: Vec<_> = all.into_iter().flat_map(Ops::each).collect();
    let last: HashMap<_, _> = all.iter().zip(0..).map(|((of, _), at)| (*of, at)).collect();
    let mut latest = Ops::default();
    for ((of, op), at) in all.iter().zip(0..) {
        if last[of] == at {
            latest.copy(op);
        }
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::META;

    #[test]
    fn of_many_writes_of_a_record_the_last_is_left() {
        let mut waiting = Changes::default();
        for n in 0..10_000_u64 {
            let mut changes = Changes::default();
            changes.put(META, (n % 3).to_string(), &n);
            changes.remove(META, "gone");
            waiting.append(changes);
            assert!(waiting.records.bytes().len() < 2 * SLACK, "of what matters");
        }
        let latest = latest([&waiting.records]);
        let left: Vec<_> = latest.each().map(|(of, _)| of).collect();
        let of = |key: &'static str| (META.number, key.as_bytes());
        assert_eq!(left, [of("1"), of("2"), of("0"), of("gone")]);
        let values = latest.each().map(|(_, op)| op.ends_with(b"9999"));
        assert_eq!(values.collect::<Vec<_>>(), [false, false, true, false]);
    }

    #[test]
    fn what_waits_for_the_disk_is_bounded_and_nothing_is_lost_silently() {
        let mut waiting = Changes::default();
        for n in 0..3 * MAX_WAITING as i64 {
            let mut changes = Changes::default();
            changes.put(META, "a", &n);
            let subject = Subject {
                kind: "x".to_owned(),
                ..Subject::default()
            };
            changes.tell(n, &subject);
            waiting.append(changes);
        }
        let last = latest([&waiting.records]);
        assert_eq!(last.each().count(), 1, "the last write");
        assert!(waiting.events.len() <= MAX_WAITING);
        let first = waiting.events[0].subject().unwrap();
        assert_eq!(first.kind, kind::AUDIT_LOST);
        let told = waiting.events.len() as u64 - 1;
        let lost = first.detail["by_kind"]["x"].as_u64().unwrap();
        assert_eq!(lost + told, 3 * MAX_WAITING as u64);
    }

    #[test]
    fn samples_that_wait_for_the_disk_are_the_first_to_go() {
        let mut waiting = Changes::default();
        for n in 0..=MAX_WAITING as i64 {
            let mut changes = Changes::default();
            let of = [kind::SESSION_OPENED, kind::CONN_REFUSED][usize::from(n % 4 == 3)];
            let subject = Subject {
                kind: of.to_owned(),
                ..Subject::default()
            };
            changes.tell(n, &subject);
            waiting.append(changes);
        }
        let lost = waiting.events[0].subject().unwrap();
        assert_eq!(
            lost.detail["by_kind"],
            serde_json::json!({ "conn.refused": MAX_WAITING / 4 })
        );
    }
}
