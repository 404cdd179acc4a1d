//! Many are decided about at once and made durable together, on a disk that fails in between.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use totoro_api::wire::push::InviteState::Active;

use super::world::{On, World, tcp, world};
use crate::session::ports::port_key;

const TENANTS: u16 = 6;
const ROUNDS: u16 = 20;

fn tenants() -> World {
    let mut world = world();
    let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), Active)).collect();
    world.push(&all);
    world
}

/// One tenant's frpc, which logs in anew all the time, opens proxies and closes them; the ports of
/// what was granted to it last, and has not ended since.
fn frpc(world: &World, tenant: u16) -> BTreeSet<u16> {
    let name = format!("t{tenant}");
    let ticket = world.ticket(&name);
    let (mut run_id, mut on, mut leased) = (String::new(), None::<On>, BTreeSet::new());
    for round in 0..ROUNDS {
        match (round + tenant) % 5 {
            0 => world.disk.store(true, Ordering::Relaxed),
            2 => world.disk.store(false, Ordering::Relaxed),
            _ => {}
        }
        if on.is_none() || round % 4 == 3 {
            // Granted or not: the connection before has ended, and its proxies with it.
            leased.clear();
            let client = format!("192.0.2.{tenant}:{}", 1000 + round);
            let cookie = u64::from(1000 * tenant + round);
            let login = world.login(&name, &ticket, &run_id, (&client, cookie));
            on = login.map_err(|code| assert_eq!(code, "internal")).ok();
            run_id = on.as_ref().map_or(run_id, |on| on.run_id.clone());
        }
        let Some(on) = &on else { continue };
        let port = 20_000 + 10 * tenant + round % 3;
        let proxy = format!("p{port}");
        if leased.remove(&port) {
            world.close_proxy(on, &proxy);
        } else {
            match world.new_proxy(on, &proxy, port) {
                Ok(of) => assert!(of == port && leased.insert(port)),
                Err(code) => assert_eq!(code, "internal"),
            }
        }
    }
    leased
}

fn all_at_once(world: &World) -> BTreeSet<u16> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..TENANTS)
            .map(|tenant| scope.spawn(move || frpc(world, tenant)))
            .collect();
        let leased = clients.into_iter().map(|client| client.join().unwrap());
        leased.flatten().collect()
    })
}

#[test]
fn memory_kernel_and_disk_agree_once_the_disk_is_well() {
    let world = tenants();
    let granted = all_at_once(&world);
    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    let leased: BTreeSet<u16> = world.leased().into_iter().collect();
    assert_eq!(leased, granted, "in memory");
    let shown: BTreeSet<_> = world.kernel.maps().leases.keys().copied().collect();
    let keys = granted.iter().map(|port| port_key(tcp(*port)));
    assert_eq!(shown, keys.collect(), "in the kernel");
    let told = world.told();
    assert!(told.iter().zip(1..).all(|(event, seq)| event.seq == seq));

    let all = |world: &World| {
        let inner = world.desk.lock();
        assert!(inner.pending.is_empty() && inner.untidy.is_none());
        (
            inner.ports.clone(),
            (*inner.sessions).clone(),
            (*inner.tickets).clone(),
            inner.tenants.clone(),
            inner.numbers,
        )
    };
    let before = all(&world);
    let world = world.restart();
    assert_eq!(all(&world), before, "on the disk");
}

#[test]
fn what_was_granted_is_there_after_a_crash_at_any_moment() {
    let world = tenants();
    let granted = all_at_once(&world);
    // What has ended while the disk failed may come back; frps is asked about that.
    world.disk.store(true, Ordering::Relaxed);
    let world = world.restart();
    let leased: BTreeSet<u16> = world.leased().into_iter().collect();
    assert!(leased.is_superset(&granted), "{granted:?} of {leased:?}");
    let shown = world.kernel.maps().leases.len();
    assert_eq!(shown, leased.len(), "and the kernel has nothing else");
}

#[test]
fn a_grant_is_not_repeated_before_it_is_durable() {
    let world = tenants();
    let on = world.on("t0", ("192.0.2.1:1", 1));
    world.disk.store(true, Ordering::Relaxed);
    assert_eq!(world.new_proxy(&on, "web", 20_000).unwrap_err(), "internal");
    // Asked again, it is no proxy that is there already.
    assert_eq!(world.new_proxy(&on, "web", 20_000).unwrap_err(), "internal");
    assert!(world.leased().is_empty());
    world.disk.store(false, Ordering::Relaxed);
    world.new_proxy(&on, "web", 20_000).unwrap();
    assert_eq!(world.new_proxy(&on, "web", 20_000), Ok(20_000));
    assert_eq!(world.restart().leased(), [20_000]);
}
