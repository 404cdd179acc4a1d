//! The trail over a store in memory and segments in a directory, both of which can be put back to
//! what a crash would have left.

mod crashes;
mod damage;
mod store;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use totoro_api::wire::event::AuditEvent;

use self::store::MemoryStore;
use super::{Ask, AuditSettings, Author, Filter, PREFIX, Page, Trail, TrailError, record};
use crate::store::{Position, Store as _, Tx};

/// Small, so that a few events fill one, bytes.
const SEGMENT: u64 = 1200;

/// A store and a directory of segments.
struct World {
    dir: tempfile::TempDir,
    store: MemoryStore,
}

impl World {
    fn new() -> Self {
        World {
            dir: tempfile::tempdir().unwrap(),
            store: MemoryStore::default(),
        }
    }

    fn segments(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    /// The segment files' names, in order.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.segments()).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        self.segments().join(name)
    }

    async fn open(&self) -> Arc<Trail> {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Arc<Trail>, TrailError> {
        let settings = AuditSettings::default();
        Trail::open_with(
            Arc::new(self.store.clone()),
            &self.segments(),
            settings,
            SEGMENT,
        )
        .await
    }

    /// Leaves events as any change does, `count` in one commit.
    async fn record(&self, count: usize) {
        let mut tx = Tx::new(&self.store);
        for _ in 0..count {
            let author = Author::remote("anyone", "", "192.0.2.7".parse().unwrap(), "r");
            let event = author
                .event("x.y")
                .client("2001:db8:1:2::3".parse().unwrap());
            record(&mut tx, event, self.store.now_ms()).unwrap();
        }
        self.store.commit(tx.into_commit()).await.unwrap();
    }

    /// The ids in one file, as its lines say.
    fn ids_in(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        let lines = text.lines().filter(|line| line.contains("\"event\":"));
        let id = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["event"]["id"].as_str().unwrap().to_owned()
        };
        lines.map(id).collect()
    }

    /// The ids in all files.
    fn in_files(&self) -> Vec<String> {
        let names = self.names();
        names.iter().flat_map(|name| self.ids_in(name)).collect()
    }

    /// The ids of all events ever recorded, in order.
    fn recorded(&self) -> Vec<String> {
        self.store.appended(PREFIX)
    }
}

/// Moves everything, as the mover does.
async fn move_all(trail: &Arc<Trail>) {
    loop {
        let batch = trail.next_batch(Position::default(), u64::MAX).unwrap();
        if batch.is_empty() {
            return;
        }
        let batch = trail.append(batch).unwrap();
        trail.finish(&batch).await.unwrap();
    }
}

/// All events by pages of this size, forwards or backwards, and the segments found damaged.
fn read(trail: &Arc<Trail>, limit: usize, newest: bool) -> (Vec<AuditEvent>, Vec<String>) {
    let (mut all, mut damaged) = (Vec::new(), Vec::new());
    let mut ask = Ask {
        limit,
        newest,
        ..Ask::default()
    };
    loop {
        let page: Page = trail.find(&ask).unwrap();
        let at = if newest { 0 } else { all.len() };
        all.splice(at..at, page.events);
        damaged.extend(page.damaged);
        ask.cursor = page.next;
        if ask.cursor.is_none() {
            damaged.sort();
            damaged.dedup();
            return (all, damaged);
        }
    }
}

fn ids(events: &[AuditEvent]) -> Vec<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

/// Nothing lost, nothing doubled, in order, either way.
#[track_caller]
fn assert_whole(trail: &Arc<Trail>, expected: &[String], when: &str) {
    for (limit, newest) in [(1000, false), (1000, true), (3, false), (3, true)] {
        let (events, damaged) = read(trail, limit, newest);
        assert_eq!(
            ids(&events),
            expected,
            "{when}: limit {limit} newest {newest}"
        );
        assert_eq!(damaged, Vec::<String>::new(), "{when}");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
