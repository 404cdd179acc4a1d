//! Kicks that the control plane pushes.

use std::sync::atomic::Ordering;

use futures_executor::block_on;
use totoro_api::wire::push::DesiredState;
use totoro_api::wire::push::InviteState::Active;

use super::world::{World, world};

/// Pushes these kicks, and nothing else that is new.
fn kick(world: &World, sessions: &[&str]) {
    let pushed = DesiredState {
        revision: world.revision(),
        kicks: sessions.iter().map(|id| (*id).to_owned()).collect(),
        ..DesiredState::default()
    };
    world.desk.apply(pushed).unwrap();
}

#[test]
fn a_pushed_kick_ends_its_session_once() {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let b = world.on("b", ("192.0.2.2:2", 2));
    world.new_proxy(&a, "web", 20_000).unwrap();
    world.new_proxy(&b, "web", 20_001).unwrap();
    let sessions = world.desk.sessions();
    let id = sessions.iter().find(|line| line.tenant == "a").unwrap();
    kick(&world, &[&id.id, "no-such-session"]);
    assert_eq!(world.leased(), [20_001]);
    assert_eq!(world.kernel.maps().destroyed, [1]);
    let closed: Vec<_> = world.told_of("session.closed");
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].subject.detail["why"], "kicked");

    // It comes again while the control plane has not heard of it, after a restart of the daemon too:
    // it hits nobody, and is told once.
    kick(&world, &[&id.id]);
    let world = world.restart();
    kick(&world, &[&id.id]);
    assert_eq!(world.desk.sessions().len(), 1);
    assert_eq!(world.told_of("session.closed").len(), 1);
}

#[test]
fn who_has_udp_ports_comes_again_when_they_were_bound_untagged() {
    let mut world = world();
    world.push(&[("a", Active), ("b", Active)]);
    let a = world.on("a", ("192.0.2.1:1", 1));
    let b = world.on("b", ("192.0.2.2:2", 2));
    world.new_proxy(&a, "web", 20_000).unwrap();
    for name in ["dns", "game"] {
        block_on(world.asking_for(&b, name, ("udp", 0))).unwrap();
    }
    world.desk.second();
    assert!(world.kernel.maps().destroyed.is_empty());
    world.kernel.maps().swept.untagged = true;
    world.desk.second();
    assert_eq!(world.kernel.maps().destroyed, [2], "once");
}

#[test]
fn what_a_person_asks_for_is_not_called_done_before_it_is_durable() {
    let mut world = world();
    world.push(&[("a", Active)]);
    world.on("a", ("192.0.2.1:1", 1));
    let id = world.desk.sessions()[0].id.clone();
    let prefix = "203.0.113.7/32".parse().unwrap();
    world.disk.store(true, Ordering::SeqCst);
    for told in [
        world.desk.kick(&id),
        world.desk.ban(prefix, None),
        world.desk.unban(prefix),
        world.desk.ban(prefix, None),
    ] {
        let told = format!("{:#}", told.unwrap_err());
        assert!(
            told.contains("it holds, but can't be made durable"),
            "{told}"
        );
    }
    assert!(
        world.desk.sessions().is_empty(),
        "it has ended all the same"
    );
    world.disk.store(false, Ordering::SeqCst);
    world.desk.second();
    let world = world.restart();
    assert!(world.desk.sessions().is_empty());
    assert_eq!(world.desk.bans().len(), 1);
    world.desk.unban(prefix).unwrap();
}
