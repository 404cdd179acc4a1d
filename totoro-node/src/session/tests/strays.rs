//! Proxies that frps has and no lease covers.

use std::collections::BTreeMap;

use totoro_api::wire::push::InviteState::Active;

use super::world::{World, online, wire, world};
use crate::session::Online;

#[test]
fn a_proxy_that_no_lease_covers_ends_its_client_once_it_stays() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    world.new_proxy(&a, "web", 20_000).unwrap();
    world.close_proxy(&a, "web");
    let online = online(&[(wire(&a, "web"), 20_000)]);
    assert_eq!(world.compare(&online), 1);
    world.pass(4_000);
    assert_eq!(world.compare(&BTreeMap::new()), 0);
    assert!(
        world.kernel.maps().destroyed.is_empty(),
        "it was just closing"
    );
    world.compare(&online);
    world.pass(4_000);
    world.compare(&online);
    assert_eq!(world.kernel.maps().destroyed, [1]);
}

#[test]
fn it_ends_whom_frps_says_and_no_other_of_the_tenant() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let [first, second] = [("192.0.2.1:1", 1), ("192.0.2.1:2", 2)].map(|from| world.on("a", from));
    // The last to have the port by our books.
    world.new_proxy(&first, "web", 20_000).unwrap();
    world.close_proxy(&first, "web");
    let mut there = online(&[(wire(&first, "web"), 20_000)]);
    for proxied in there.values_mut() {
        proxied.client.clone_from(&second.run_id);
    }
    for _ in 0..2 {
        world.compare(&there);
        world.pass(4_000);
    }
    assert_eq!(world.kernel.maps().destroyed, [2]);
}

#[test]
fn one_whose_client_is_unknown_ends_all_that_may_be_it_and_keeps_its_port() {
    let mut world = world();
    world.desk.rules.tcp_mux = false;
    world.push(&[("b", Active)]);
    let b = world.on("b", ("192.0.2.1:1", 1));
    let connect = |cookie: u16, age_s| {
        let client = ([192, 0, 2, 1], 100 + cookie).into();
        world.kernel.connect(client, cookie.into(), age_s);
    };
    // Of the same address as the session: they may be its.
    connect(8, 100);
    connect(9, 10);
    let mut there = online(&[("a.web".to_owned(), 20_000)]);
    for proxied in there.values_mut() {
        proxied.client = "0123456789abcdef".repeat(2);
    }
    let compare = |there| world.compare(there);
    let destroyed = || std::mem::take(&mut world.kernel.maps().destroyed);
    assert_eq!(compare(&there), 1, "too young");
    connect(10, 0);
    assert_eq!(compare(&there), 1, "too young");
    let refused = world.new_proxy(&b, "web", 20_000);
    assert_eq!(refused.unwrap_err(), "port_in_use");
    world.pass(20_000);
    assert_eq!(compare(&there), 0);
    world.desk.look_for_lost();
    assert_eq!(destroyed(), [0; 0], "it may be told yet");

    world.pass(20_000);
    compare(&there);
    assert_eq!(destroyed(), [8, 9], "not what came after it");
    assert!(world.desk.stuck().is_empty(), "it may be ending");
    for _ in 0..2 {
        compare(&there);
        assert_eq!(world.desk.stuck(), ["tcp/20000 a.web"]);
    }
    assert_eq!(destroyed(), [0; 0]);
    let refused = world.new_proxy(&b, "web", 20_000);
    assert_eq!(refused.unwrap_err(), "port_in_use");
    compare(&BTreeMap::new());
    assert!(world.desk.stuck().is_empty());
    assert_eq!(world.new_proxy(&b, "web", 20_000), Ok(20_000));
}

#[test]
fn a_port_that_frps_can_not_open_is_not_chosen_again() {
    let mut world = world();
    world.node.pool.tcp = "20000-20001".parse().unwrap();
    world.push(&[("a", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let ask = |world: &World, port| world.new_proxy(&a, "web", port).unwrap();
    let compare = |world: &World, there| {
        world.pass(4_000);
        world.compare(&there);
    };
    let broken = ask(&world, 0);
    compare(&world, BTreeMap::new());
    // Nor after a restart.
    world = world.restart();
    let other = ask(&world, 0);
    assert_ne!(other, broken);
    // One that frps had open waits for its proxy, whatever ends it.
    let there = online(&[(wire(&a, "web"), other)]);
    for there in [there, BTreeMap::new()] {
        compare(&world, there);
    }
    assert_eq!(ask(&world, 0), other);
    world.close_proxy(&a, "web");
    // Who names it gets it, also where nothing new is given.
    assert_eq!(ask(&world, broken), broken);
    compare(&world, BTreeMap::new());
    world.node.draining = true;
    world.push(&[("a", Active)]);
    assert_eq!(ask(&world, broken), broken);
}

#[test]
fn the_port_of_a_stuck_proxy_is_not_chosen_even_by_who_had_it_last() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let had = world.new_proxy(&a, "web", 0).unwrap();
    world.close_proxy(&a, "web");
    let there = online(&[("b.web".to_owned(), had)]);
    for _ in 0..2 {
        world.compare(&there);
        world.pass(20_000);
    }
    let got = world.new_proxy(&a, "web", 0);
    assert_ne!(got.unwrap(), had);
}

#[test]
fn what_changes_while_frps_lists_its_proxies_is_looked_at_again() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let is = |name: &str, port| online(&[(wire(&a, name), port)]).into_iter().collect();
    for (name, port) in [("web", 20_000), ("ssh", 20_001)] {
        world.new_proxy(&a, name, port).unwrap();
    }
    world.pass(4_000);
    let mut seen = Online::asked(world.clock.now_ms());
    world.desk.look(&mut seen, is("web", 20_000));
    // Another lease of the same name and port; and one that begins when its proxy is listed.
    world.close_proxy(&a, "web");
    world.new_proxy(&a, "web", 20_000).unwrap();
    world.desk.look(&mut seen, is("late", 20_002));
    world.new_proxy(&a, "late", 20_002).unwrap();
    world.desk.look(&mut seen, is("ssh", 20_001));
    assert_eq!(seen.count(), 3);
    assert_eq!(
        world.desk.compare(seen),
        1,
        "the new one may not be there yet"
    );
    assert_eq!(world.leased(), [20_000, 20_001, 20_002]);
    assert!(world.kernel.maps().destroyed.is_empty());
    assert!(world.desk.stuck().is_empty());
}
