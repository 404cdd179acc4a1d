//! Where bursts come down: a node, an invite for each limit, and two anonymous visitors, whose connections
//! are counted under a ceiling of all of them together, too (the kernel's `parent`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use totoro_api::Reason;
use totoro_ebpf::abi::{NODE, TCP};
use totoro_ebpf::logic::admit::FORGOTTEN;
use totoro_node::kernel::Inspector;
use totoro_tests::hostile::client::{Client, USERS_DOOR, Way as Tunnel};
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{CLIENT_V4, CLIENT_V4_B, NODE_USER_V6, Place, Process, USER_V4};
use totoro_tests::story::frpc::Proxy;
use totoro_tests::story::{World, within};

use super::refusals::Refused;
use super::visitors::{CEILING, VISITOR, open, visitor};
use crate::net::capture::Capture;
use crate::net::crowd::{Crowd, Way};
use crate::net::service::Service;
use crate::net::truth::{cookies, mac, sockets};

/// How long a crowd may take to know where it stands.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited for what would go wrong late.
pub(super) const LATE: Duration = Duration::from_millis(200);
/// A total is set, and never reached: only so it is counted.
const SETTINGS: [(&str, &str); 2] = [("xdp", "\"auto\""), ("max_conns_total", "20000")];
/// The first pool port.
const FIRST: u16 = 20_000;
/// Users' IPv4 addresses, beside their machine's first: no source's own limits are in the way.
const SOURCES: std::ops::Range<u8> = 16..32;
/// An address of the wire that nobody has.
const NOBODY: &str = "02:00:00:00:77:99";
/// A source that is being removed is marked by [`FORGOTTEN`]; who comes meanwhile adds one and takes it back.
const KNOCKS: u64 = 64;

/// How the handshakes of a burst end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    AsTheyCome,
    Together,
}

/// The node and its tenants.
pub(super) struct Field {
    world: World,
    pub(super) service: Service,
    kernel: Inspector,
    /// Who is burst upon at once: each invite by itself, then the visitors.
    pub(super) groups: Vec<Group>,
    way: Way,
    /// The users' address on the wire.
    users: String,
}

/// Tenants that are burst upon at once, and what they may have together.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) max: u32,
    pub(super) tenants: Vec<Tenant>,
    /// The number in the kernel whose limit `max` is.
    number: u32,
}

/// A tenant that frpc uses.
pub(super) struct Tenant {
    /// What it may have of connections.
    pub(super) max: u32,
    pub(super) port: u16,
    /// Its number in the kernel, and its parent's.
    number: u32,
    parent: u32,
    frpc: Process,
}

/// What the kernel has counted of a group so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Connections.
    pub(super) admitted: u64,
    /// Connections that were one too many.
    pub(super) surplus: u64,
    /// Refusals, by the socket lookup or as one too many.
    pub(super) refused: u64,
}

impl Field {
    /// Raises it.
    ///
    /// # Errors
    /// The lab can't be had, or a proxy does not run.
    pub(super) fn raise(limits: &[u32]) -> Result<Field> {
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
        let proxy = |port| [Proxy::new("web", "tcp", service.tcp, port)];
        let mut running = Vec::new();
        for (max, port) in limits.iter().zip(FIRST..) {
            let limits = json!({
                "max_conns": max, "max_conns_per_source": max, "conn_rate": 100_000, "max_proxies": 1
            });
            let invite = world.invite(&format!("max-{max}"), limits)?;
            let name = format!("max-{max}");
            let client = Client::of(&world, &name, &invite, Tunnel::PLAIN, &proxy(port))?;
            running.push((*max, port, client.frpc));
        }
        let kernel = Inspector::open(&world.lab.pin_root())?;
        open(&world)?;
        for (nth, from) in [CLIENT_V4, CLIENT_V4_B].into_iter().enumerate() {
            let port = FIRST + 90 + nth as u16;
            let frpc = visitor(&world, from, &proxy(port))?;
            running.push((VISITOR, port, frpc));
        }
        let tenants = tenants(&kernel, running)?;
        let mut field = Field {
            users: mac(&world.lab, Place::User, "eth0")?,
            world,
            service,
            kernel,
            groups: Vec::new(),
            way,
        };
        field.groups = field.grouped(tenants)?;
        // From here on nobody has to be asked for an address of the wire, which would lose answers.
        field.deafen(false)?;
        Ok(field)
    }

    /// Each invite by itself, and the visitors together, whose ceiling must be there.
    fn grouped(&self, tenants: Vec<Tenant>) -> Result<Vec<Group>> {
        let (visitors, invites): (Vec<_>, Vec<_>) =
            tenants.into_iter().partition(|one| one.parent != 0);
        ensure!(visitors.len() == 2, "the visitors have no parent");
        let parent = visitors[0].parent;
        let ceiling = within(PATIENCE, || {
            let policy = self.kernel.tenant(parent)?;
            Ok(policy.filter(|policy| policy.max_conns == CEILING))
        });
        ceiling.context("the visitors' ceiling is not in the kernel")?;
        let alone = |tenant: Tenant| Group {
            name: format!("max_conns {}", tenant.max),
            max: tenant.max,
            number: tenant.number,
            tenants: vec![tenant],
        };
        let mut groups: Vec<Group> = invites.into_iter().map(alone).collect();
        groups.push(Group {
            name: format!("2 × max_conns {VISITOR} below {CEILING}"),
            max: CEILING,
            number: parent,
            tenants: visitors,
        });
        Ok(groups)
    }

    /// Starts a crowd of so many at each tenant's port, and waits until all know where they stand.
    ///
    /// # Errors
    /// Sockets can't be had.
    pub(super) fn begin(
        &self,
        group: &Group,
        count: usize,
        ends: Ends,
        name: u32,
    ) -> Result<Vec<Crowd>> {
        if ends == Ends::Together {
            self.deafen(true)?;
        }
        let each = count / group.tenants.len();
        let crowds = std::thread::scope(|scope| {
            let names = name * group.tenants.len() as u32..;
            let crowds: Vec<_> = names
                .zip(&group.tenants)
                .map(|(name, tenant)| {
                    let port = tenant.port;
                    let way = Way {
                        port,
                        ..self.way.clone()
                    };
                    scope.spawn(move || Crowd::start(&way, each, name))
                })
                .collect();
            let joined = crowds.into_iter().map(|crowd| {
                let crowd = crowd.join().ok();
                crowd.context("a crowd panicked")?
            });
            joined.collect::<Result<Vec<Crowd>>>()
        });
        if ends == Ends::Together {
            std::thread::sleep(LATE);
            self.deafen(false)?;
        }
        let mut crowds = crowds?;
        all(&mut crowds, |crowd| crowd.settle(PATIENCE))?;
        Ok(crowds)
    }

    /// Sends what the node answers to nobody, or to the users again.
    fn deafen(&self, yes: bool) -> Result<()> {
        let v6 = NODE_USER_V6.replace("::1", "::2");
        let users = self.way.sources.iter().map(ToString::to_string);
        let to = if yes {
            format!("{NOBODY} dev us0 nud permanent")
        } else {
            format!("{} dev us0 nud permanent", self.users)
        };
        let lines: Vec<String> = users
            .chain([v6])
            .map(|user| format!("neigh replace {user} lladdr {to}\n"))
            .collect();
        let file = self.world.lab.file("neighbours");
        std::fs::write(&file, lines.concat()).context("write ip's batch")?;
        let node = self.world.lab.ns(Place::Node);
        node.ip(&["-batch", &file.to_string_lossy()])
    }

    /// Begins to look at a group's packets on the node's wire.
    ///
    /// # Errors
    /// No packet socket can be had.
    pub(super) fn capture(&self, group: &Group) -> Result<Capture> {
        Capture::start(self.world.lab.ns(Place::Node), "us0", &group.ports())
    }

    /// Ends that; what the node refused, as the wire has it.
    ///
    /// # Errors
    /// The capture lost a frame.
    pub(super) fn refused(&self, capture: Capture) -> Result<Refused> {
        Ok(Refused::of(&capture.finish()?))
    }

    /// Connections of each tenant of a group, by ss.
    ///
    /// # Errors
    /// `ss` can't be run.
    pub(super) fn live(&self, group: &Group) -> Result<Vec<u64>> {
        let sockets = sockets(&self.world.lab, &group.ports())?;
        Ok(sockets.iter().map(|of| of.live).collect())
    }

    /// SYNs that were answered by a cookie so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn cookies(&self) -> Result<u64> {
        cookies(self.world.frps.as_ref().context("frps runs")?.pid())
    }

    /// What was counted of a group so far.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn counts(&self, group: &Group) -> Result<Counts> {
        let all = self.kernel.tenants()?;
        let refused = self.kernel.refused()?;
        let mut counts = Counts::default();
        for tenant in &group.tenants {
            let row = all.iter().find(|(number, ..)| *number == tenant.number);
            let (_, _, of) = row.context("the tenant is not in the kernel")?;
            counts.admitted += of.usage.admitted;
            counts.surplus += of.usage.surplus;
            // Packets of connections that were one too many have a reason of their own; what the shield
            // drops by a budget of SYNs is answered by nothing, and comes again.
            let shield = [Reason::Surplus, Reason::ConnRate, Reason::RateLimited];
            let rows = refused.iter().filter(|row| row.tenant == tenant.number);
            let rows = rows.filter(|row| !shield.contains(&row.reason));
            counts.refused += rows.map(|row| row.count).sum::<u64>();
        }
        Ok(counts)
    }

    /// By how much the kernel counts more for a group or one of its tenants than it may have, at most, while
    /// others play.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn watch(&self, group: &Group, stop: &AtomicBool) -> Result<u64> {
        let kernel = Inspector::open(&self.world.lab.pin_root())?;
        let of_each = group.tenants.iter().map(|one| (one.number, one.max));
        let bounds: Vec<(u32, u32)> = of_each.chain([(group.number, group.max)]).collect();
        let mut most = 0;
        while !stop.load(Ordering::SeqCst) {
            for (number, _, counts) in kernel.tenants()? {
                let mut bounds = bounds.iter();
                if let Some((_, max)) = bounds.find(|(of, _)| *of == number) {
                    most = most.max(counts.usage.conns.saturating_sub((*max).into()));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(most)
    }

    /// What the kernel counts for a group, in all the places where it counts.
    ///
    /// # Errors
    /// A map can't be read.
    pub(super) fn left(&self, group: &Group) -> Result<u64> {
        let numbers: Vec<u32> = group.tenants.iter().map(|one| one.number).collect();
        let is_ours = |number: u32| numbers.contains(&number);
        let all = self.kernel.tenants()?;
        let counted = all.iter();
        let counted =
            counted.filter(|(number, ..)| is_ours(*number) || *number == group.tenants[0].parent);
        let conns = sum(counted.map(|(_, _, counts)| counts.usage.conns));
        let (ports, ours) = (self.kernel.ports()?, group.ports());
        let leased = ports
            .iter()
            .filter(|(key, ..)| key.proto == TCP && ours.contains(&key.port));
        let on_ports = sum(leased.map(|(_, _, usage)| usage.conns));
        let sources = self.kernel.sources()?;
        let of_sources = sources.iter().filter(|(key, source)| {
            is_ours(key.tenant) && source.conns.abs_diff(FORGOTTEN) > KNOCKS
        });
        let of_sources = sum(of_sources.map(|(_, source)| source.conns));
        let table = self.kernel.connections()?;
        let rows = table.iter().filter(|row| is_ours(row.conn.tenant));
        // Nobody else is on the node.
        let all = self.kernel.counts(NODE)?.usage.conns;
        Ok(sum([conns, on_ports, of_sources, rows.count() as u64, all]))
    }

    /// Ends every frpc in good order.
    pub(super) fn end(self) {
        for tenant in self.groups.into_iter().flat_map(|group| group.tenants) {
            tenant.frpc.stop();
        }
    }
}

impl Group {
    fn ports(&self) -> Vec<u16> {
        self.tenants.iter().map(|one| one.port).collect()
    }
}

/// A count that went below 0 is a huge one: the sum stays huge, and does not come round to 0.
fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Does something with all crowds at once.
///
/// # Errors
/// It fails with one.
pub(super) fn all(
    crowds: &mut [Crowd],
    work: impl Fn(&mut Crowd) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let each = crowds
            .iter_mut()
            .map(|crowd| scope.spawn(move || work(crowd)));
        let each: Vec<_> = each.collect();
        each.into_iter()
            .try_for_each(|one| one.join().ok().context("a crowd panicked")?)
    })
}

/// Who has the ports.
fn tenants(kernel: &Inspector, running: Vec<(u32, u16, Process)>) -> Result<Vec<Tenant>> {
    let ports = kernel.ports()?;
    let tenants = running.into_iter().map(|(max, port, frpc)| {
        let mut leases = ports.iter();
        let leased = leases.find(|(key, ..)| (key.proto, key.port) == (TCP, port));
        let number = leased.with_context(|| format!("{port} is not leased"))?;
        let number = number.1.tenant;
        let policy = kernel.tenant(number)?;
        let policy = policy.with_context(|| format!("{port} is nobody's"))?;
        ensure!(policy.max_conns == max, "{port}: {policy:?}");
        Ok(Tenant {
            max,
            port,
            number,
            parent: policy.parent,
            frpc,
        })
    });
    tenants.collect()
}
