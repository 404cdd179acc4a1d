//! Figures, on the real store: `cargo test --release -p totoro-control --lib figures -- --ignored
//! --nocapture`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;

use super::*;
use crate::store::{SledStore, Store};

/// Events in all.
const EVENTS: usize = 1_000_000;
/// Events in one commit, as nodes send them.
const COMMIT: usize = 100;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

async fn record_many(store: &Arc<dyn Store>, events: usize) {
    let writers = (0..8).map(|_| async {
        for _ in 0..events / COMMIT / 8 {
            let mut tx = Tx::new(&**store);
            for _ in 0..COMMIT {
                let author = Author::remote("node", "n-0123456789ab", [192, 0, 2, 1].into(), "r");
                let event = author.event("conn.closed").node("n-0123456789ab");
                let event = event
                    .invite("inv-0123456789ab")
                    .client([198, 51, 100, 7].into());
                let event = event.detail(serde_json::json!({ "count": 3, "bytes_in": 123_456 }));
                record(&mut tx, event, Trail::now_ms()).unwrap();
            }
            store.commit(tx.into_commit()).await.unwrap();
        }
    });
    join_all(writers).await;
}

async fn all_moved(store: &Arc<dyn Store>) {
    while super::super::outbox::count(&**store, 1).unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and wants the machine for itself"]
async fn figures_of_a_million_events() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let raw: Arc<dyn Store> = Arc::new(SledStore::open(&data, 64 << 20).unwrap());
    let settings = AuditSettings::default();
    let trail = Trail::open(Arc::clone(&raw), &data.join("audit"), settings)
        .await
        .unwrap();
    println!("{} MiB at the start", resident_mib());

    let backlog = 100_000;
    record_many(&raw, backlog).await;
    println!("{} MiB with {backlog} events in the store", resident_mib());
    let began = Instant::now();
    let (stop, stopping) = watch::channel(false);
    let keeping = tokio::spawn(Arc::clone(&trail).keep(stopping));
    all_moved(&raw).await;
    let rate = backlog as f64 / began.elapsed().as_secs_f64();
    println!("the mover alone: {rate:.0} events/s");

    let began = Instant::now();
    record_many(&trail.store(), EVENTS - backlog).await;
    let took = began.elapsed();
    let rate = (EVENTS - backlog) as f64 / took.as_secs_f64();
    println!(
        "recorded beside the mover: {rate:.0} events/s, {} MiB",
        resident_mib()
    );
    all_moved(&raw).await;
    let all = began.elapsed();
    println!(
        "all moved {:.1} s later, {} MiB",
        (all - took).as_secs_f64(),
        resident_mib()
    );
    println!(
        "{} MiB in {} segments",
        trail.index().bytes() >> 20,
        trail.index().segments().count()
    );
    stop.send_replace(true);
    keeping.await.unwrap();

    let began = Instant::now();
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
            break;
        }
    }
    assert_eq!(read, EVENTS);
    println!(
        "read whole by pages of 1000: {:.0} events/s",
        read as f64 / began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    let newest = Ask {
        limit: 100,
        newest: true,
        ..Ask::default()
    };
    trail.page(newest).await.unwrap();
    println!("the newest 100: {:?}", began.elapsed());
    drop(trail);
    raw.close().await;
    drop(raw);

    let began = Instant::now();
    let raw: Arc<dyn Store> = Arc::new(SledStore::open(&data, 64 << 20).unwrap());
    let store = began.elapsed();
    Trail::open(raw, &data.join("audit"), settings)
        .await
        .unwrap();
    println!(
        "opened again: store {store:?}, segments {:?}",
        began.elapsed() - store
    );
}
