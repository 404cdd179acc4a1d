//! A machine whose own clock was wrong when it booted, until the first heartbeat.

use totoro_api::wire::push::InviteState::Active;

use super::world::{GRACE_MS, World, world};

const HOUR_MS: i64 = 3_600_000;
const TWENTY_MINUTES_MS: i64 = 1_200_000;

/// A node with two sessions, of which one was lost, and a port that was given back.
fn before() -> World {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let lost = world.on("a", ("192.0.2.1:1", 1));
    assert_eq!(world.new_proxy(&lost, "web", 20_000), Ok(20_000));
    let stays = world.on("b", ("192.0.2.2:2", 2));
    assert_eq!(world.new_proxy(&stays, "web", 20_001), Ok(20_001));
    assert_eq!(world.new_proxy(&stays, "old", 20_002), Ok(20_002));
    world.close_proxy(&stays, "old");
    world.hang_up(1);
    world
}

/// The heartbeat's answer says that the clock is off by so much.
fn set(world: &World, by_ms: i64) {
    world.pass(by_ms);
    world.desk.reclock(by_ms);
    world.desk.tick();
}

#[test]
fn a_clock_that_was_ahead_prolongs_nothing() {
    let world = before();
    set(&world, -HOUR_MS);
    let ahead = world.desk.sessions().len();
    assert_eq!(ahead, 2, "both are there, for the grace");
    world.pass(GRACE_MS);
    world.desk.tick();
    assert_eq!(
        world.leased(),
        [20_001],
        "the grace is over, not an hour later"
    );

    // Ports wait and cool as long as ever, and then they are anybody's; after a restart too.
    let mut world = world.restart();
    world.push(&[("a", Active), ("b", Active), ("c", Active)]);
    let other = world.on("c", ("192.0.2.3:3", 3));
    let asks = |world: &World| [20_000, 20_002].map(|port| world.new_proxy(&other, "web", port));
    assert!(asks(&world).iter().all(Result::is_err), "they cool down");
    world.pass(TWENTY_MINUTES_MS);
    assert_eq!(world.new_proxy(&other, "web", 20_000), Ok(20_000));
    assert_eq!(world.new_proxy(&other, "more", 20_002), Ok(20_002));
}

#[test]
fn a_clock_that_drifts_keeps_nobody_for_ever() {
    let world = before();
    // The control plane's own is brought in line meanwhile, some ms with each heartbeat.
    for _ in 0..2 * GRACE_MS / 10_000 {
        world.pass(10_000);
        set(&world, 60);
    }
    assert_eq!(world.desk.sessions().len(), 1, "who was lost is gone");
}

#[test]
fn a_clock_that_was_behind_ends_nobody_early() {
    let world = before();
    set(&world, HOUR_MS);
    assert_eq!(world.desk.sessions().len(), 2, "within the grace");
    world.pass(GRACE_MS);
    world.desk.tick();
    assert_eq!(world.desk.sessions().len(), 1);
}

#[test]
fn a_session_lasts_no_longer_than_its_invite_says() {
    let mut world = world();
    let mut pushed = world.snapshot(&[("a", Active)]);
    pushed.invites[0].limits.session_max = Some(7_200);
    world.desk.apply(pushed).unwrap();
    let ticket = world.ticket_with("a", |claims| claims.exp += 36_000);
    world.login("a", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    set(&world, -HOUR_MS);
    world.pass(2 * HOUR_MS - 2_000);
    world.desk.tick();
    assert_eq!(world.desk.sessions().len(), 1);
    world.pass(3_000);
    world.desk.tick();
    assert_eq!(world.desk.sessions().len(), 0);
}
