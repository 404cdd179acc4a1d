//! What a node costs while nobody asks: nothing that grows with what it has.

use std::collections::BTreeMap;

use totoro_api::ticket::{Grant, Revision};
use totoro_api::wire::push::InviteState::Active;
use totoro_api::wire::push::{DesiredInvite, InviteState};

use super::world::{GRACE_MS, World, wire, world};

/// A world with so many tenants with a session and a lease each.
fn with(tenants: u16) -> World {
    let mut world = world();
    let ids: Vec<String> = (0..tenants).map(|n| format!("t{n}")).collect();
    let invites: Vec<(&str, InviteState)> = ids.iter().map(|id| (id.as_str(), Active)).collect();
    world.push(&invites);
    for (n, id) in ids.iter().enumerate() {
        let n = u16::try_from(n).unwrap();
        let from = format!("192.0.2.{}:{}", 1 + n % 250, 1 + n);
        let on = world.on(id, (&from, u64::from(n) + 1));
        world.new_proxy(&on, "web", 20_000 + n).unwrap();
    }
    world.kernel.maps().calls.clear();
    world
}

/// What the kernel is called for in a quiet minute, and for a heartbeat of which nothing is wanted.
fn called(tenants: u16) -> BTreeMap<&'static str, usize> {
    let world = with(tenants);
    for second in 0..60 {
        for _ in 0..4 {
            world.desk.tick();
        }
        world.desk.second();
        if second % 5 == 0 {
            world.desk.look_for_lost();
        }
    }
    world.desk.forget();
    world.desk.adopt_spent();
    world.pass(61_000);
    world.desk.second();
    world.desk.report(|_| false).unwrap();
    world.desk.totals().unwrap();
    let calls = world.kernel.maps().calls.clone();
    assert_eq!(world.leased().len(), usize::from(tenants), "nothing ended");
    calls
}

#[test]
fn a_quiet_minute_calls_the_kernel_as_often_whatever_there_is() {
    let few = called(1);
    assert!(few.contains_key("port_usage"), "it was summed up: {few:?}");
    assert_eq!(called(90), few);
}

#[test]
fn a_change_of_one_invite_calls_the_kernel_for_its_tenant_alone() {
    let mut world = with(50);
    let mut change = world.change();
    change.invites.push(DesiredInvite {
        epoch: 1,
        ..world.snapshot(&[("t7", Active)]).invites.remove(0)
    });
    change.invites[0].limits.max_conns = Some(3);
    world.desk.apply(change).unwrap();
    let calls = world.kernel.maps().calls.clone();
    assert_eq!(calls, BTreeMap::from([("put_tenant", 1)]));
    let number = world.number_of("t7");
    assert_eq!(world.kernel.maps().tenants[&number].max_conns, 3);
}

#[test]
fn a_session_that_ends_by_time_costs_the_others_nothing() {
    let world = with(20);
    let ticket = world.ticket_with("t5", |claims| {
        claims.session_until = claims.iat + 100;
        claims.revision = Revision {
            rev: claims.revision.rev + 1,
            ..claims.revision
        };
        assert_eq!(claims.grant, Grant::Invite("t5".to_owned()));
    });
    let on = world
        .login("t5", &ticket, "", ("192.0.2.251:1", 900))
        .unwrap();
    world.new_proxy(&on, "short", 20_090).unwrap();
    world.pass(99_000);
    world.kernel.maps().calls.clear();
    world.desk.tick();
    assert!(world.kernel.maps().calls.is_empty(), "nobody is due");
    world.pass(2_000);
    world.desk.tick();
    assert_eq!(world.leased().len(), 20, "it has ended, and no other");
    let maps = world.kernel.maps();
    assert_eq!(maps.destroyed, [900]);
    let each = |call: &str| maps.calls.get(call).copied().unwrap_or(0);
    assert_eq!(
        (each("remove_lease"), each("put_lease")),
        (1, 0),
        "{:?}",
        maps.calls
    );
}

#[test]
fn who_lost_its_connection_ends_after_its_grace_and_no_sooner() {
    let world = with(3);
    world.hang_up(2);
    world.pass(GRACE_MS / 2);
    world.hang_up(1);
    world.desk.tick();
    let there = || -> Vec<String> {
        let sessions = world.desk.sessions().into_iter();
        let mut tenants: Vec<String> = sessions.map(|one| one.tenant).collect();
        tenants.sort();
        tenants
    };
    assert_eq!(there(), ["t0", "t1", "t2"]);
    world.pass(GRACE_MS / 2 + 1);
    world.desk.tick();
    assert_eq!(there(), ["t0", "t2"], "the first that was lost");
    // Back before its grace is over.
    let run_id = world
        .desk
        .lock()
        .sessions
        .of_owner("t0")
        .next()
        .map(|(id, _)| id.clone());
    let ticket = world.ticket("t0");
    let back = world.login("t0", &ticket, &run_id.unwrap(), ("192.0.2.1:9", 9));
    let back = back.unwrap();
    world.pass(10 * GRACE_MS);
    world.desk.tick();
    assert_eq!(there(), ["t0", "t2"]);
    assert_eq!(wire(&back, "web"), "t0.web");
}

#[test]
fn a_report_tells_of_the_busiest_first_and_says_how_many_are_left_out() {
    let world = with(5);
    world.hang_up(3);
    let whole = world.desk.report(|_| true).unwrap();
    assert_eq!((whole.tenants.len(), whole.left), (5, 0));
    assert_eq!((whole.sessions, whole.leases), (4, 4));
    assert_eq!(whole.tenants[4].tenant, "t2", "without a session");
    let mut room = 2;
    let some = world.desk.report(|_| {
        room -= 1;
        room >= 0
    });
    let some = some.unwrap();
    assert_eq!((some.tenants.len(), some.left), (2, 3));
    assert_eq!(some.tenants[..], whole.tenants[..2]);
    assert_eq!((some.sessions, some.leases), (4, 4), "of all");
}
