//! Connections that end and come back, and proxies that frps and the desk see differently.

use totoro_api::wire::push::InviteState::{Active, Paused};

use super::world::{GRACE_MS, online, wire, world};

#[test]
fn a_session_that_is_said_to_be_lost_is_made_so() {
    let mut world = world();
    world.push(&[("a", Active)]);
    world.on("a", ("192.0.2.1:1", 1));
    // The entry is gone though the connection lives.
    world.kernel.maps().controls.clear();
    world.desk.look_for_lost();
    assert_eq!(world.kernel.maps().destroyed, [1]);
    assert!(!world.desk.sessions()[0].connected);
}

#[test]
fn connections_to_frps_without_a_session_end_after_a_while() {
    let mut world = world();
    world.push(&[("a", Active)]);
    world.on("a", ("192.0.2.1:1", 1));
    for (port, age_s) in [(1, 100), (2, 20), (3, 40)] {
        let client = format!("192.0.2.1:{port}").parse().unwrap();
        world.kernel.connect(client, port, age_s);
    }
    world.desk.look_for_lost();
    assert_eq!(world.kernel.maps().destroyed, [3]);
}

#[test]
fn without_tcp_mux_what_comes_from_a_sessions_address_is_let_be() {
    let mut world = world();
    world.desk.rules.tcp_mux = false;
    world.push(&[("a", Active)]);
    world.on("a", ("192.0.2.1:1", 1));
    for (client, cookie) in [("192.0.2.1:2", 2), ("192.0.2.9:3", 3)] {
        world.kernel.connect(client.parse().unwrap(), cookie, 100);
    }
    world.desk.look_for_lost();
    assert_eq!(world.kernel.maps().destroyed, [3], "nobody's session");
}

#[test]
fn a_proxy_on_another_port_than_its_lease_ends_its_client() {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let b = world.on("b", ("192.0.2.2:2", 2));
    world.new_proxy(&b, "web", 20_050).unwrap();
    world.new_proxy(&a, "web", 20_000).unwrap();
    // Asked for another port without closing: frps answers "already exists", and keeps the first.
    world.new_proxy(&a, "web", 20_001).unwrap();
    let online = online(&[(wire(&a, "web"), 20_000), (wire(&b, "web"), 20_050)]);
    assert!(world.compare(&online) > 0, "too young");
    assert_eq!(world.leased(), [20_001, 20_050]);
    world.pass(10_000);
    world.compare(&online);
    assert_eq!(world.leased(), [20_050]);
    let destroyed = &world.kernel.maps().destroyed;
    assert!(
        !destroyed.is_empty() && destroyed.iter().all(|cookie| *cookie == 1),
        "the port's real user: {destroyed:?}"
    );
}

#[test]
fn tickets_are_forgotten_but_for_a_sessions_newest() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let first = world.ticket("a");
    let a = world.login("a", &first, "", ("192.0.2.1:1", 1)).unwrap();
    world.pass(60_000);
    let second = world.ticket("a");
    world
        .login("a", &second, &a.run_id, ("192.0.2.1:2", 2))
        .unwrap();
    world.desk.forget();
    assert_eq!(world.desk.lock().tickets.len(), 2, "both open sessions");
    world.pass(7_200_000);
    world.desk.forget();
    assert_eq!(world.desk.lock().tickets.len(), 1);
    let resumed = world.login("a", &second, &a.run_id, ("192.0.2.1:3", 3));
    assert!(resumed.is_ok(), "past exp too: {resumed:?}");
    world.hang_up(3);
    world.pass(GRACE_MS);
    world.desk.tick();
    world.desk.forget();
    assert!(world.desk.lock().tickets.len() == 0);
}

#[test]
fn one_tenant_fills_no_memory_with_tickets() {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let any = world.desk.lock().tickets.iter().next().unwrap().1.clone();
    for n in 1..1000 {
        let tickets = &mut world.desk.lock().tickets;
        tickets.insert(n.to_string(), any.clone());
    }
    let more = world.login("a", &world.ticket("a"), &a.run_id, ("192.0.2.1:2", 2));
    assert_eq!(more.unwrap_err(), "rate_limited");
    world.on("b", ("192.0.2.2:3", 3));
    world.pass(7_200_000);
    world
        .login("a", &world.ticket("a"), &a.run_id, ("192.0.2.1:4", 4))
        .unwrap();
}

#[test]
fn an_anonymous_session_keeps_its_ports_from_another_address() {
    let mut world = world();
    world.push(&[]);
    let ticket = world.ticket("");
    let on = world.login("me", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    let port = world.new_proxy(&on, "web", 0).unwrap();
    world.hang_up(1);
    let on = world
        .login("me", &ticket, &on.run_id, ("198.51.100.9:2", 2))
        .unwrap();
    assert_eq!(world.new_proxy(&on, "web", port), Ok(port));
    // And while the old connection still lives.
    let on = world
        .login("me", &ticket, &on.run_id, ("203.0.113.5:3", 3))
        .unwrap();
    let world = world.restart();
    assert_eq!(world.new_proxy(&on, "web", port), Ok(port));
}

#[test]
fn a_paused_session_comes_back_and_nothing_new_does() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let ticket = world.ticket("a");
    let a = world.login("a", &ticket, "", ("192.0.2.1:1", 1)).unwrap();
    world.new_proxy(&a, "web", 20_000).unwrap();
    world.push(&[("a", Paused)]);
    world.hang_up(1);
    let new = world.login("a", &world.ticket("a"), "", ("192.0.2.1:2", 2));
    assert_eq!(new.unwrap_err(), "invite_paused");
    let a = world
        .login("a", &ticket, &a.run_id, ("192.0.2.1:3", 3))
        .unwrap();
    assert_eq!(world.new_proxy(&a, "web", 20_000), Ok(20_000));
    assert_eq!(
        world.new_proxy(&a, "other", 0).unwrap_err(),
        "invite_paused"
    );
    world.hang_up(3);
    world.pass(GRACE_MS);
    world.desk.tick();
    let late = world.login("a", &ticket, &a.run_id, ("192.0.2.1:4", 4));
    assert_eq!(late.unwrap_err(), "invite_paused", "it is no more known");
}
