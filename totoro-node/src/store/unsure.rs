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
    use std::fs::OpenOptions;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use redb::backends::FileBackend;
    use redb::{Database, StorageBackend};

    use crate::spool::Spool;
    use crate::store::{Changes, META, Store};

    use super::*;

    const WORKS: u8 = 0;
    /// The next sync is done, and said to have failed.
    const LATE: u8 = 1;
    const FAILS: u8 = 2;

    #[derive(Debug)]
    struct Disk {
        file: FileBackend,
        does: Arc<AtomicU8>,
        /// What it does after a sync that was done and failed.
        then: u8,
    }

    impl Disk {
        fn works(&self) -> io::Result<&FileBackend> {
            if self.does.load(Ordering::Relaxed) == FAILS {
                return Err(io::Error::other("the disk fails"));
            }
            Ok(&self.file)
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.works()?.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.works()?.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.works()?.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.works()?.sync_data()?;
            if self.does.load(Ordering::Relaxed) == LATE {
                self.does.store(self.then, Ordering::Relaxed);
                return Err(io::Error::other("the disk fails late"));
            }
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.works()?.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

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
        for then in [WORKS, FAILS] {
            let dir = tempfile::tempdir().unwrap();
            let does = Arc::new(AtomicU8::new(WORKS));
            let (path, flag) = (dir.path().join("state.redb"), Arc::clone(&does));
            let open = move || {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false);
                let disk = Disk {
                    file: FileBackend::new(options.open(&path)?)?,
                    does: Arc::clone(&flag),
                    then,
                };
                Ok(Database::builder().create_with_backend(disk)?)
            };
            let store = Arc::new(Store::open_by(dir.path(), Box::new(open)).unwrap());
            let mut waiting = Changes::default();
            for kind in ["a", "b"] {
                told(&mut waiting, kind);
                does.store(LATE, Ordering::Relaxed);
                assert!(store.commit(&waiting).is_err());
                if then == FAILS {
                    assert!(store.commit(&waiting).is_err(), "nor can be looked at");
                }
            }
            does.store(WORKS, Ordering::Relaxed);
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
