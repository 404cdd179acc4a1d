//! What must be the same in the desk, in the kernel, in the spool and in the model.

use std::collections::{BTreeMap, BTreeSet};

use totoro_ebpf::abi;

use super::desk::{Pair, VISITOR};
use super::model::{ANYONE, TENANTS};
use crate::session::ports::port_key;

impl Pair {
    /// Desk, kernel and spool are as the model has them.
    pub(super) fn agree(&mut self) {
        let world = self.world.as_ref().expect("between steps there is one");
        let inner = world.desk.lock();
        let (runs, model) = (&self.runs, &self.model);
        let tenant = |of: usize| match of {
            ANYONE => format!("public:192.0.2.{VISITOR}"),
            of => TENANTS[of].to_owned(),
        };
        let expected = model.sessions.iter().map(|(run, session)| {
            let connected = session.lost_ms.is_none();
            (
                runs[*run].clone(),
                (
                    session.id.clone(),
                    tenant(session.tenant),
                    connected,
                    session.cookie,
                ),
            )
        });
        let found = inner.sessions.iter().map(|(run_id, session)| {
            let of = (
                session.id.clone(),
                session.tenant.to_string(),
                session.connected(),
                session.cookie,
            );
            (run_id.to_string(), of)
        });
        let (found, expected): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (found.collect(), expected.collect());
        assert_eq!(found, expected, "sessions");

        let expected = model.leases.iter().map(|(port, lease)| {
            let number = inner.tenants[&*tenant(lease.tenant)].number;
            (
                *port,
                (runs[lease.run].clone(), format!("p{}", lease.name), number),
            )
        });
        let expected: BTreeMap<_, _> = expected.collect();
        let found = inner.ports.leases().iter().map(|(port, lease)| {
            let number = inner.tenants[&*lease.tenant].number;
            (
                port.1,
                (lease.run_id.to_string(), lease.name().to_owned(), number),
            )
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected, "leases");

        let maps = world.kernel.maps();
        let found: BTreeMap<_, _> = maps
            .leases
            .iter()
            .map(|(key, lease)| (*key, (lease.tenant, lease.lease)))
            .collect();
        let shown = inner.ports.leases().iter();
        let shown =
            shown.map(|(port, lease)| (port_key(*port), (expected[&port.1].2, lease.number)));
        assert_eq!(found, shown.collect(), "the kernel's leases");
        for session in model.sessions.values() {
            let number = inner.tenants[&*tenant(session.tenant)].number;
            assert_ne!(
                maps.tenants[&number].state,
                abi::CUT,
                "{session:?} may live"
            );
        }
        let live = model
            .sessions
            .values()
            .filter(|session| session.lost_ms.is_none() && !session.silent);
        let mut expected: BTreeSet<u64> = live.map(|session| session.cookie).collect();
        expected.extend(&self.idle);
        let found = maps.controls.values().map(|control| control.socket.cookie);
        assert_eq!(found.collect::<BTreeSet<_>>(), expected, "connections");
        assert_eq!(inner.untidy, None);
        drop((maps, inner));
        self.told();
    }

    /// Each opening and end is told once, and in its order.
    fn told(&mut self) {
        let mut all = self.had.clone();
        let last = self.had.last().map_or(0, |event| event.seq);
        all.extend(
            self.world()
                .told()
                .into_iter()
                .filter(|event| event.seq > last),
        );
        assert!(
            all.iter().zip(1..).all(|(event, seq)| event.seq == seq),
            "without gaps"
        );
        let new = all[self.looked..].iter().filter_map(|event| {
            let of = &event.subject;
            let session = of.session.clone()?;
            let whom = match &*of.kind {
                "session.opened" | "session.resumed" | "session.closed" => session,
                "proxy.opened" | "proxy.closed" => {
                    format!("{session} {} {}", of.proxy.as_deref()?, of.port?)
                }
                _ => return None,
            };
            Some((of.kind.clone(), whom))
        });
        let mut found = BTreeMap::<String, Vec<String>>::new();
        for (kind, whom) in new {
            found.entry(whom).or_default().push(kind);
        }
        self.looked = all.len();
        let mut expected = BTreeMap::<String, Vec<String>>::new();
        for (kind, whom) in self.model.told.drain(..) {
            expected.entry(whom).or_default().push(kind.to_owned());
        }
        assert_eq!(found, expected, "what was told");
    }
}
