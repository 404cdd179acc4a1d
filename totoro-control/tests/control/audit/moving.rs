//! Kills and queries while events move from the store to segments.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{all_moved, everything, export, ids, moved, moving, segments, until};
use crate::support::{Control, Node};

/// Rounds of killing while events are moved.
const ROUNDS: u64 = 6;
/// Events in one batch.
const BATCH: u64 = 50;
/// Between two batches: the trail must stay readable in a test's time.
const PAUSE: Duration = Duration::from_millis(5);

/// Sends batches of events until the server is gone; `acknowledged` is the last seq that is safe.
async fn tell(control: &Control, node: &Node, spool: &str, acknowledged: &AtomicU64) {
    let mut seq = 0;
    loop {
        let event =
            |seq: u64| json!({ "seq": seq, "at_ms": 0, "boot": "b", "kind": "conn.closed" });
        let events: Vec<Value> = (seq + 1..=seq + BATCH).map(event).collect();
        let request = control
            .http
            .post(format!("{}/api/v1/nodes/events", control.api))
            .bearer_auth(&node.key)
            .json(&json!({ "spool": spool, "events": events }));
        let Ok(answer) = request.send().await else {
            std::future::pending().await
        };
        if answer.status().is_success() {
            seq += BATCH;
            acknowledged.store(seq, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_moving_nothing_is_lost_or_doubled() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    moving(&mut control);
    let mut kills_between = 0;
    for round in 0..ROUNDS {
        let spools = [
            format!("{:032x}", 2 * round),
            format!("{:032x}", 2 * round + 1),
        ];
        let acknowledged = [AtomicU64::new(0), AtomicU64::new(0)];
        let telling = async {
            tokio::join!(
                tell(&control, &node, &spools[0], &acknowledged[0]),
                tell(&control, &node, &spools[1], &acknowledged[1])
            )
        };
        // A slow disk may take its time for the first.
        let life = async {
            let told = |seq: &AtomicU64| seq.load(Ordering::Relaxed) > 0;
            until(|| acknowledged.iter().all(told)).await;
            tokio::time::sleep(Duration::from_millis(100 + round * 41)).await;
        };
        tokio::select! {
            _ = telling => unreachable!("it tells for ever"),
            () = life => {}
        }
        control.kill();
        let at_kill = moved(&control).len();
        control.restart();
        let all = everything(&control, 777).await;
        kills_between += usize::from(at_kill > 0 && at_kill < all.len());
        let sorted = ids(&all);
        assert!(
            sorted.windows(2).all(|pair| pair[0] < pair[1]),
            "in order, once"
        );
        for (spool, acknowledged) in spools.iter().zip(&acknowledged) {
            let of_it = all.iter().filter(|event| event["spool"] == spool.as_str());
            let seqs: Vec<u64> = of_it.map(|event| event["seq"].as_u64().unwrap()).collect();
            assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
            assert_eq!(seqs.len() as u64 % BATCH, 0, "whole batches");
            let acknowledged = acknowledged.load(Ordering::Relaxed);
            assert!(acknowledged > 0 && seqs.len() as u64 >= acknowledged);
        }
        assert_eq!(ids(&export(&control, "").await.0), sorted);
        let kept: Vec<String> = all_moved(&control)
            .await
            .into_iter()
            .take(sorted.len())
            .collect();
        assert_eq!(kept, sorted, "the same once it is moved");
    }
    assert!(kills_between > 0, "no kill found events on both sides");
    println!("{ROUNDS} kills while moving, {kills_between} with events on both sides");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_while_events_move_see_each_once() {
    let mut control = Control::start();
    let node = control.node("n1").await;
    moving(&mut control);
    let acknowledged = AtomicU64::new(0);
    let spool = "0".repeat(32);
    let telling = tell(&control, &node, &spool, &acknowledged);
    let asking = async {
        let began = Instant::now();
        for limit in [1000, 137, 1000, 450].into_iter().cycle() {
            if began.elapsed() > Duration::from_secs(4) {
                break;
            }
            let safe = acknowledged.load(Ordering::Relaxed);
            let told = everything(&control, limit).await;
            let of_it = told.iter().filter(|event| event["kind"] == "conn.closed");
            let seqs: Vec<u64> = of_it.map(|event| event["seq"].as_u64().unwrap()).collect();
            assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
            assert!(seqs.len() as u64 >= safe);
            let path = format!("/admin/audit?newest=true&limit={limit}");
            let page = control.get(&path, &control.admin).await.with(200);
            let ids = ids(page["items"].as_array().unwrap());
            assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        }
    };
    tokio::select! {
        () = telling => unreachable!("it tells for ever"),
        () = asking => {}
    }
}

#[tokio::test]
async fn segments_that_cannot_be_written_keep_events_in_the_store() {
    let mut control = Control::start();
    control.node("n1").await;
    moving(&mut control);
    let before = all_moved(&control).await;
    assert!(control.terminate().success());
    for path in segments(&control) {
        std::fs::remove_file(&path).unwrap();
    }
    control.restart();
    assert!(
        control.log().contains("are not there"),
        "what is lost is told"
    );
    // Without its directory no segment can be made, as on a full disk.
    let audit = control.at().join("data/audit");
    let aside = control.at().join("aside");
    std::fs::rename(&audit, &aside).unwrap();
    control.node("n2").await;
    until(|| control.log().contains("cannot be moved to segments")).await;
    let waiting = everything(&control, 1000).await;
    assert!(waiting.len() >= 3 && ids(&waiting)[0] > *before.last().unwrap());
    std::fs::rename(&aside, &audit).unwrap();
    assert_eq!(all_moved(&control).await[..waiting.len()], ids(&waiting));
    until(|| control.log().contains("moved to segments again")).await;
}
