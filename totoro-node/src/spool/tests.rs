//! The spool on a real disk.

use std::sync::atomic::Ordering;

use super::*;
use crate::store::Changes;

fn told(kind: &str) -> Changes {
    let mut changes = Changes::default();
    let subject = Subject {
        kind: kind.to_owned(),
        ..Subject::default()
    };
    changes.tell(7, &subject);
    changes
}

fn seqs(spool: &Spool) -> Vec<u64> {
    spool
        .batch()
        .unwrap()
        .events
        .iter()
        .map(|event| event.seq)
        .collect()
}

#[test]
fn numbers_run_on_across_deliveries_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    for _ in 0..3 {
        store.commit(&told("x")).unwrap();
    }
    assert_eq!(seqs(&spool), [1, 2, 3]);
    assert_eq!(
        seqs(&spool),
        [1, 2, 3],
        "what is not accepted is offered again"
    );
    spool.accepted(2).unwrap();
    let id = spool.batch().unwrap().spool;
    assert_eq!(seqs(&spool), [3]);
    // Forgotten for good with what is written next.
    store.commit(&told("x")).unwrap();
    drop((store, spool));

    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    let batch = spool.batch().unwrap();
    assert_eq!((batch.spool, batch.after), (id, 2));
    assert_eq!(seqs(&spool), [3, 4]);
    spool.accepted(4).unwrap();
    drop((store, spool));

    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    assert_eq!(
        spool.size().unwrap().events,
        0,
        "nothing more may be written"
    );
    store.commit(&told("y")).unwrap();
    assert_eq!(seqs(&spool), [5], "an empty spool remembers its place");
}

#[test]
fn a_failed_commit_leaves_no_number_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (store, disk) = crate::store::flaky(dir.path());
    disk.store(true, Ordering::Relaxed);
    assert!(store.commit(&told("x")).is_err());
    disk.store(false, Ordering::Relaxed);
    store.commit(&told("x")).unwrap();
    assert_eq!(seqs(&Spool::of(Arc::new(store))), [1]);
}

/// Fills a store's spool, within `max` bytes, with events whose kinds repeat.
fn fill(store: &Store, kinds: &[&str], count: usize, max: u64) {
    let events: Vec<Event> = (0..count)
        .map(|n| {
            let subject = Subject {
                kind: kinds[n % kinds.len()].to_owned(),
                detail: serde_json::json!({ "text": "x".repeat(200) }),
                ..Subject::default()
            };
            Event::new(n as i64, &subject)
        })
        .collect();
    let events: Vec<_> = events.iter().collect();
    let done = store.on_log(|log| {
        let mut ops = Ops::default();
        append(log, &mut ops, "boot", &events, max)?;
        log.commit(&ops)
    });
    done.unwrap();
}

/// Everything in a spool, delivered as to a control plane that insists on gapless numbers.
fn deliver_all(spool: &Spool) -> Vec<NodeEvent> {
    let (mut all, mut stands, mut excused) = (Vec::new(), 0, 0);
    loop {
        let batch = spool.batch().unwrap().events;
        let Some(last) = batch.last().map(|event| event.seq) else {
            return all;
        };
        for event in batch {
            if event.subject.kind == kind::AUDIT_LOST {
                let number = |field: &str| event.subject.detail[field].as_u64().unwrap();
                if number("from") <= stands + 1 {
                    excused = excused.max(number("to"));
                }
            }
            assert!(
                event.seq == stands + 1 || (event.seq > stands && event.seq <= excused + 1),
                "{} after {stands}: {:?}",
                event.seq,
                event.subject
            );
            stands = event.seq;
            all.push(event);
        }
        spool.accepted(last).unwrap();
    }
}

/// How many there are of each kind, told and lost.
fn counts(events: &[NodeEvent]) -> [BTreeMap<String, u64>; 2] {
    let (lost, told): (Vec<_>, Vec<_>) = events
        .iter()
        .map(|event| &event.subject)
        .partition(|subject| subject.kind == kind::AUDIT_LOST);
    [by_kind(told.into_iter()), by_kind(lost.into_iter())]
}

#[test]
fn in_a_full_spool_samples_give_way_first_and_every_gap_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    let kinds = [kind::SESSION_OPENED, kind::CONN_CLOSED, kind::CONN_REFUSED];
    let max = 1_000_000;
    for _ in 0..10 {
        fill(&store, &kinds, 600, max);
        let size = spool.size().unwrap();
        assert!(size.bytes <= max, "{size:?}");
    }
    let all = deliver_all(&spool);
    let losses = all
        .iter()
        .filter(|event| event.subject.kind == kind::AUDIT_LOST);
    assert_eq!(losses.count(), 1, "which tells of all gaps");
    let [told, lost] = counts(&all);
    assert_eq!(told[kind::SESSION_OPENED], 2000, "all of them");
    assert!(!lost.contains_key(kind::SESSION_OPENED));
    for sampled in &kinds[1..] {
        assert_eq!(told[*sampled] + lost[*sampled], 2000, "{sampled}");
    }
    assert_eq!(spool.size().unwrap().bytes, 0, "nothing is left");
}

#[test]
fn without_samples_the_oldest_give_way_and_one_event_tells() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    for _ in 0..10 {
        fill(&store, &[kind::SESSION_OPENED], 600, 500_000);
    }
    let size = spool.size().unwrap();
    assert!(size.bytes <= 500_000, "{size:?}");
    // The oldest batch may have arrived already: it is not lost.
    let batch = spool.batch().unwrap().events;
    assert_eq!(batch.last().unwrap().seq, MAX_BATCH as u64);
    let all = deliver_all(&spool);
    let losses = all
        .iter()
        .filter(|event| event.subject.kind == kind::AUDIT_LOST);
    assert_eq!(losses.count(), 1);
    assert_eq!(all[MAX_BATCH].subject.detail["from"], MAX_BATCH + 1);
    let [told, lost] = counts(&all);
    assert_eq!(
        told[kind::SESSION_OPENED] + lost[kind::SESSION_OPENED],
        6000
    );
}

#[test]
fn what_one_batch_holds_never_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    fill(&store, &[kind::CONN_REFUSED], 1000, 10);
    let all = deliver_all(&Spool::of(store));
    assert_eq!(all.len(), MAX_BATCH + 1);
    assert_eq!(counts(&all)[1][kind::CONN_REFUSED], 500);
}

#[test]
fn a_bound_counts_what_a_daemon_before_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    fill(&store, &[kind::SESSION_OPENED], 10, 1_000_000);
    let size = Spool::of(Arc::clone(&store)).size().unwrap();
    assert_eq!(size.events, 10);
    drop(store);
    let store = Arc::new(Store::open(dir.path()).unwrap());
    assert_eq!(Spool::of(store).size().unwrap(), size);
}

#[test]
fn a_restored_control_plane_gets_a_new_spool_that_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    for kind in ["a", "b", "c", "d"] {
        store.commit(&told(kind)).unwrap();
    }
    assert_eq!(spool.batch().unwrap().after, 0);
    spool.accepted(2).unwrap();
    let before = spool.batch().unwrap();
    assert_eq!(before.after, 2, "what is no more here is said");
    spool.renew(Why::Missed).unwrap();
    store.commit(&told("e")).unwrap();

    let after = spool.batch().unwrap();
    assert_ne!(after.spool, before.spool);
    assert_eq!(after.after, 0, "of the new one nothing has arrived");
    assert_eq!(seqs(&spool), [2, 3, 4, 5]);
    let kinds: Vec<&str> = after
        .events
        .iter()
        .map(|event| event.subject.kind.as_str())
        .collect();
    assert_eq!(kinds, [kind::AUDIT_LOST, "c", "d", "e"]);
    let detail = &after.events[0].subject.detail;
    assert_eq!(
        (&detail["spool"], &detail["from"], &detail["to"]),
        (&before.spool.into(), &1.into(), &4.into())
    );
}

#[test]
fn a_renewed_spool_tells_of_the_holes_in_what_waits_and_is_not_renewed_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    let kinds = [kind::SESSION_OPENED, kind::CONN_CLOSED];
    fill(&store, &kinds, 4000, 800_000);
    // The event that tells of the holes arrives, and is gone.
    for _ in 0..2 {
        let last = *seqs(&spool).last().unwrap();
        spool.accepted(last).unwrap();
    }
    let before = spool.batch().unwrap();
    let holes = before
        .events
        .windows(2)
        .any(|two| two[1].seq > two[0].seq + 1);
    assert!(holes && before.events.iter().all(may_renew), "{before:?}");
    let waiting = spool.size().unwrap().events;

    spool.renew(Why::Missed).unwrap();
    let renewed = spool.batch().unwrap();
    assert!(!may_renew(&renewed.events[0]));
    spool.renew(Why::Missed).unwrap();
    assert_eq!(spool.batch().unwrap(), renewed, "once is enough");

    fill(&store, &kinds[..1], 1, 800_000);
    let all = deliver_all(&spool);
    assert_eq!(all[0].seq, before.events[0].seq - 1);
    assert_eq!(all.len() as u64, waiting + 2, "each once, and the new one");
}
