//! The audit trail by itself, on the real store: recording, moving to segments, reading.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::sync::watch;
use totoro_control::audit::{Ask, AuditSettings, Author, Trail, record};
use totoro_control::store::{Range, SledStore, Store, Tx};
use totoro_report::{Better, Figure, Run};

/// Events in one commit, as nodes send them.
const COMMIT: usize = 100;
/// Who commit at once.
const WRITERS: usize = 8;
/// The store's page cache, bytes.
const CACHE: u64 = 64 << 20;

/// Sends so many events through, and adds the figures; a tenth of them wait before the mover begins.
pub(crate) async fn measure(events: usize, how: &str, run: &mut Run) {
    let part = format!("Audit trail, {events} events{how}");
    let mut add = |what, is, unit| {
        let better = match unit {
            "events/s" => Better::More,
            _ => Better::Less,
        };
        run.add(Figure::new(&part, what, unit, better, vec![is]));
    };
    let dir = tempfile::tempdir().unwrap();
    let (data, segments) = (dir.path().join("data"), dir.path().join("data/audit"));
    let raw: Arc<dyn Store> = Arc::new(SledStore::open(&data, CACHE).unwrap());
    let settings = AuditSettings::default();
    let trail = Trail::open(Arc::clone(&raw), &segments, settings)
        .await
        .unwrap();
    add("resident at the start", resident_mib(), "MiB");

    let backlog = record_many(&raw, events / 10).await;
    add("resident with a tenth waiting", resident_mib(), "MiB");
    let began = Instant::now();
    let (stop, stopping) = watch::channel(false);
    let keeping = tokio::spawn(Arc::clone(&trail).keep(stopping));
    all_moved(&raw).await;
    add(
        "moved, with nothing else",
        per_second(backlog, began),
        "events/s",
    );

    let began = Instant::now();
    let beside = record_many(&trail.store(), events - backlog).await;
    add(
        "recorded beside the mover",
        per_second(beside, began),
        "events/s",
    );
    add("resident then", resident_mib(), "MiB");
    let recorded = Instant::now();
    all_moved(&raw).await;
    add("all moved after", recorded.elapsed().as_secs_f64(), "s");
    add("segments", mib_in(&segments), "MiB");
    stop.send_replace(true);
    keeping.await.unwrap();

    let began = Instant::now();
    let read = read_all(&trail).await;
    assert_eq!(read, backlog + beside);
    add(
        "read whole, pages of 1,000",
        per_second(read, began),
        "events/s",
    );
    let began = Instant::now();
    let newest = Ask {
        limit: 100,
        newest: true,
        ..Ask::default()
    };
    trail.page(newest).await.unwrap();
    add("the newest 100", millis(began), "ms");
    drop(trail);
    raw.close().await;
    drop(raw);

    let began = Instant::now();
    let raw: Arc<dyn Store> = Arc::new(SledStore::open(&data, CACHE).unwrap());
    add("store opened again", millis(began), "ms");
    let began = Instant::now();
    Trail::open(raw, &segments, settings).await.unwrap();
    add("segments opened again", millis(began), "ms");
}

/// Records at most so many events, and answers how many.
async fn record_many(store: &Arc<dyn Store>, events: usize) -> usize {
    let commits = events / COMMIT / WRITERS;
    let writers = (0..WRITERS).map(|_| async {
        for _ in 0..commits {
            let mut tx = Tx::new(&**store);
            for _ in 0..COMMIT {
                let author = Author::remote("node", "n-0123456789ab", [192, 0, 2, 1].into(), "r");
                let event = author.event("conn.closed").node("n-0123456789ab");
                let event = event
                    .invite("inv-0123456789ab")
                    .client([198, 51, 100, 7].into());
                let event = event.detail(serde_json::json!({ "count": 3, "bytes_in": 123_456 }));
                record(&mut tx, event, now_ms()).unwrap();
            }
            store.commit(tx.into_commit()).await.unwrap();
        }
    });
    join_all(writers).await;
    commits * COMMIT * WRITERS
}

/// Until nothing waits in the store.
async fn all_moved(store: &Arc<dyn Store>) {
    let waiting = Range {
        from: b"audit/",
        to: b"audit0",
        limit: 1,
        reverse: false,
    };
    while !store.range(waiting).unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read_all(trail: &Arc<Trail>) -> usize {
    let mut ask = Ask {
        limit: 1000,
        ..Ask::default()
    };
    let mut read = 0;
    loop {
        let page = trail.page(ask.clone()).await.unwrap();
        read += page.events.len();
        ask.cursor = page.next;
        if ask.cursor.is_none() {
            return read;
        }
    }
}

fn per_second(events: usize, since: Instant) -> f64 {
    events as f64 / since.elapsed().as_secs_f64()
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn mib_in(dir: &Path) -> f64 {
    let files = std::fs::read_dir(dir).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    bytes as f64 / f64::from(1 << 20)
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<f64>().unwrap() / 1024.0
}
