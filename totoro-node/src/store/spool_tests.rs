//! The spool through random orders of commits, deliveries, restarts and failures of the disk: what was
//! acknowledged arrives once and in its order, or is told to be lost.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use totoro_api::wire::event::{NodeEvent, Subject, kind};

use super::log::faults::Faults;
use super::log::tests::{cases, dir};
use super::tests::on;
use super::*;
use crate::spool::{Spool, by_kind};

/// What the spool may take, bytes: more than what never gives way, less than a few commits.
const MAX: u64 = 150_000;
/// Of these the second gives way first.
const KINDS: [&str; 2] = [kind::SESSION_OPENED, kind::CONN_REFUSED];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many events of a kind.
    Tell(usize, u16),
    /// The oldest reach the control plane, whose answer arrives or does not.
    Deliver(bool),
    Restart,
    Fails(bool),
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let count = prop_oneof![1..4_u16, 100..400_u16];
    prop_oneof![
        8 => (0..KINDS.len(), count).prop_map(|(of, count)| Step::Tell(of, count)),
        3 => any::<bool>().prop_map(Step::Deliver),
        2 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Fails),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

/// The control plane: it takes each number once, and no gap that nothing told of.
#[derive(Default)]
struct Control {
    had: Vec<NodeEvent>,
    stands: u64,
    excused: u64,
}

impl Control {
    fn take(&mut self, events: Vec<NodeEvent>) {
        for event in events {
            if event.seq <= self.stands {
                continue;
            }
            let detail = &event.subject.detail;
            let number = |field: &str| detail[field].as_u64().expect("a number");
            if event.subject.kind == kind::AUDIT_LOST && number("from") <= self.stands + 1 {
                self.excused = self.excused.max(number("to"));
            }
            let excused = event.seq <= self.excused + 1;
            assert!(event.seq == self.stands + 1 || excused, "{event:?}");
            self.stands = event.seq;
            self.had.push(event);
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = dir();
    let faults = Faults::default();
    let open = || std::sync::Arc::new(on(dir.path(), &faults).with_spool(MAX));
    let mut store = open();
    let mut control = Control::default();
    let mut acknowledged = BTreeMap::<String, Vec<u64>>::new();
    let mut numbers = 0_u64..;
    let set = |flag: &std::sync::atomic::AtomicBool, is| flag.store(is, Ordering::Relaxed);
    for step in steps.into_iter().map(Some).chain([None]) {
        match step {
            Some(Step::Tell(of, count)) => {
                let numbers: Vec<u64> = numbers.by_ref().take(count.into()).collect();
                let mut changes = Changes::default();
                for n in &numbers {
                    let subject = Subject {
                        kind: KINDS[of].to_owned(),
                        detail: serde_json::json!({ "n": n, "text": "x".repeat(60) }),
                        ..Subject::default()
                    };
                    changes.tell(7, &subject);
                }
                if store.commit(&changes).is_ok() {
                    let all = acknowledged.entry(KINDS[of].to_owned()).or_default();
                    all.extend(numbers);
                }
            }
            Some(Step::Deliver(heard)) => {
                let spool = Spool::of(std::sync::Arc::clone(&store));
                // A disk that fails can't be read either.
                let batch = spool.batch();
                control.take(batch.map_or_else(|_| Vec::new(), |batch| batch.events));
                if heard {
                    spool.accepted(control.stands).unwrap();
                }
            }
            Some(Step::Restart) | None => {
                set(&faults.fails, false);
                set(&faults.full, false);
                drop(store);
                store = open();
            }
            Some(Step::Fails(is)) => set(&faults.fails, is),
            Some(Step::Full(is)) => set(&faults.full, is),
        }
        let size = Spool::of(std::sync::Arc::clone(&store)).size().unwrap();
        assert!(size.bytes <= MAX, "{size:?}");
    }
    let spool = Spool::of(store);
    while spool.size().unwrap().events > 0 {
        control.take(spool.batch().unwrap().events);
        spool.accepted(control.stands).unwrap();
    }
    let lost = |event: &&NodeEvent| event.subject.kind == kind::AUDIT_LOST;
    let missing = by_kind(control.had.iter().filter(lost).map(|event| &event.subject));
    let told = control.had.iter().filter(|event| !lost(event));
    let mut found = BTreeMap::<String, Vec<u64>>::new();
    for event in told {
        let n = event.subject.detail["n"].as_u64().unwrap();
        found.entry(event.subject.kind.clone()).or_default().push(n);
    }
    for (kind, acknowledged) in acknowledged {
        let found = found.remove(&kind).unwrap_or_default();
        assert!(
            found.is_sorted_by(|a, b| a < b),
            "{kind}: in order, none twice"
        );
        let all = found.iter().all(|n| acknowledged.binary_search(n).is_ok());
        assert!(all, "{kind}: nothing that was refused");
        let missing = missing.get(&kind).copied().unwrap_or(0);
        let sum = found.len() as u64 + missing;
        assert_eq!(
            sum,
            acknowledged.len() as u64,
            "{kind}: {missing} are told to be lost"
        );
    }
    assert!(found.is_empty(), "{found:?}");
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn what_was_acknowledged_arrives_once_or_is_told_to_be_lost(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(steps);
    }
}

#[test]
fn a_loss_is_told_where_nothing_has_arrived() {
    use Step::{Deliver, Restart, Tell};
    // The second batch arrives unheard of. After the restart what is lost begins behind it, for the
    // first is forgotten on the disk by then.
    run(vec![
        Tell(0, 175),
        Tell(0, 326),
        Deliver(true),
        Deliver(false),
        Restart,
        Tell(0, 334),
    ]);
}
