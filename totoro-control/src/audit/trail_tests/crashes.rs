//! A crash after each step of a move, and at any byte of a write.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn killed_after_each_step_nothing_is_lost_or_doubled() {
    for steps in 0..=3 {
        let mut world = World::new();
        world.record(4).await;
        move_all(&world.open().await).await;
        world.record(7).await;
        let trail = world.open().await;
        // 0: nothing yet, 1: read, 2: durable in a segment, 3: deleted from the store.
        if steps >= 1 {
            let batch = trail.next_batch(Position::default(), u64::MAX).unwrap();
            if steps >= 2 {
                let batch = trail.append(batch).unwrap();
                if steps >= 3 {
                    trail.finish(&batch).await.unwrap();
                }
            }
        }
        drop(trail);
        world.store = world.store.copy();
        let expected = world.recorded();
        let trail = world.open().await;
        assert_whole(&trail, &expected, &format!("step {steps}, at the start"));
        assert_eq!(world.store.count(PREFIX), if steps == 3 { 0 } else { 7 });
        move_all(&trail).await;
        assert_whole(&trail, &expected, &format!("step {steps}, moved"));
        assert_eq!(world.store.count(PREFIX), 0, "step {steps}");
        assert_eq!(world.in_files(), expected, "step {steps}");
    }
}

#[tokio::test]
async fn what_no_power_cut_can_undo_is_moved_and_nothing_else() {
    let world = World::new();
    let trail = world.open().await;
    world.record(1).await;
    let durable = trail.next_batch(Position::default(), u64::MAX).unwrap()[0]
        .position
        .revision;
    world.record(2).await;
    assert_eq!(
        trail
            .next_batch(Position::default(), durable)
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        trail
            .next_batch(Position::default(), durable - 1)
            .unwrap()
            .len(),
        0
    );
}

#[tokio::test]
async fn a_write_torn_at_every_byte_is_cut() {
    let world = World::new();
    world.record(3).await;
    let trail = world.open().await;
    move_all(&trail).await;
    let name = &world.names()[0];
    let whole = std::fs::metadata(world.path(name)).unwrap().len();
    world.record(2).await;
    let before = world.store.copy();
    let batch = trail.next_batch(Position::default(), u64::MAX).unwrap();
    trail.append(batch).unwrap();
    let written = std::fs::read(world.path(name)).unwrap();
    drop(trail);
    let expected = world.recorded();
    for end in usize::try_from(whole).unwrap()..=written.len() {
        // The pages of one write reach the disk in any order: behind the cut there may be zeros,
        // or the rest of it.
        let mut zeros = written.clone();
        zeros[end..].fill(0);
        let mut hole = written.clone();
        hole[end..written.len().min(end + 5)].fill(0);
        let lefts = [&written[..end], &zeros, &hole];
        for left in &lefts[..if end % 7 == 0 { 3 } else { 1 }] {
            let world = World {
                dir: tempfile::tempdir().unwrap(),
                store: before.copy(),
            };
            std::fs::create_dir(world.segments()).unwrap();
            std::fs::write(world.path(name), left).unwrap();
            let trail = world.open().await;
            assert_whole(&trail, &expected, &format!("cut at {end}"));
            move_all(&trail).await;
            assert_whole(&trail, &expected, &format!("cut at {end}, moved"));
            assert_eq!(std::fs::read(world.path(name)).unwrap(), written, "{end}");
        }
    }
}

#[tokio::test]
async fn a_write_that_failed_is_cut_before_the_next() {
    let world = World::new();
    world.record(2).await;
    let trail = world.open().await;
    // The directory is away: no file can be made there, and the events stay where they are.
    let aside = world.dir.path().join("aside");
    std::fs::rename(world.segments(), &aside).unwrap();
    let batch = trail.next_batch(Position::default(), u64::MAX).unwrap();
    let error = trail.append(batch).unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    assert_eq!(world.store.count(PREFIX), 2);
    assert_whole(&trail, &world.recorded(), "while it cannot write");
    std::fs::rename(&aside, world.segments()).unwrap();
    move_all(&trail).await;
    assert_whole(&trail, &world.recorded(), "when it can again");
    assert_eq!(world.store.count(PREFIX), 0);
}

#[tokio::test]
async fn a_full_outbox_refuses_changes_but_not_the_mover() {
    let world = World::new();
    let trail = world.open().await;
    world.record(2).await;
    let store = trail.store();
    trail.load.set(usize::MAX);
    let mut tx = Tx::new(&*store);
    tx.put("k", &1).unwrap();
    record(&mut tx, Author::system().event("x.y"), 0).unwrap();
    let refused = store.commit(tx.into_commit()).await.unwrap_err();
    assert!(
        refused.to_string().contains("audit trail is full"),
        "{refused}"
    );
    assert!(
        world.store.get(b"k").unwrap().is_none(),
        "nothing without its event"
    );
    move_all(&trail).await;
    assert_whole(&trail, &world.recorded(), "moved");
}

/// What happens to a trail.
#[derive(Clone, Debug)]
enum Step {
    Record(usize),
    NextDay,
    /// A move whose steps end early.
    Move {
        finished: bool,
    },
    /// The process or the machine ends; so much of what was not acknowledged is left, and after
    /// it this many bytes of nothing.
    Crash {
        left: f64,
        zeros: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..9).prop_map(Step::Record),
        1 => Just(Step::NextDay),
        3 => any::<bool>().prop_map(|finished| Step::Move { finished }),
        2 => (0.0..=1.0, 0usize..40).prop_map(|(left, zeros)| Step::Crash { left, zeros }),
    ]
}

async fn run(steps: Vec<Step>) {
    let world = World::new();
    let mut trail = world.open().await;
    // What was acknowledged: the newest file and its length then.
    let mut acknowledged = (String::new(), 0);
    for step in &steps {
        match step {
            Step::Record(count) => world.record(*count).await,
            Step::NextDay => world.store.next_day(),
            Step::Move { finished } => {
                let batch = trail.next_batch(Position::default(), u64::MAX).unwrap();
                let batch = trail.append(batch).unwrap();
                if *finished {
                    trail.finish(&batch).await.unwrap();
                    let moved = world.recorded().len() - world.store.count(PREFIX);
                    assert_eq!(world.in_files(), world.recorded()[..moved]);
                    acknowledged = newest(&world);
                }
            }
            Step::Crash { left, zeros } => {
                drop(trail);
                let (name, length) = newest(&world);
                if !name.is_empty() {
                    let kept = if name == acknowledged.0 {
                        acknowledged.1
                    } else {
                        0
                    };
                    let torn = ((length - kept) as f64 * left) as u64;
                    let mut bytes = std::fs::read(world.path(&name)).unwrap();
                    bytes.truncate(usize::try_from(kept + torn).unwrap());
                    bytes.resize(bytes.len() + zeros, 0);
                    std::fs::write(world.path(&name), bytes).unwrap();
                }
                trail = world.open().await;
            }
        }
        assert_whole(&trail, &world.recorded(), &format!("{steps:?}"));
    }
}

fn newest(world: &World) -> (String, u64) {
    let Some(name) = world.names().pop() else {
        return Default::default();
    };
    let length = std::fs::metadata(world.path(&name)).unwrap().len();
    (name, length)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_history_reads_back(steps in proptest::collection::vec(step(), 1..25)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}
