//! Events whose batch failed, and may be durable all the same: the sync that a transaction ends with
//! can fail after the disk has taken what it was to make sure of. Records are written again, which
//! does no harm; events would be told twice.

use std::collections::HashSet;

use totoro_api::wire::event::Subject;

use super::changes::Event;

/// What is not known, or came out, since the last batch that was durable for sure.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    /// The events of the last batch that was begun, and the seq of the first of them.
    begun: Option<(u64, Vec<u64>)>,
    /// Events that are durable, though their batch failed.
    durable: HashSet<u64>,
}

impl Unsure {
    /// Begins a batch, `next` being the seq that the store has for the next event: where it has
    /// moved on, the batch before is durable. Returns what is not.
    pub(super) fn fresh<'a>(&mut self, next: u64, events: &[&'a Event]) -> Vec<&'a (i64, Subject)> {
        if let Some((first, ids)) = self.begun.take()
            && first != next
        {
            tracing::warn!(
                events = ids.len(),
                "what the disk was said to have failed to take is there"
            );
            self.durable.extend(ids);
        }
        let fresh = events
            .iter()
            .filter(|event| !self.durable.contains(&event.id));
        let (ids, fresh) = fresh.map(|event| (event.id, &event.told)).unzip();
        self.begun = Some((next, ids));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use crate::spool::Spool;
    use crate::store::disk::{self, Faults};
    use crate::store::{Changes, META};

    use super::*;

    fn told(changes: &mut Changes, kind: &str) {
        let subject = Subject {
            kind: kind.to_owned(),
            ..Subject::default()
        };
        changes.put(META, kind, &true);
        changes.tell(1, subject);
    }

    #[test]
    fn what_is_durable_though_its_sync_failed_is_told_once() {
        for then_fails in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults {
                then_fails,
                ..Faults::default()
            };
            let store = Arc::new(disk::on(dir.path(), &faults));
            let mut waiting = Changes::default();
            for kind in ["a", "b"] {
                told(&mut waiting, kind);
                faults.fails.store(false, Ordering::Relaxed);
                faults.late.store(true, Ordering::Relaxed);
                assert!(store.commit(&waiting).is_err());
                if then_fails {
                    assert!(store.commit(&waiting).is_err(), "nor can be looked at");
                }
            }
            faults.fails.store(false, Ordering::Relaxed);
            told(&mut waiting, "c");
            store.commit(&waiting).unwrap();
            let mut other = Changes::default();
            told(&mut other, "d");
            store.commit(&other).unwrap();
            let events = Spool::of(store).batch().unwrap().events;
            let kinds: Vec<_> = events.iter().map(|event| &event.subject.kind).collect();
            assert_eq!(kinds, ["a", "b", "c", "d"]);
        }
    }
}
