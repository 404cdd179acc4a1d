//! Bursts of users at one invite's port: never more than it may have, never fewer than there is room for,
//! and a count of 0 when all have gone.
//!
//! Each burst is made in two ways: as fast as two processors connect; and with every handshake ending at
//! once, because the node's answers reach nobody until all SYNs were judged. Half-open handshakes and last
//! ACKs with data are among them both times. When all know where they stand, those who were admitted end,
//! each in its own way, while the same burst comes again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use totoro_ebpf::abi::{NODE, TCP};
use totoro_node::kernel::Inspector;
use totoro_report::{Better, Figure, Goal, Run};
use totoro_tests::hostile::client::{Client, USERS_DOOR, Way as Tunnel};
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{NODE_USER_V6, Place, USER_V4};
use totoro_tests::story::frpc::Proxy;
use totoro_tests::story::{World, within};

use super::Args;
use crate::Progress;
use crate::net::crowd::{Crowd, Outcome, Way, peak};
use crate::net::service::Service;
use crate::net::truth::{cookies, sockets};

/// How long a crowd may take to know where it stands.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited for what would go wrong late.
const LATE: Duration = Duration::from_millis(200);
/// A total is set, and never reached: only so it is counted.
const SETTINGS: [(&str, &str); 2] = [("xdp", "\"auto\""), ("max_conns_total", "20000")];
/// The first pool port.
const FIRST: u16 = 20_000;
/// Users' IPv4 addresses, beside their machine's first: no source's own limits are in the way.
const SOURCES: std::ops::Range<u8> = 16..32;
/// An address of the wire that nobody has.
const NOBODY: &str = "02:00:00:00:77:99";

/// How the handshakes of a burst end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    AsTheyCome,
    Together,
}

/// The node and its tenants.
struct Stage {
    world: World,
    service: Service,
    kernel: Inspector,
    tenants: Vec<Tenant>,
    way: Way,
}

/// An invite that frpc uses.
struct Tenant {
    /// What it may have of connections.
    max: u32,
    port: u16,
    /// Its number in the kernel.
    number: u32,
    client: Client,
}

/// What one cell of the table gave: how much there was of what must not be; and the surplus.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    overshoot: u64,
    unused: u64,
    leaked: u64,
    cut: u64,
    foreign: u64,
    miscounted: u64,
    surplus: u64,
}

/// Measures.
///
/// # Errors
/// The lab can't be had, or a crowd does not come to rest.
pub(crate) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let stage = Stage::raise(&args.limits)?;
    progress.says("bursts: a node, and an invite for each limit");
    let mut cells = Vec::new();
    for round in 1..=args.rounds {
        for count in &args.bursts {
            for tenant in &stage.tenants {
                for ends in [Ends::AsTheyCome, Ends::Together] {
                    let name = u32::try_from(cells.len()).context("too many bursts")?;
                    let cell = stage
                        .cell(tenant, *count, ends, name)
                        .with_context(|| format!("{count} connects, max_conns {}", tenant.max))?;
                    cells.push((tenant.max, *count, cell));
                }
            }
            progress.says(&format!(
                "bursts, round {round} of {}: {count} connects",
                args.rounds
            ));
        }
    }
    tell(args, &cells, run);
    for tenant in stage.tenants {
        tenant.client.frpc.stop();
    }
    Ok(())
}

fn tell(args: &Args, cells: &[(u32, usize, Cell)], run: &mut Run) {
    run.note(
        "Bursts: each is made twice, as fast as two processors connect, and with all handshakes ending \
         together; a fifth each of the users ends normally, by RST, by FIN, with data in the handshake's last \
         ACK, and idle, and a fifth as many half-open handshakes come beside them. Overshoot: the most of what users held at any moment (a byte had \
         come and they had not ended), of ss's sockets when all were judged, and of the kernel's own count, \
         beyond max_conns. Leaked: what the kernel still counts (tenant, port, sources, table) when ss \
         shows no connection any more.",
    );
    type Part = fn(&Cell) -> u64;
    let samples = |part: Part, of: &mut dyn Iterator<Item = &(u32, usize, Cell)>| -> Vec<f64> {
        of.map(|(.., cell)| part(cell) as f64).collect()
    };
    let none = || Goal::at_most(0.0).each();
    let parts: [(&str, Part); 2] = [
        ("overshoot", |cell| cell.overshoot),
        ("leaked", |cell| cell.leaked),
    ];
    for (what, part) in parts {
        for max in &args.limits {
            for count in &args.bursts {
                let mut of = cells.iter().filter(|(m, c, _)| (m, c) == (max, count));
                let name = format!("max_conns {max}, {count} connects");
                let samples = samples(part, &mut of);
                run.add(Figure::new(what, &name, "", Better::Less, samples).goal(none()));
            }
        }
    }
    let all: [(&str, Part); 4] = [
        ("places left free while users were refused", |cell| {
            cell.unused
        }),
        ("admitted, and ended by the node", |cell| cell.cut),
        ("words of refused users that arrived", |cell| cell.foreign),
        (
            "connections that counters have otherwise than users and ss",
            |cell| cell.miscounted,
        ),
    ];
    for (what, part) in all {
        let samples = samples(part, &mut cells.iter());
        run.add(Figure::new("bursts", what, "", Better::Less, samples).goal(none()));
    }
    let surplus = samples(|cell| cell.surplus, &mut cells.iter());
    let what = "established one too many, and ended without a byte";
    run.add(Figure::new("bursts", what, "", Better::Neither, surplus));
}

impl Stage {
    fn raise(limits: &[u32]) -> Result<Stage> {
        ensure!(limits.len() < 90, "the pool has a hundred ports");
        let world = quiet_world("acc-bursts", &SETTINGS)?;
        let (user, node) = (world.lab.ns(Place::User), world.lab.ns(Place::Node));
        let sources: Vec<std::net::Ipv4Addr> =
            SOURCES.map(|last| [10, 77, 2, last].into()).collect();
        for source in &sources {
            user.ip(&["addr", "add", &format!("{source}/24"), "dev", "eth0"])?;
        }
        // The way back to forged sources, as a router would be.
        node.ip(&["route", "add", "198.18.0.0/15", "via", USER_V4])?;
        let way = Way {
            ns: user.clone(),
            sources,
            doors: vec![USERS_DOOR.parse()?, NODE_USER_V6.parse()?],
            port: 0,
        };
        let service = Service::start(world.lab.ns(Place::Client), true)?;
        let mut clients = Vec::new();
        for (max, port) in limits.iter().zip(FIRST..) {
            let limits = json!({
                "max_conns": max, "max_conns_per_source": max, "conn_rate": 100_000, "max_proxies": 1
            });
            let proxies = [Proxy::new("web", "tcp", service.tcp, port)];
            let name = format!("max-{max}");
            let client = Client::start(&world, &name, limits, Tunnel::PLAIN, &proxies)?;
            clients.push((*max, port, client));
        }
        let kernel = Inspector::open(&world.lab.pin_root())?;
        let ports = kernel.ports()?;
        let tenants = clients.into_iter().map(|(max, port, client)| {
            let leased = ports
                .iter()
                .find(|(key, ..)| (key.proto, key.port) == (TCP, port));
            let (_, lease, _) = leased.with_context(|| format!("{port} is not leased"))?;
            Ok(Tenant {
                max,
                port,
                number: lease.tenant,
                client,
            })
        });
        let tenants = tenants.collect::<Result<_>>()?;
        Ok(Stage {
            world,
            service,
            kernel,
            tenants,
            way,
        })
    }

    /// One burst, and the same again while the first one ends.
    fn cell(&self, tenant: &Tenant, count: usize, ends: Ends, name: u32) -> Result<Cell> {
        let way = Way {
            port: tenant.port,
            ..self.way.clone()
        };
        let (before, cookies) = (self.counts(tenant.number)?, self.cookies()?);
        let stop = AtomicBool::new(false);
        let ((first, second, live), counted) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(tenant.number, &stop));
            let played = (|| {
                let mut first = self.begin(&way, count, ends, 2 * name)?;
                first.hold(LATE)?;
                let live = self.live(tenant.port)?;
                first.leave();
                let mut second = self.begin(&way, count, ends, 2 * name + 1)?;
                second.hold(LATE)?;
                second.leave();
                anyhow::Ok((first, second, live))
            })();
            stop.store(true, Ordering::SeqCst);
            let most = watch.join().ok().context("the watcher panicked")??;
            anyhow::Ok((played?, most))
        })?;
        let words = self.service.words();
        let (one, other) = (first.outcome(), second.outcome());
        for outcome in [one, other] {
            ensure!(
                outcome.unknown == 0,
                "some never learned where they stand: {outcome:?}"
            );
        }
        let at_once = peak(first.spans().chain(second.spans()));
        let foreign = first.foreign(&words) + second.foreign(&words);
        drop((first, second));
        within(
            PATIENCE,
            || Ok((self.live(tenant.port)? == 0).then_some(())),
        )
        .context("all have gone, and ss shows connections")?;
        let leaked = self.left(tenant)?;
        let after = self.counts(tenant.number)?;
        let both = |part: fn(&Outcome) -> u64| part(&one) + part(&other);
        let (muted, surplus) = (both(|of| of.muted), after.1 - before.1);
        // Those whose handshake ended by a cookie may have been refused, which looks the same to them.
        let unsure = self.cookies()? - cookies;
        let most = u64::from(tenant.max);
        Ok(Cell {
            overshoot: at_once.max(live).max(counted).saturating_sub(most),
            unused: most.min(one.connects).saturating_sub(one.admitted),
            leaked,
            cut: both(|of| of.cut),
            foreign,
            miscounted: (after.0 - before.0).abs_diff(both(|of| of.admitted))
                + surplus.saturating_sub(muted)
                + muted.saturating_sub(surplus + unsure)
                + live.abs_diff(one.admitted),
            surplus,
        })
    }

    /// Starts a crowd, and waits until it knows where it stands.
    fn begin(&self, way: &Way, count: usize, ends: Ends, name: u32) -> Result<Crowd> {
        if ends == Ends::Together {
            self.deafen(true)?;
        }
        let crowd = Crowd::start(way, count, name);
        if ends == Ends::Together {
            std::thread::sleep(LATE);
            self.deafen(false)?;
        }
        let mut crowd = crowd?;
        crowd.settle(PATIENCE)?;
        Ok(crowd)
    }

    /// Sends what the node answers to nobody, or to the users again.
    fn deafen(&self, yes: bool) -> Result<()> {
        let v6 = NODE_USER_V6.replace("::1", "::2");
        let users = self.way.sources.iter().map(ToString::to_string);
        let lines: Vec<String> = users
            .chain([v6])
            .map(|user| {
                if yes {
                    format!("neigh replace {user} lladdr {NOBODY} dev us0 nud permanent\n")
                } else {
                    format!("neigh del {user} dev us0\n")
                }
            })
            .collect();
        let file = self.world.lab.file("neighbours");
        std::fs::write(&file, lines.concat()).context("write ip's batch")?;
        let node = self.world.lab.ns(Place::Node);
        node.ip(&["-batch", &file.to_string_lossy()])
    }

    /// Connections of a port, by ss.
    fn live(&self, port: u16) -> Result<u64> {
        Ok(sockets(&self.world.lab, &[port])?[0].live)
    }

    fn cookies(&self) -> Result<u64> {
        cookies(self.world.frps.as_ref().context("frps runs")?.pid())
    }

    /// Connections admitted, and one too many, so far.
    fn counts(&self, tenant: u32) -> Result<(u64, u64)> {
        let all = self.kernel.tenants()?;
        let row = all.iter().find(|(number, ..)| *number == tenant);
        let (_, _, counts) = row.context("the tenant is not in the kernel")?;
        Ok((counts.usage.admitted, counts.usage.surplus))
    }

    /// The most that the kernel counts for a tenant, while others play.
    fn watch(&self, tenant: u32, stop: &AtomicBool) -> Result<u64> {
        let kernel = Inspector::open(&self.world.lab.pin_root())?;
        let mut most = 0;
        while !stop.load(Ordering::SeqCst) {
            let all = kernel.tenants()?;
            let row = all.iter().find(|(number, ..)| *number == tenant);
            most = most.max(row.map_or(0, |(_, _, counts)| counts.usage.conns));
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(most)
    }

    /// What the kernel counts for a tenant and its port, in all the places where it counts.
    fn left(&self, tenant: &Tenant) -> Result<u64> {
        let all = self.kernel.tenants()?;
        let row = all.iter().find(|(number, ..)| *number == tenant.number);
        let conns = row.map_or(0, |(_, _, counts)| counts.usage.conns);
        let ports = self.kernel.ports()?;
        let leased = ports
            .iter()
            .find(|(key, ..)| (key.proto, key.port) == (TCP, tenant.port));
        let on_port = leased.map_or(0, |(_, _, usage)| usage.conns);
        let sources = self.kernel.sources()?;
        let of_sources: u64 = sources
            .iter()
            // A source that is being forgotten is marked by a number that no count reaches.
            .filter(|(key, source)| key.tenant == tenant.number && source.conns < 1 << 32)
            .map(|(_, source)| source.conns)
            .sum();
        let table = self.kernel.connections()?;
        let rows = table.iter().filter(|row| row.conn.tenant == tenant.number);
        // Nobody else is on the node.
        let all = self.kernel.counts(NODE)?.usage.conns;
        Ok(conns + on_port + of_sources + rows.count() as u64 + all)
    }
}
