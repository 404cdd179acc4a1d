//! Disks that forget or change what was acknowledged: it is said, the rest is served, and nothing
//! is changed.

use super::*;

/// A trail of several segments, closed, and the ids in it.
async fn moved(world: &World, events: usize) -> Vec<String> {
    let trail = world.open().await;
    for _ in 0..events {
        world.record(1).await;
        move_all(&trail).await;
    }
    world.recorded()
}

#[tokio::test]
async fn a_flipped_bit_costs_one_event_and_is_told() {
    let world = World::new();
    let all = moved(&world, 20).await;
    let names = world.names();
    assert!(names.len() > 3, "{names:?}");
    for (at, name) in names.iter().enumerate() {
        let whole = std::fs::read(world.path(name)).unwrap();
        let hit = world.ids_in(name)[0].clone();
        // In the first event's text, wherever it is.
        flip(&world.path(name), 100);
        let damaged = std::fs::read(world.path(name)).unwrap();
        let trail = world.open().await;
        for newest in [false, true] {
            let (events, told) = read(&trail, 4, newest);
            let expected: Vec<_> = all.iter().filter(|id| **id != hit).cloned().collect();
            assert_eq!(ids(&events), expected, "{name} newest {newest}");
            assert_eq!(told, [name.as_str()], "newest {newest}");
        }
        assert_eq!(
            std::fs::read(world.path(name)).unwrap(),
            damaged,
            "left as it is"
        );
        // New events go on all the same, in another file when it was the newest.
        if at + 1 == names.len() {
            world.record(2).await;
            move_all(&trail).await;
            assert_eq!(std::fs::read(world.path(name)).unwrap(), damaged);
            let (events, told) = read(&world.open().await, 1000, false);
            assert_eq!(events.len(), all.len() + 1);
            assert_eq!(told, [name.as_str()]);
        }
        std::fs::write(world.path(name), whole).unwrap();
    }
}

#[tokio::test]
async fn behind_damage_only_what_was_acknowledged_there_counts() {
    let world = World::new();
    moved(&world, 2).await;
    world.record(2).await;
    let trail = world.open().await;
    let batch = trail.next_batch(Position::default(), u64::MAX).unwrap();
    trail.append(batch).unwrap();
    drop(trail);
    // Of four lines the second was acknowledged and is damaged, the third was not and is torn; the
    // fourth is whole, but must not hide the third, which the store still has.
    let name = &world.names()[0];
    let text = std::fs::read_to_string(world.path(name)).unwrap();
    let line = text.find('\n').unwrap();
    flip(&world.path(name), line + 100);
    flip(&world.path(name), 2 * line + 100);
    let all = world.recorded();
    let whole = [&all[..1], &all[2..]].concat();
    let trail = world.open().await;
    for when in ["at the start", "moved", "after a restart"] {
        for newest in [false, true] {
            let (events, told) = read(&trail, 3, newest);
            assert_eq!(ids(&events), whole, "{when} newest {newest}");
            assert_eq!(told, [name.as_str()], "{when} newest {newest}");
        }
        move_all(&trail).await;
    }
    let (events, _) = read(&world.open().await, 3, false);
    assert_eq!(ids(&events), whole);
}

#[tokio::test]
async fn a_lost_end_or_file_is_told_and_nothing_after_it_suffers() {
    let world = World::new();
    let all = moved(&world, 12).await;
    let names = world.names();
    let (first, last) = (&names[0], names.last().unwrap());
    // The end of a segment that was complete.
    let whole = std::fs::read(world.path(first)).unwrap();
    let lost = world.ids_in(first).pop().unwrap();
    let seal = whole.len() - whole.rsplit(|&byte| byte == b'\n').nth(1).unwrap().len();
    std::fs::write(world.path(first), &whole[..seal - 60]).unwrap();
    let (events, told) = read(&world.open().await, 5, false);
    let expected: Vec<_> = all.iter().filter(|id| **id != lost).cloned().collect();
    assert_eq!((ids(&events), told), (expected, vec![first.clone()]));
    std::fs::write(world.path(first), whole).unwrap();

    // The end of the newest, which the store has recorded as moved.
    let whole = std::fs::read(world.path(last)).unwrap();
    std::fs::write(world.path(last), &whole[..whole.len() - 30]).unwrap();
    let trail = world.open().await;
    world.record(1).await;
    move_all(&trail).await;
    let (events, told) = read(&trail, 5, false);
    assert_eq!((events.len(), told), (all.len(), vec![last.clone()]));
    assert_eq!(ids(&events).last(), world.recorded().last());
    assert_eq!(
        std::fs::read(world.path(last)).unwrap().len(),
        whole.len() - 30
    );

    // A file that the disk does not give.
    std::fs::remove_file(world.path(first)).unwrap();
    std::fs::create_dir(world.path(first)).unwrap();
    let (events, mut told) = read(&world.open().await, 5, true);
    assert_eq!(told.remove(0), *first);
    assert!(events.len() < all.len() && !events.is_empty());
    std::fs::remove_dir(world.path(first)).unwrap();

    // All of them.
    for name in world.names() {
        std::fs::remove_file(world.path(&name)).unwrap();
    }
    let trail = world.open().await;
    world.record(2).await;
    move_all(&trail).await;
    assert_eq!(
        ids(&read(&trail, 5, true).0),
        world.recorded()[all.len() + 1..]
    );
}

#[tokio::test]
async fn a_segment_that_goes_missing_while_running_is_told() {
    let world = World::new();
    let all = moved(&world, 12).await;
    let trail = world.open().await;
    let names = world.names();
    std::fs::remove_file(world.path(&names[0])).unwrap();
    let gone = trail.index().closed[0].summary.clone().unwrap().events;
    let (events, told) = read(&trail, 1000, false);
    assert_eq!(events.len() as u64, all.len() as u64 - gone);
    assert_eq!(
        told,
        [names[0].as_str()],
        "it was not dropped: it is missing"
    );
}

#[tokio::test]
async fn a_store_older_than_its_segments_is_refused() {
    let mut world = World::new();
    world.record(3).await;
    let old = world.store.copy();
    moved(&world, 5).await;
    world.store = old;
    let refused = world.try_open().await.err().expect("refused").to_string();
    assert!(refused.contains("older than its audit trail"), "{refused}");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_holds_up_nothing() {
    use crate::store::{Commit, Op};
    let world = World::new();
    world.record(1).await;
    let op = Op::Append(PREFIX.into(), b"{nonsense".to_vec());
    let commit = Commit {
        ops: vec![op],
        ..Commit::default()
    };
    world.store.commit(commit).await.unwrap();
    world.record(1).await;
    let trail = world.open().await;
    for when in ["waiting", "moved"] {
        let (events, _) = read(&trail, 10, false);
        assert_eq!(ids(&events), world.recorded(), "{when}");
        assert_eq!(events[1].subject.kind, "audit.unreadable", "{when}");
        assert_eq!(events[1].subject.detail["text"], "{nonsense", "{when}");
        move_all(&trail).await;
    }
}

#[tokio::test]
async fn files_of_others_are_left_alone() {
    let world = World::new();
    let all = moved(&world, 8).await;
    std::fs::write(world.path("notes.txt"), "mine").unwrap();
    std::fs::write(world.path("1970-01-01.0001.ndjson.tmp"), "half a rewrite").unwrap();
    assert_whole(&world.open().await, &all, "with others' files");
    assert!(world.path("notes.txt").exists());
    assert!(!world.path("1970-01-01.0001.ndjson.tmp").exists());
}

#[tokio::test]
async fn filters_reach_into_segments() {
    let world = World::new();
    let trail = world.open().await;
    let mut noon = Vec::new();
    for _ in 0..4 {
        world.record(6).await;
        noon.push(world.store.now_ms());
        world.store.next_day();
        move_all(&trail).await;
    }
    world.record(6).await;
    noon.push(world.store.now_ms());
    for newest in [false, true] {
        let count = |filter: Filter| {
            let ask = Ask {
                filter,
                limit: 1000,
                newest,
                cursor: None,
            };
            trail.find(&ask).unwrap().events.len()
        };
        let span = |since: Option<i64>, until: Option<i64>| Filter {
            since_ms: since,
            until_ms: until,
            ..Filter::default()
        };
        assert_eq!(count(span(Some(noon[3]), None)), 12);
        assert_eq!(count(span(None, Some(noon[1]))), 6);
        assert_eq!(count(span(Some(noon[1]), Some(noon[1] + 1))), 6);
        assert_eq!(count(span(Some(noon[4] + 1), None)), 0);
        let kind = |kind: &str| Filter {
            kind: Some(kind.to_owned()),
            ..Filter::default()
        };
        assert_eq!((count(kind("x.")), count(kind("x"))), (30, 0));
    }
}
