//! Sealing, dropping and cutting addresses as time passes.

use std::time::Duration;

use super::super::bound::MANY;
use super::super::outbox;
use super::*;
use crate::duration::Span;
use crate::store::{Position, SledStore, Store};

const DAY: i64 = 86_400;

/// Three days of events, a few segments each.
async fn three_days() -> World {
    let world = World::new();
    let trail = world.open().await;
    for _ in 0..3 {
        for _ in 0..4 {
            world.record(3).await;
            move_all(&trail).await;
        }
        world.store.next_day();
    }
    world
}

fn of_day(world: &World, day: u32) -> usize {
    let prefix = format!("1970-01-{:02}.", day + 1);
    world
        .names()
        .iter()
        .filter(|name| name.starts_with(&prefix))
        .count()
}

#[tokio::test]
async fn many_events_are_moved_before_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let (data, segments) = (dir.path().join("data"), dir.path().join("audit"));
    let raw: Arc<dyn Store> = Arc::new(SledStore::open(&data, 1 << 20).unwrap());
    let minute = Duration::from_secs(60);
    let settings = AuditSettings {
        move_every: Span(minute),
        ..AuditSettings::default()
    };
    let trail = Trail::open(Arc::clone(&raw), &segments, settings);
    let trail = trail.await.unwrap();
    let store = trail.store();
    let recorded = async |count| {
        let mut tx = Tx::new(&*store);
        for _ in 0..count {
            record(&mut tx, Author::system().event("x.y"), 0).unwrap();
        }
        store.commit(tx.into_commit()).await.unwrap();
    };
    let moved = async || {
        while outbox::count(&*raw, 1).unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    recorded(1).await;
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let keeping = tokio::spawn(Arc::clone(&trail).keep(stopping));
    // What is there when it begins is no matter of numbers.
    moved().await;
    recorded(MANY).await;
    let in_time = tokio::time::timeout(minute / 2, moved()).await;
    assert!(in_time.is_ok(), "{:?}", trail.figures());
    stop.send_replace(true);
    keeping.await.unwrap();
}

#[tokio::test]
async fn whole_days_are_dropped_by_age_and_told_once() {
    let world = three_days().await;
    let trail = world.open().await;
    let all = world.recorded();
    let keep = 400 * DAY;
    trail.upkeep_at(keep + DAY - 1).await.unwrap();
    assert_whole(&trail, &all, "too early");
    assert!(of_day(&world, 0) > 1);
    let before: Vec<_> = world
        .names()
        .into_iter()
        .map(|name| {
            let bytes = std::fs::read(world.path(&name)).unwrap();
            (name, bytes)
        })
        .collect();
    trail.upkeep_at(keep + DAY).await.unwrap();
    assert_eq!(of_day(&world, 0), 0);
    let (events, _) = read(&trail, 5, false);
    let (told, kept) = events.split_last().unwrap();
    assert_eq!(ids(kept), all[12..]);
    assert_eq!(told.subject.kind, "audit.dropped");
    let detail = &told.subject.detail;
    assert_eq!(
        (&detail["why"], &detail["events"]),
        (&"age".into(), &12.into())
    );
    assert_eq!(
        (&detail["first"], &detail["last"]),
        (&(*all[0]).into(), &(*all[11]).into())
    );

    // Killed between the event and the files: they go, and no second event comes.
    for (name, bytes) in before {
        if name.starts_with("1970-01-01.") {
            std::fs::write(world.path(&name), bytes).unwrap();
        }
    }
    drop(trail);
    let trail = world.open().await;
    assert_eq!(of_day(&world, 0), 0);
    trail.upkeep_at(keep + DAY).await.unwrap();
    move_all(&trail).await;
    assert_whole(&trail, &world.recorded()[12..], "after a restart");
    assert_eq!(world.recorded().len(), all.len() + 1);

    // In the end the active one is sealed and goes too, and the trail goes on.
    trail.upkeep_at(keep + 30 * DAY).await.unwrap();
    assert_eq!(ids(&read(&trail, 5, false).0).len(), 1, "what tells of it");
    world.record(2).await;
    move_all(&trail).await;
    assert_whole(
        &world.open().await,
        &world.recorded()[all.len() + 1..],
        "afterwards",
    );
}

#[tokio::test]
async fn addresses_are_cut_after_their_time_in_files_and_answers() {
    let world = three_days().await;
    let trail = world.open().await;
    let all = world.recorded();
    let until = 180 * DAY;
    while trail.upkeep_at(until + 2 * DAY).await.unwrap() {}
    for name in world.names() {
        let text = std::fs::read_to_string(world.path(&name)).unwrap();
        let old = name.starts_with("1970-01-01") || name.starts_with("1970-01-02");
        assert_eq!(text.contains("192.0.2.0/24"), old, "{name}");
        assert_eq!(text.contains("192.0.2.7"), !old, "{name}");
        assert_eq!(text.contains("2001:db8:1::/48"), old, "{name}");
    }
    assert_whole(&trail, &all, "after the rewrite");
    let index = trail.index();
    drop(trail);
    let trail = world.open().await;
    assert_whole(&trail, &all, "after a restart");
    assert_eq!(*trail.index().closed, *index.closed, "the seals say it all");
    // These events are decades old: answers show no address, whatever the files still have.
    let (events, _) = read(&trail, 1000, true);
    assert!(
        events
            .iter()
            .all(|event| event.actor.address == "192.0.2.0/24")
    );
    assert!(!trail.upkeep_at(until + 2 * DAY).await.unwrap());
}

#[tokio::test]
async fn a_damaged_segment_keeps_its_addresses_and_holds_up_no_other() {
    let world = three_days().await;
    let names = world.names();
    flip(&world.path(&names[1]), 100);
    let trail = world.open().await;
    while trail.upkeep_at(190 * DAY).await.unwrap() {}
    for (at, name) in names.iter().enumerate() {
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        assert_eq!(text.contains("192.0.2.7"), at == 1, "{name}");
    }
    assert!(
        world.names().iter().all(|name| name.ends_with(".ndjson")),
        "no leftovers"
    );
}

#[tokio::test]
async fn a_query_goes_on_across_a_rewrite_and_a_drop() {
    let world = three_days().await;
    let trail = world.open().await;
    let all = world.recorded();
    let mut ask = Ask {
        limit: 5,
        ..Ask::default()
    };
    let first = trail.find(&ask).unwrap();
    ask.cursor = first.next;
    while trail.upkeep_at(190 * DAY).await.unwrap() {}
    ask.limit = 2;
    let second = trail.find(&ask).unwrap();
    assert_eq!(ids(&second.events), all[5..7]);
    trail.upkeep_at(401 * DAY).await.unwrap();
    (ask.cursor, ask.limit) = (second.next, 1000);
    let rest = trail.find(&ask).unwrap();
    assert_eq!(
        ids(&rest.events)[..all.len() - 12],
        all[12..],
        "the cursor outlives its segment"
    );
    assert!(rest.next.is_none() && rest.damaged.is_empty());
    assert!(rest.follow > Some(Position::default()));
}
