//! Who waits for a decision, and who does not.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use totoro_api::wire::push::InviteState::Active;

use super::world::{On, World, world};

fn one_tenant() -> (World, On) {
    let mut world = world();
    world.push(&[("a", Active)]);
    let on = world.on("a", ("192.0.2.1:1", 1));
    (world, on)
}

/// Asks, and gives up at once.
fn asks_and_goes(world: &World, on: &On) {
    let mut asking = Box::pin(world.asking(on, "web", 20_000));
    let _ = asking
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
}

#[test]
fn what_nobody_waits_for_is_durable_all_the_same() {
    let (world, on) = one_tenant();
    asks_and_goes(&world, &on);
    // As a crash: nothing else is decided in between.
    assert_eq!(world.restart().leased(), [20_000]);
}

#[test]
fn what_nobody_waits_for_is_taken_back_when_the_disk_fails() {
    let (world, on) = one_tenant();
    world.disk.store(true, Ordering::Relaxed);
    asks_and_goes(&world, &on);
    world.desk.tick();
    assert_eq!(world.leased(), Vec::<u16>::new());
    assert!(world.kernel.maps().leases.is_empty(), "nor in the kernel");
    world.disk.store(false, Ordering::Relaxed);
    assert_eq!(world.new_proxy(&on, "web", 20_000), Ok(20_000));
}

#[test]
fn a_desk_that_is_held_keeps_no_other_task_waiting() {
    let (world, on) = one_tenant();
    let world = Arc::new(world);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let held = world.desk.lock();
    let asking = Arc::clone(&world);
    let asked = runtime.spawn(async move { asking.asking(&on, "web", 20_000).await });
    let (done, is_done) = mpsc::channel();
    runtime.spawn(async move { done.send(()) });
    let turn = is_done.recv_timeout(Duration::from_secs(30));
    assert!(!asked.is_finished(), "the desk is held");
    drop(held);
    turn.expect("another task's turn, on a runtime of one thread");
    assert_eq!(runtime.block_on(asked).unwrap(), Ok(20_000));
}

#[test]
fn questions_that_wait_for_each_other_keep_no_thread() {
    let (world, on) = one_tenant();
    let world = Arc::new(world);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let before = world.desk.turn.lock().await;
        let asking = Arc::clone(&world);
        let asked = tokio::spawn(async move { asking.asking(&on, "web", 20_000).await });
        // All who can go on have done so by then, on the only thread that there is.
        tokio::task::yield_now().await;
        assert!(!asked.is_finished(), "it is not its turn");
        drop(before);
        assert_eq!(asked.await.unwrap(), Ok(20_000));
    });
}
