//! What fails does no more harm than it must.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

use totoro_api::ports::Pool;
use totoro_api::wire::event::kind;
use totoro_api::wire::push::InviteState::{Active, Revoked};
use totoro_api::wire::push::TicketKey;
use totoro_ebpf::abi;

use super::world::{On, World, online, tcp, world};
use crate::kernel::LeaseCounts;
use crate::session::ports::port_key;
use crate::store::Changes;

fn two_tenants() -> (World, On, On) {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let b = world.on("b", ("192.0.2.2:2", 2));
    world.new_proxy(&a, "web", 20_000).unwrap();
    world.new_proxy(&b, "web", 20_001).unwrap();
    (world, a, b)
}

#[test]
fn one_tenants_failure_leaves_no_other_unrevoked() {
    let (mut world, ..) = two_tenants();
    let (a, b) = (world.number_of("a"), world.number_of("b"));
    let ticket = world.ticket("b");
    for call in [
        format!("destroy_tenant {a}"),
        "destroy_control 2".to_owned(),
        "set_hold".to_owned(),
    ] {
        world.kernel.maps().failing.insert(call);
    }
    let applied = world.push(&[("a", Revoked), ("b", Revoked)]);
    assert_eq!(applied.revision, world.revision(), "the policy holds");
    let error = applied.error.expect("is told of");
    assert!(error.contains("destroy_tenant"), "{error}");
    assert!(world.desk.sessions().is_empty(), "both are over");
    assert_eq!(world.leased(), Vec::<u16>::new());
    for number in [a, b] {
        let state = world.kernel.maps().tenants[&number].state;
        assert_eq!(state, abi::CUT, "{number}");
    }
    let back = world.login("b", &ticket, "", ("192.0.2.2:3", 3));
    assert_eq!(back.unwrap_err(), "invite_revoked");

    world.kernel.maps().failing.clear();
    assert!(world.desk.lock().cuts.contains_key(&a));
    world.desk.second();
    let inner = world.desk.lock();
    assert!(
        inner.cuts.is_empty() && inner.untidy.is_none(),
        "what was left is done"
    );
}

#[test]
fn a_port_that_leaves_the_pool_is_guarded_while_frps_may_listen_there() {
    let (mut world, ..) = two_tenants();
    let both = [("a", Active), ("b", Active)];
    let guards = |world: &World, port| world.kernel.maps().pool.tcp.contains(port);
    let end = "destroy_control 1".to_owned();
    world.kernel.maps().failing.insert(end.clone());
    world.node.pool.tcp = "20001-20099".parse().unwrap();
    let applied = world.push(&both);
    assert!(
        applied
            .error
            .expect("is told of")
            .contains("destroy_control")
    );
    assert_eq!(world.leased(), [20_001]);
    for _ in 0..4 {
        assert!(
            guards(&world, 20_000),
            "frps listens there, and nobody may come"
        );
        world.desk.second();
        assert!(world.desk.untidy().is_some(), "it is tried again");
    }
    world.kernel.maps().failing.clear();
    for _ in 0..4 {
        world.desk.second();
    }
    assert_eq!(world.desk.untidy(), None);
    assert_eq!(world.kernel.maps().destroyed, [1], "once");
    assert!(!guards(&world, 20_000), "it is nobody's affair any more");

    // The connection stays, and frps says that it does not listen any more; or the port comes back.
    world.node.pool.tcp = "20002-20099".parse().unwrap();
    let end = "destroy_control 2".to_owned();
    world.kernel.maps().failing.insert(end);
    world.push(&both);
    let there = online(&[("b.web".to_owned(), 20_001)]);
    world.pass(10_000);
    world.compare(&there);
    assert!(guards(&world, 20_001));
    world.compare(&BTreeMap::new());
    assert!(!guards(&world, 20_001));
    // Whatever frps has there, whoever it is of.
    let there = online(&[("c.web".to_owned(), 19_000)]);
    world.compare(&there);
    assert!(guards(&world, 19_000) && !guards(&world, 19_001));
    world.compare(&BTreeMap::new());
    assert_eq!(world.kernel.maps().pool, world.node.pool);
}

#[test]
fn what_was_guarded_beside_the_pool_is_guarded_after_a_restart_until_frps_says_otherwise() {
    let (world, ..) = two_tenants();
    let guards = |world: &World, port| world.kernel.maps().pool.tcp.contains(port);
    let there = online(&[("c.web".to_owned(), 19_000), ("d.web".to_owned(), 19_001)]);
    world.compare(&there);
    let mut world = world.restart();
    // frps's answer may be long in coming.
    world.pass(60_000);
    world.push(&[("a", Active), ("b", Active)]);
    world.desk.second();
    assert!(guards(&world, 19_000) && guards(&world, 19_001));
    world.compare(&online(&[("c.web".to_owned(), 19_000)]));
    assert!(guards(&world, 19_000) && !guards(&world, 19_001));
    world.compare(&BTreeMap::new());
    assert_eq!(world.kernel.maps().pool, world.node.pool);
}

#[test]
fn frpss_own_ports_are_not_guarded_by_what_an_earlier_daemon_knew() {
    let (world, ..) = two_tenants();
    let there = online(&[("c.web".to_owned(), 7_000), ("d.web".to_owned(), 7_001)]);
    world.compare(&there);
    assert!(world.kernel.maps().pool.tcp.contains(7_000));
    let world = world.restart();
    let guarded = world.kernel.maps().pool.tcp.clone();
    // Else frps could not be asked any more.
    assert!(!guarded.contains(7_000) && guarded.contains(7_001));
}

#[test]
fn a_policy_is_kept_though_its_applying_panics() {
    let (mut world, ..) = two_tenants();
    let pushed = world.snapshot(&[("a", Revoked), ("b", Active)]);
    world.kernel.maps().panicking = Some("set_hold");
    let applying = AssertUnwindSafe(|| world.desk.apply(pushed));
    assert!(std::panic::catch_unwind(applying).is_err());
    world.kernel.maps().panicking = None;
    world.desk.tick();
    let world = world.restart();
    assert_eq!(world.desk.revision(), world.revision());
    assert_eq!(world.leased(), [20_001]);
}

#[test]
fn a_policy_is_not_said_to_hold_while_it_is_being_written() {
    let (mut world, ..) = two_tenants();
    world.disk.store(true, Ordering::Relaxed);
    let applied = world.push(&[("a", Active)]);
    assert!(applied.error.is_some(), "it waits for the disk");
    world.disk.store(false, Ordering::Relaxed);
    // As a tick does before it writes.
    let mut inner = world.desk.lock();
    world.desk.flush(&mut inner, Changes::default());
    assert!(inner.pending.is_empty(), "it is handed over");
    drop(inner);
    assert!(world.desk.applied().error.is_some(), "and not durable");
    world.desk.tick();
    assert_eq!(world.desk.applied().error, None);
}

#[test]
fn a_kernel_that_fails_at_the_start_stops_no_daemon() {
    let (world, ..) = two_tenants();
    let kernel = std::sync::Arc::clone(&world.kernel);
    kernel
        .maps()
        .failing
        .extend(["pool", "leases", "put_tenant 1", "put_lease 20000"].map(str::to_owned));
    let world = world.restart();
    assert_eq!(world.leased(), [20_000, 20_001]);
    kernel.maps().failing.clear();
    kernel.maps().leases.clear();
    world.desk.second();
    assert_eq!(kernel.maps().leases.len(), 2, "and is brought in line");
}

#[test]
fn nothing_overtakes_what_waits_for_the_disk() {
    let (world, a, _) = two_tenants();
    world.disk.store(true, Ordering::Relaxed);
    world.close_proxy(&a, "web");
    assert_eq!(
        world.new_proxy(&a, "web", 20_000).unwrap_err(),
        "internal",
        "the disk still fails"
    );
    let key = port_key(tcp(20_000));
    assert!(!world.kernel.maps().leases.contains_key(&key), "undone");
    world.disk.store(false, Ordering::Relaxed);
    assert_eq!(world.new_proxy(&a, "web", 20_000), Ok(20_000));
    world.desk.tick();
    let world = world.restart();
    assert_eq!(world.leased(), [20_000, 20_001], "the later change holds");
}

#[test]
fn counts_stay_in_the_kernel_until_they_are_durable() {
    let (world, a, _) = two_tenants();
    let key = (world.number_of("a"), port_key(tcp(20_000)));
    let counts = LeaseCounts {
        bytes_in: 10,
        bytes_out: 20,
        admitted: 7,
        live: 2,
        ..LeaseCounts::default()
    };
    world.kernel.maps().counts.insert(key, counts);
    world.pass(60_000);
    world.desk.second();
    let summary = &world.told_of(kind::CONN_CLOSED)[0].subject.detail;
    assert_eq!(
        (&summary["count"], &summary["bytes_out"]),
        (&5.into(), &20.into())
    );

    world.disk.store(true, Ordering::Relaxed);
    world.close_proxy(&a, "web");
    assert!(world.kernel.maps().counts.contains_key(&key));
    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    world.desk.second();
    assert!(
        world.kernel.maps().counts.contains_key(&key),
        "for who comes back"
    );
    world.pass(30_000);
    world.desk.second();
    assert!(!world.kernel.maps().counts.contains_key(&key));
    let summary = &world.told_of(kind::CONN_CLOSED)[1].subject.detail;
    assert_eq!(
        (&summary["count"], &summary["bytes_out"]),
        (&2.into(), &0.into()),
        "the rest, once"
    );
    let sessions = world.desk.sessions();
    let ours = sessions.iter().find(|line| line.tenant == "a").unwrap();
    world.desk.kick(&ours.id).unwrap();
    let session = &world.told_of(kind::SESSION_CLOSED)[0].subject;
    assert_eq!(session.detail["conns"], 7, "as many as the kernel admitted");
}

#[test]
fn counters_that_a_killed_daemon_left_are_forgotten() {
    let (world, a, _) = two_tenants();
    let number = world.number_of("a");
    let [leased, ended] = [20_000, 20_009].map(|port| (number, port_key(tcp(port))));
    for key in [leased, ended] {
        let counts = LeaseCounts::default();
        world.kernel.maps().counts.insert(key, counts);
    }
    let look = || {
        world.desk.adopt_spent();
        world.pass(30_000);
        world.desk.second();
        let maps = world.kernel.maps();
        [leased, ended].map(|key| maps.counts.contains_key(&key))
    };
    assert_eq!(look(), [true, false]);
    assert_eq!(world.new_proxy(&a, "more", 20_009), Ok(20_009));
    assert_eq!(look(), [true, true], "leased meanwhile");
}

#[test]
fn a_lease_that_did_not_close_is_counted_until_it_does() {
    let (world, a, _) = two_tenants();
    let key = (world.number_of("a"), port_key(tcp(20_000)));
    let fails = "remove_lease 20000".to_owned();
    world.kernel.maps().failing.insert(fails);
    world.close_proxy(&a, "web");
    world.desk.tick();
    world.desk.second();
    let counted = world.kernel.maps().counts.contains_key(&key);
    assert!(counted, "users may be on it still");
    world.kernel.maps().failing.clear();
    for _ in 0..2 {
        world.pass(60_000);
        world.desk.second();
    }
    let maps = world.kernel.maps();
    assert!(!maps.leases.contains_key(&key.1) && !maps.counts.contains_key(&key));
}

#[test]
fn a_login_that_the_kernel_refuses_leaves_nobody_on_the_connection_that_it_ended() {
    let (world, a, _) = two_tenants();
    let number = world.number_of("a");
    world.desk.lock().shown.forget_tenant(number);
    world
        .kernel
        .maps()
        .failing
        .insert(format!("put_tenant {number}"));
    let ticket = world.ticket("a");
    let again = |cookie| world.login("a", &ticket, &a.run_id, ("192.0.2.1:9", cookie));
    assert_eq!(again(9).unwrap_err(), "internal");
    assert_eq!(world.kernel.maps().destroyed, [1]);
    assert!(
        !world
            .desk
            .lock()
            .sessions
            .get(&a.run_id)
            .unwrap()
            .connected()
    );
    assert_eq!(world.leased(), [20_001]);
    world.kernel.maps().failing.clear();
    assert_eq!(again(10).unwrap().run_id, a.run_id);
}

#[test]
fn a_key_that_can_not_be_read_is_not_acknowledged() {
    let mut world = world();
    let mut pushed = world.snapshot(&[("a", Active)]);
    let keys = pushed.keys.as_mut().unwrap();
    let later = TicketKey {
        kid: "later".to_owned(),
        public: "of another kind".to_owned(),
        ..keys[0].clone()
    };
    keys.push(later);
    let known = keys[0].kid.clone();
    assert_eq!(world.desk.apply(pushed).unwrap().keys, [known]);
}

#[test]
fn refusals_cost_no_disk_write_each_and_no_flood_of_events() {
    let (world, a, _) = two_tenants();
    let before = world.told().len();
    let mut codes = Vec::new();
    for n in 0..100 {
        codes.push(world.new_proxy(&a, &format!("p{n}"), 30_000).unwrap_err());
    }
    assert_eq!(world.told().len(), before, "gathered");
    assert_eq!(codes[0], "port_outside_pool");
    assert!(codes.iter().any(|code| code == "rate_limited"));
    world.desk.tick();
    let refused = world.told_of(kind::PROXY_REFUSED);
    assert_eq!(refused.len(), 2, "one for each reason, whatever the names");
    let count = |n: usize| refused[n].subject.detail["count"].as_u64().unwrap();
    assert_eq!(count(0) + count(1), 100);
}

#[test]
fn what_the_canary_found_is_believed_until_it_was_tried_again() {
    let mut world = world();
    world.push(&[("a", Active)]);
    // This kernel refuses nobody.
    assert!(!world.desk.try_canary() && !world.desk.try_canary());
    assert!(world.desk.canary_problem().is_some() && world.desk.canary_s().is_none());
    // No port is left to try it on.
    world.node.pool = Pool::default();
    world.push(&[("a", Active)]);
    assert!(!world.desk.try_canary());
    assert!(world.desk.canary_problem().is_some());
    let ticket = world.ticket("a");
    let refused = world.login("a", &ticket, "", ("192.0.2.1:1", 1));
    assert_eq!(refused.unwrap_err(), "internal");
}
