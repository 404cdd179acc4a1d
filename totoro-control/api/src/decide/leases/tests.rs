//! The port table against a model.

use std::collections::BTreeMap;

use crate::limits::Limits;
use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience {
    reserve_ms: 100,
    cool_ms: 50,
};
const POOL: std::ops::RangeInclusive<u16> = 20000..=20005;
const MAX_PROXIES: u32 = 3;

fn pool() -> Pool {
    Pool {
        tcp: "20000-20005".parse().unwrap(),
        udp: "20000-20002".parse().unwrap(),
    }
}

fn limits() -> Effective {
    Limits {
        max_proxies: Some(MAX_PROXIES),
        ..Limits::default()
    }
    .over(&Limits::default())
}

struct Table {
    ports: Ports,
    numbers: u64,
    now_ms: i64,
}

impl Table {
    fn new() -> Self {
        Table {
            ports: Ports::default(),
            numbers: 0,
            now_ms: 1_000,
        }
    }

    fn ask(&mut self, tenant: &str, name: &str, port: Option<u16>) -> Result<u16, Reason> {
        self.ask_as(tenant, tenant, name, Protocol::Tcp, port)
    }

    fn ask_as(
        &mut self,
        tenant: &str,
        run_id: &str,
        name: &str,
        protocol: Protocol,
        port: Option<u16>,
    ) -> Result<u16, Reason> {
        let asked = Asked {
            name: name.to_owned(),
            protocol,
            port,
        };
        let wire = format!("{tenant}.{name}");
        let wish = Wish {
            tenant,
            run_id,
            wire: &wire,
            asked: &asked,
            limits: &limits(),
            pool: &pool(),
            start: 0,
            now_ms: self.now_ms,
        };
        match self
            .ports
            .plan(wish, |_| None)
            .map_err(|refusal| refusal.reason)?
        {
            Plan::Same(port) => Ok(port),
            Plan::Open { port, instead_of } => {
                if let Some(old) = instead_of {
                    self.ports.close(old, self.now_ms, PATIENCE).unwrap();
                }
                self.numbers += 1;
                let lease = Lease::new(self.numbers, (tenant, run_id), (&wire, name), self.now_ms);
                self.ports.open((protocol, port), lease);
                Ok(port)
            }
        }
    }

    fn close(&mut self, port: u16) {
        self.ports
            .close((Protocol::Tcp, port), self.now_ms, PATIENCE)
            .unwrap();
    }
}

#[test]
fn a_port_waits_for_its_proxy_then_cools_then_is_free() {
    let mut table = Table::new();
    assert_eq!(table.ask("a", "web", Some(20001)), Ok(20001));
    assert_eq!(
        table.ask("a", "web", Some(20001)),
        Ok(20001),
        "a repeat is the same lease"
    );
    assert_eq!(table.numbers, 1);
    assert_eq!(table.ask("b", "web", Some(20001)), Err(Reason::PortInUse));
    table.close(20001);
    for later in [0, 100, 149] {
        table.now_ms = 1_000 + later;
        assert_eq!(
            table.ask("b", "web", Some(20001)),
            Err(Reason::PortCooling),
            "+{later} ms"
        );
    }
    assert_eq!(
        table.ask("a", "web", None),
        Ok(20001),
        "its own proxy gets it back"
    );
    table.close(20001);
    assert_eq!(
        table.ask("a", "other", None),
        Ok(20000),
        "a sibling does not get it unasked"
    );
    table.now_ms += 150;
    assert_eq!(table.ask("b", "web", Some(20001)), Ok(20001));
}

#[test]
fn who_moves_on_and_on_does_not_have_the_whole_pool_cool_down() {
    let pool = Pool {
        tcp: "20000-20099".parse().unwrap(),
        ..Pool::default()
    };
    let (mut ports, mut now_ms) = (Ports::default(), 1_000);
    let mut ask = |port, now_ms| {
        let asked = Asked {
            name: "web".to_owned(),
            protocol: Protocol::Tcp,
            port: Some(port),
        };
        let wish = Wish {
            tenant: "a",
            run_id: "r",
            wire: "a.web",
            asked: &asked,
            limits: &limits(),
            pool: &pool,
            start: 0,
            now_ms,
        };
        let plan = ports.plan(wish, |_| None).map_err(|no| no.reason)?;
        if let Plan::Open { port, instead_of } = plan {
            if let Some(old) = instead_of {
                ports.close(old, now_ms, PATIENCE).unwrap();
            }
            let lease = Lease::new(1, ("a", "r"), ("a.web", "web"), now_ms);
            ports.open((Protocol::Tcp, port), lease);
        }
        Ok(())
    };
    // Twice as many as it may have proxies, and eight.
    let most = 20000 + MAX_PROXIES as u16 * 2 + 8;
    for port in 20000..most {
        assert_eq!(ask(port, now_ms), Ok(()), "{port}");
    }
    assert_eq!(ask(most, now_ms), Err(Reason::RateLimited));
    assert_eq!(ask(20003, now_ms), Ok(()), "what waits for it is its own");
    now_ms += PATIENCE.reserve_ms + PATIENCE.cool_ms - 1;
    assert_eq!(ask(most, now_ms), Err(Reason::RateLimited));
    now_ms += 1;
    assert_eq!(ask(most, now_ms), Ok(()), "the others are free again");
}

#[test]
fn the_last_port_is_remembered_while_it_is_free() {
    let mut table = Table::new();
    assert_eq!(table.ask("a", "web", Some(20004)), Ok(20004));
    table.close(20004);
    table.now_ms += 10_000;
    assert_eq!(table.ask("a", "web", None), Ok(20004));
    table.close(20004);
    table.now_ms += 10_000;
    assert_eq!(table.ask("b", "x", Some(20004)), Ok(20004));
    assert_eq!(table.ask("a", "web", None), Ok(20000));
}

#[test]
fn a_port_that_waits_for_none_is_not_given_to_the_same_name_again() {
    let mut table = Table::new();
    assert_eq!(table.ask("a", "web", None), Ok(20000));
    table.close(20000);
    let id = (Protocol::Tcp, 20000);
    assert_eq!(table.ports.wait_for_none((Protocol::Udp, 20000)), None);
    let left = table.ports.wait_for_none(id).unwrap().clone();
    assert_eq!((&*left.tenant, left.reserved_ms), ("a", 1_100));
    assert_eq!(table.ask("b", "x", Some(20000)), Err(Reason::PortCooling));
    assert_eq!(table.ask("a", "web", None), Ok(20001));
    table.close(20001);
    assert_eq!(table.ask("a", "web", None), Ok(20001), "that one waits");
    assert_eq!(table.ask("a", "web", Some(20000)), Ok(20000), "by number");
    table.now_ms += 10;
    table.close(20000);
    assert_eq!(table.ask("a", "web", None), Ok(20000), "it waits again");
}

#[test]
fn a_port_that_waits_for_none_is_given_to_its_tenant_where_there_is_no_other() {
    let mut table = Table::new();
    table.ask("a", "web", None).unwrap();
    table.close(20000);
    table.ports.wait_for_none((Protocol::Tcp, 20000)).unwrap();
    for (tenant, name) in [("b", "x"), ("b", "y"), ("b", "z"), ("c", "x"), ("c", "y")] {
        assert_ne!(table.ask(tenant, name, None), Ok(20000));
    }
    assert_eq!(table.ask("c", "z", None), Err(Reason::PoolExhausted));
    assert_eq!(table.ask("a", "web", None), Ok(20000));
}

#[test]
fn protocols_do_not_share_numbers_and_names_are_one_sessions() {
    let mut table = Table::new();
    assert_eq!(
        table.ask_as("a", "s1", "x", Protocol::Tcp, Some(20000)),
        Ok(20000)
    );
    assert_eq!(
        table.ask_as("a", "s1", "y", Protocol::Udp, Some(20000)),
        Ok(20000)
    );
    assert_eq!(
        table.ask_as("a", "s2", "x", Protocol::Tcp, None),
        Err(Reason::ProxyNameDenied)
    );
    assert_eq!(
        table.ask_as("a", "s1", "z", Protocol::Udp, Some(20003)),
        Err(Reason::PortOutsidePool)
    );
}

#[test]
fn a_proxy_that_moves_closes_its_old_port() {
    let mut table = Table::new();
    for name in ["x", "y", "z"] {
        table.ask("a", name, None).unwrap();
    }
    assert_eq!(table.ask("a", "w", None), Err(Reason::MaxProxies));
    assert_eq!(
        table.ask("a", "x", Some(20005)),
        Ok(20005),
        "a move is no fourth"
    );
    assert_eq!(table.ports.count_of("a"), 3);
    assert_eq!(table.ask("b", "x", Some(20000)), Err(Reason::PortCooling));
}

#[test]
fn keys_are_read_again() {
    for port in [(Protocol::Tcp, 1), (Protocol::Udp, 65_535)] {
        assert_eq!(parse_key(&record_key(port)), Some(port));
    }
    assert_eq!(parse_key("tcp/x"), None);
    assert_eq!(parse_key("sctp/1"), None);
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        tenant: usize,
        name: usize,
        port: Option<u16>,
    },
    Close {
        nth: usize,
        /// Nothing waits for the proxy.
        for_none: bool,
    },
    Wait {
        ms: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3, 0usize..4, proptest::option::of(19999u16..20007))
            .prop_map(|(tenant, name, port)| Step::Ask { tenant, name, port }),
        2 => (0usize..8, any::<bool>()).prop_map(|(nth, for_none)| Step::Close { nth, for_none }),
        1 => (0i64..200).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// The model: who had a port last, and when they let it go.
#[derive(Clone, Debug, PartialEq)]
struct Last {
    tenant: &'static str,
    freed_ms: Option<i64>,
}

proptest! {
    #[test]
    fn never_two_leases_on_a_port_nor_a_strangers_too_early(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        const TENANTS: [&str; 3] = ["a", "b", "c"];
        const NAMES: [&str; 4] = ["p", "q", "r", "s"];
        let mut table = Table::new();
        let mut model = BTreeMap::<u16, Last>::new();
        let mut proxies = BTreeMap::<(&str, &str), u16>::new();
        for step in steps {
            match step {
                Step::Wait { ms } => table.now_ms += ms,
                Step::Close { nth, for_none } => {
                    let Some((&proxy, &port)) = proxies.iter().nth(nth) else { continue };
                    table.close(port);
                    if for_none {
                        table.ports.wait_for_none((Protocol::Tcp, port)).unwrap();
                    }
                    proxies.remove(&proxy);
                    model.get_mut(&port).unwrap().freed_ms = Some(table.now_ms);
                }
                Step::Ask { tenant, name, port } => {
                    let (tenant, name) = (TENANTS[tenant], NAMES[name]);
                    let before = proxies.get(&(tenant, name)).copied();
                    let count = proxies.keys().filter(|(of, _)| *of == tenant).count();
                    match table.ask(tenant, name, port) {
                        Ok(got) => {
                            prop_assert!(POOL.contains(&got));
                            prop_assert!(port.is_none_or(|port| port == got));
                            if before == Some(got) {
                                continue;
                            }
                            prop_assert!(before.is_some() || count < MAX_PROXIES as usize);
                            if let Some(last) = model.get(&got) {
                                let freed = last.freed_ms;
                                prop_assert!(freed.is_some(), "{got} was leased");
                                let cool = freed.unwrap() + PATIENCE.reserve_ms + PATIENCE.cool_ms;
                                prop_assert!(last.tenant == tenant || table.now_ms >= cool);
                            }
                            if let Some(old) = before {
                                model.get_mut(&old).unwrap().freed_ms = Some(table.now_ms);
                            }
                            model.insert(got, Last { tenant, freed_ms: None });
                            proxies.insert((tenant, name), got);
                        }
                        Err(Reason::MaxProxies) => {
                            prop_assert!(before.is_none() && count == MAX_PROXIES as usize);
                        }
                        Err(Reason::PortOutsidePool) => {
                            prop_assert!(!POOL.contains(&port.unwrap()));
                        }
                        Err(Reason::PortInUse) => {
                            let last = &model[&port.unwrap()];
                            prop_assert!(last.freed_ms.is_none());
                        }
                        Err(Reason::PortCooling) => {
                            let last = &model[&port.unwrap()];
                            prop_assert!(last.tenant != tenant && last.freed_ms.is_some());
                        }
                        Err(Reason::PoolExhausted) => prop_assert!(port.is_none()),
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                }
            }
            let leases = table.ports.leases().iter();
            let leases = leases.map(|(port, lease)| (*port, Lease::clone(lease)));
            let again = Ports::new(leases, table.ports.waiting().clone());
            prop_assert_eq!(&table.ports, &again, "the indexes say what the tables say");
            let leased: BTreeMap<u16, &str> = table.ports.leases().iter()
                .map(|((_, port), lease)| (*port, &*lease.tenant)).collect();
            let expected: BTreeMap<u16, &str> =
                proxies.iter().map(|((tenant, _), port)| (*port, *tenant)).collect();
            prop_assert_eq!(leased, expected, "the table and the model agree");
            let cooling = |port: &u16| model.get(port).is_some_and(|last| {
                last.freed_ms.is_none_or(|freed| table.now_ms < freed + 150)
            });
            let free = POOL.filter(|port| !cooling(port)).count();
            prop_assert_eq!(table.ports.free(Protocol::Tcp, &pool(), table.now_ms), free);
        }
    }
}
