//! Many are decided about at once and made durable together, on a disk that fails in between.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_executor::block_on;
use totoro_api::decide::Lease;
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::push::InviteState::Active;

use super::world::{On, World, tcp, world};
use crate::session::Desk;
use crate::session::commits::{Undo, UndoneLease};
use crate::session::ports::port_key;
use crate::spool::Spool;
use crate::store::Changes;

const TENANTS: u16 = 6;
/// Rounds, and what the disk does in them; `None` = it fails now and then. It fails in one, so that
/// some are refused; and works in one in which all log in anew, so that something is granted that
/// stays: in the round after it none does, nor asks about the same port.
const PHASES: [(Range<u16>, Option<bool>); 5] = [
    (0..1, None),
    (1..2, Some(true)),
    (2..19, None),
    (19..20, Some(false)),
    (20..21, None),
];

fn tenants() -> World {
    let mut world = world();
    let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), Active)).collect();
    world.push(&all);
    world
}

/// One tenant's frpc, which logs in anew all the time, opens proxies and closes them.
#[derive(Default)]
struct Frpc {
    tenant: u16,
    ticket: String,
    run_id: String,
    on: Option<On>,
    /// The ports of what was granted last, and has not ended since.
    granted: BTreeSet<u16>,
    refused: usize,
}

impl Frpc {
    fn round(&mut self, world: &World, round: u16) {
        let tenant = self.tenant;
        if self.on.is_none() || round % 4 == 3 {
            // Granted or not: the connection before has ended, and its proxies with it.
            self.granted.clear();
            let client = format!("192.0.2.{tenant}:{}", 1000 + round);
            let cookie = u64::from(1000 * tenant + round);
            let (name, from) = (format!("t{tenant}"), (client.as_str(), cookie));
            let login = world.login(&name, &self.ticket, &self.run_id, from);
            self.on = login.map_err(|code| self.refused_by(&code)).ok();
            if let Some(on) = &self.on {
                self.run_id.clone_from(&on.run_id);
            }
        }
        let Some(on) = &self.on else { return };
        let port = 20_000 + 10 * tenant + round % 3;
        let proxy = format!("p{port}");
        if self.granted.remove(&port) {
            world.close_proxy(on, &proxy);
            return;
        }
        match world.new_proxy(on, &proxy, port) {
            Ok(of) => assert!(of == port && self.granted.insert(port)),
            Err(code) => self.refused_by(&code),
        }
    }

    fn refused_by(&mut self, code: &str) {
        assert_eq!(code, "internal");
        self.refused += 1;
    }
}

/// The ports of what was granted last, and has not ended since.
fn all_at_once(world: &World) -> BTreeSet<u16> {
    let frpc = |tenant| Frpc {
        tenant,
        ticket: world.ticket(&format!("t{tenant}")),
        ..Frpc::default()
    };
    let mut clients: Vec<Frpc> = (0..TENANTS).map(frpc).collect();
    let fails = |fails| world.disk.store(fails, Ordering::Relaxed);
    for (rounds, disk) in PHASES {
        disk.map(fails);
        std::thread::scope(|scope| {
            for client in &mut clients {
                let rounds = rounds.clone();
                scope.spawn(move || {
                    for round in rounds {
                        match (disk, (round + client.tenant) % 5) {
                            (None, 0) => fails(true),
                            (None, 2) => fails(false),
                            _ => {}
                        }
                        client.round(world, round);
                    }
                });
            }
        });
    }
    for client in &clients {
        let tenant = client.tenant;
        assert!(client.refused > 0, "{tenant}: the disk never failed");
        assert!(
            !client.granted.is_empty(),
            "{tenant}: the disk always failed"
        );
    }
    clients
        .into_iter()
        .flat_map(|client| client.granted)
        .collect()
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
            inner.sessions.records(),
            inner.tickets.records(),
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

#[test]
fn a_number_is_not_used_twice_though_its_lease_ended_before_the_disk_failed() {
    let world = tenants();
    let mut inner = world.desk.lock();
    let number = inner.numbers.lease;
    inner.numbers.lease += 1;
    let mut changes = Changes::default();
    Desk::put_numbers(&mut changes, inner.numbers);
    let undo = UndoneLease {
        port: tcp(20_000),
        number,
        waiting: None,
    };
    world.desk.grant(&mut inner, changes, Undo::Lease(undo));
    // It has ended meanwhile: the ports know of none.
    world.disk.store(true, Ordering::Relaxed);
    assert!(world.desk.settled(inner).is_err());
    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    let world = world.restart();
    assert_eq!(world.desk.lock().numbers.lease, number + 1);
}

#[test]
fn what_began_and_ended_before_the_disk_failed_is_told_of_from_its_beginning() {
    let world = tenants();
    let on = world.on("t0", ("192.0.2.1:1", 1));
    let port = tcp(20_000);
    let mut inner = world.desk.lock();
    let number = inner.numbers.lease;
    let lease = Lease::new(number, ("t0", &on.run_id), ("t0.web", "web"), 5);
    let mut begins = Changes::default();
    let subject = Subject {
        kind: kind::PROXY_OPENED.to_owned(),
        ..Subject::default()
    };
    begins.tell(5, &subject);
    let undo = UndoneLease {
        port,
        number,
        waiting: inner.ports.open(port, lease),
    };
    world.desk.grant(&mut inner, begins, Undo::Lease(undo));
    let mut ends = Changes::default();
    world
        .desk
        .release(&mut inner, &[port], "closed", &mut ends, 6);
    world.desk.flush(&mut inner, ends);
    world.disk.store(true, Ordering::Relaxed);
    assert!(world.desk.settled(inner).is_err());
    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    let kinds: Vec<String> = world.told().into_iter().map(|of| of.subject.kind).collect();
    let last = &kinds[kinds.len() - 2..];
    assert_eq!(last, [kind::PROXY_OPENED, kind::PROXY_CLOSED]);
}

#[test]
fn of_a_login_that_is_taken_back_no_end_is_left() {
    let world = tenants();
    let ticket = world.ticket("t0");
    world.disk.store(true, Ordering::Relaxed);
    let refused = world.login("t0", &ticket, "", ("192.0.2.1:1", 1));
    assert_eq!(refused.unwrap_err(), "internal");
    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    assert_eq!(world.desk.lock().ends.due(i64::MAX).next(), None);
}

#[test]
fn what_was_delivered_is_forgotten_on_the_disk_with_what_is_decided() {
    let mut world = world();
    world.push(&[("a", Active)]);
    let on = world.on("a", ("192.0.2.1:1", 1));
    world.new_proxy(&on, "web", 20_000).unwrap();
    Spool::of(Arc::clone(&world.store)).accepted(1).unwrap();
    let forget = |world: &World| block_on(world.desk.forget_delivered());
    world.disk.store(true, Ordering::Relaxed);
    assert!(forget(&world).is_err(), "the disk takes nothing");
    world.disk.store(false, Ordering::Relaxed);
    world.desk.tick();
    forget(&world).unwrap();
    let world = world.restart();
    let spool = Spool::of(Arc::clone(&world.store));
    assert_eq!(spool.batch().unwrap().after, 1);
}
