//! What is read before what, and what happens while a disk stands still: seen from the store.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use totoro_api::Reason;

use super::holder::Visitor;
use super::tests::Lab;
use crate::records::key;
use crate::store::{
    Commit, Entry, Range, SledStore, Snapshot, Stamp, Store, StoreError, Tx, Versioned,
};

/// A store that remembers what was read, and whose disk can stand still.
struct Seen {
    store: SledStore,
    reads: Mutex<Vec<String>>,
    still: AtomicBool,
}

impl Store for Seen {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        let text = String::from_utf8_lossy(key).into_owned();
        self.reads.lock().unwrap().push(text);
        self.store.get(key)
    }

    /// None: what is read is to be seen.
    fn stamp(&self, _key: &[u8]) -> Option<Stamp> {
        None
    }

    fn is_still(&self, _stamp: Stamp) -> bool {
        false
    }

    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError> {
        self.store.range(range)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<u64, StoreError>> {
        match self.still.load(Ordering::Relaxed) {
            true => std::future::pending().boxed(),
            false => self.store.commit(commit),
        }
    }

    fn watch(&self, prefix: &[u8]) -> watch::Receiver<u64> {
        self.store.watch(prefix)
    }

    fn snapshot(&self) -> BoxFuture<'static, Result<Box<dyn Snapshot>, StoreError>> {
        self.store.snapshot()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.store.close()
    }
}

async fn lab() -> (Lab, Arc<Seen>) {
    let mut seen = None;
    let lab = Lab::over(|store| {
        let store = Arc::new(Seen {
            store,
            reads: Mutex::default(),
            still: AtomicBool::new(false),
        });
        seen = Some(Arc::clone(&store));
        store
    })
    .await;
    (lab, seen.unwrap())
}

#[tokio::test]
async fn a_ticket_claims_no_newer_policy_than_the_limits_it_carries() {
    let (lab, seen) = lab().await;
    let node = lab.node("n1").await;
    let invite = lab.invite(&node, "k").await;
    let visitor = Visitor {
        address: IpAddr::from([127, 0, 0, 1]),
        request_id: "r",
    };
    // No key is acknowledged, so there is no ticket: all is read for it all the same.
    for (secret, limits) in [
        (invite.code.unwrap(), key::invite(&invite.id)),
        ("public:n1".to_owned(), key::node(&node)),
    ] {
        seen.reads.lock().unwrap().clear();
        assert!(lab.app.oauth_ticket(&secret, visitor).await.is_err());
        let reads = std::mem::take(&mut *seen.reads.lock().unwrap());
        let last = |key: &str| reads.iter().rposition(|read| read == key).unwrap();
        assert!(last(&key::policy_head(&node)) < last(&limits), "{reads:?}");
    }
}

#[tokio::test]
async fn a_disk_that_stands_still_is_noticed() {
    let (lab, seen) = lab().await;
    assert!(lab.app.writes().await.unwrap());
    seen.still.store(true, Ordering::Relaxed);
    assert!(!lab.app.writes().await.unwrap());
}

#[tokio::test]
async fn what_is_refused_by_reads_of_two_moments_is_decided_again() {
    let (lab, _) = lab().await;
    let app = &lab.app;
    let mut runs = 0;
    let done = app
        .transact(|tx| {
            runs += 1;
            if tx.get::<u32>("a/key")?.is_some() {
                return Ok("again");
            }
            let mut other = Tx::new(&*app.store);
            other.put("a/key", &1)?;
            other.put("a/name", &1)?;
            // It is first, between two reads of this one.
            let _ = app.store.commit(other.into_commit()).now_or_never();
            while tx.peek::<u32>("a/name")?.is_none() {
                std::thread::yield_now();
            }
            match tx.get::<u32>("a/name")? {
                Some(_) => Err(Reason::Conflict.into()),
                None => Ok("first"),
            }
        })
        .await;
    assert_eq!((done.unwrap().0, runs), ("again", 2));
    let refused = app.transact(|tx| match tx.get::<u32>("a/name")? {
        Some(_) => Err::<(), _>(Reason::Conflict.into()),
        None => Ok(()),
    });
    assert!(refused.await.is_err(), "and what stands is refused");
}
