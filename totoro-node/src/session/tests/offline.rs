//! A day without the control plane, by the desk's clock.

use totoro_api::wire::event::kind;
use totoro_api::wire::push::InviteState::{Active, Revoked};

use super::world::{On, World, world};

const MINUTE_MS: i64 = 60_000;
const HOUR_S: i64 = 3_600;

/// An hour passes, minute by minute, with all that the daemon does by itself.
fn hour(world: &World) {
    for _ in 0..60 {
        world.pass(MINUTE_MS);
        world.desk.tick();
        world.desk.second();
        world.desk.look_for_lost();
        world.desk.forget();
    }
}

/// frpc's connection ends, and frpc comes back with the ticket that it has.
fn reconnect(world: &World, on: &On, ticket: &str, cookie: u64) -> On {
    world.hang_up(cookie - 1);
    let from = (format!("192.0.2.1:{cookie}"), cookie);
    let back = world.login(&on.user, ticket, &on.run_id, (&from.0, cookie));
    let back = back.unwrap();
    assert_eq!(back.run_id, on.run_id, "the same session");
    assert_eq!(world.new_proxy(&back, "web", 20_000), Ok(20_000));
    back
}

#[test]
fn a_day_without_the_control_plane_cuts_nobody_who_may_stay() {
    let mut world = world();
    world.push(&[
        ("a", Active),
        ("late", Active),
        ("short", Active),
        ("gone", Active),
    ]);
    let revoked = world.ticket_with("gone", |claims| claims.exp += 23 * HOUR_S);
    let expires_at = world.clock.now_ms() / 1000 + 12 * HOUR_S;
    let mut last = world.snapshot(&[
        ("a", Active),
        ("late", Active),
        ("short", Active),
        ("gone", Revoked),
    ]);
    last.invites[2].expires_at = Some(expires_at);
    world.desk.apply(last).unwrap();

    // What clients hold when the control plane goes: some a ticket of an hour, some of a day.
    let cached = world.ticket("a");
    let of_a_day = world.ticket_with("late", |claims| claims.exp += 23 * HOUR_S);
    let expiring = world.ticket_with("short", |claims| claims.exp += 23 * HOUR_S);
    let anonymous = world.ticket_with("", |claims| {
        claims.session_until = claims.iat + 4 * HOUR_S;
    });
    let mut a = world.login("a", &cached, "", ("192.0.2.1:10", 10)).unwrap();
    world.new_proxy(&a, "web", 20_000).unwrap();
    let short = world
        .login("short", &expiring, "", ("192.0.2.2:1", 1))
        .unwrap();
    world.new_proxy(&short, "web", 20_001).unwrap();
    world
        .login("me", &anonymous, "", ("192.0.2.3:2", 2))
        .unwrap();
    let all = world.desk.sessions();
    let session = all.into_iter().find(|line| line.tenant == "a").unwrap().id;

    for passed in 1..=24u64 {
        hour(&world);
        a = reconnect(&world, &a, &cached, 10 + passed);
        // A frpc that is started anew has no run_id: its ticket opens while it is valid.
        if passed == 2 {
            let again = world.login("a", &cached, "", ("192.0.2.1:99", 99));
            assert_eq!(again.unwrap_err(), "ticket_expired");
        }
        if passed == 10 {
            world = world.restart();
        }
        if passed == 20 {
            world
                .login("late", &of_a_day, "", ("192.0.2.4:4", 4))
                .unwrap();
        }
        let tenants: Vec<String> = world
            .desk
            .sessions()
            .into_iter()
            .map(|line| line.tenant)
            .collect();
        let here = |tenant: &str| tenants.iter().any(|id| id == tenant);
        assert!(here("a"), "never cut");
        assert_eq!(
            here("short"),
            passed < 12,
            "the invite's time, after {passed} h"
        );
        assert_eq!(here("late"), passed >= 20);
        let is_public = |id: &String| id.starts_with("public:");
        assert_eq!(
            tenants.iter().any(is_public),
            passed < 4,
            "the session's time"
        );
        let refused = world.login("gone", &revoked, "", ("192.0.2.5:5", 5));
        assert_eq!(
            refused.unwrap_err(),
            "invite_revoked",
            "as was heard before"
        );
    }
    let late = world.login("short", &expiring, "", ("192.0.2.2:6", 6));
    assert_eq!(late.unwrap_err(), "invite_expired");
    assert!(world.desk.sessions().iter().any(|line| line.id == session));

    // All of it waits, in order and without a gap.
    let told = world.told();
    assert!(told.iter().zip(1..).all(|(event, seq)| event.seq == seq));
    let of = |kind: &str, invite: &str| {
        told.iter()
            .filter(|event| event.subject.kind == kind)
            .filter(|event| event.subject.invite.as_deref() == Some(invite))
            .count()
    };
    assert_eq!(of(kind::SESSION_OPENED, "a"), 1);
    assert_eq!(of(kind::SESSION_RESUMED, "a"), 24);
    assert_eq!(of(kind::SESSION_CLOSED, "a"), 0);
    assert_eq!(of(kind::SESSION_CLOSED, "short"), 1);
}

#[test]
fn a_restarted_frpc_gets_in_while_its_ticket_is_valid() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let cached = world.ticket("a");
    let first = world.login("a", &cached, "", ("192.0.2.1:1", 1)).unwrap();
    world.pass(30 * MINUTE_MS);
    let again = world.login("a", &cached, "", ("192.0.2.1:2", 2)).unwrap();
    assert_eq!(again.run_id, first.run_id, "a takeover");
    assert_eq!(
        world.kernel.maps().destroyed,
        [1],
        "the old connection first"
    );
    let elsewhere = world.login("a", &cached, "", ("198.51.100.1:3", 3));
    assert_eq!(elsewhere.unwrap_err(), "ticket_in_use");
}

#[test]
fn a_full_disk_lets_nobody_new_in_and_cuts_nobody() {
    use std::sync::atomic::Ordering;
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    world.new_proxy(&a, "web", 20_000).unwrap();
    world.disk.store(true, Ordering::Relaxed);
    let ticket = world.ticket("b");
    let new = world.login("b", &ticket, "", ("192.0.2.2:2", 2));
    assert_eq!(new.unwrap_err(), "internal", "acknowledged means durable");
    assert_eq!(world.new_proxy(&a, "more", 0).unwrap_err(), "internal");
    world.desk.tick();
    assert_eq!(world.leased(), [20_000]);
    assert!(world.kernel.maps().destroyed.is_empty());
    // What must end ends all the same.
    world.push(&[("a", Revoked), ("b", Active)]);
    assert_eq!(world.leased(), Vec::<u16>::new());
    assert_eq!(world.kernel.maps().destroyed, [1]);

    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    world.login("b", &ticket, "", ("192.0.2.2:3", 3)).unwrap();
    let told = world.told();
    assert!(told.iter().zip(1..).all(|(event, seq)| event.seq == seq));
    assert_eq!(world.told_of(kind::SESSION_CLOSED).len(), 1);
    let world = world.restart();
    assert_eq!(world.desk.sessions().len(), 1, "and it is durable now");
}
