//! Where bursts come down: a node, an invite for each limit, and two anonymous visitors, whose connections
//! are counted under a ceiling of all of them together, too (the kernel's `parent`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use totoro_node::kernel::Inspector;
use totoro_tests::hostile::client::{Client, USERS_DOOR, Way as Tunnel};
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{CLIENT_V4, CLIENT_V4_B, NODE_USER_V6, Place, USER_V4};
use totoro_tests::story::frpc::Proxy;
use totoro_tests::story::{World, within};

use super::groups::{Group, Plan, tenants};
use super::visitors::{CEILING, VISITOR, open, visitor};
use crate::net::crowd::{Crowd, Way};
use crate::net::kinds::Mix;
use crate::net::service::Service;
use crate::net::truth::mac;

/// How long a crowd may take to know where it stands.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited for what would go wrong late.
pub(super) const LATE: Duration = Duration::from_millis(200);
/// The first pool port.
const FIRST: u16 = 20_000;
/// Users' IPv4 addresses, beside their machine's first: no source's budget of SYNs is in the way.
pub(super) const SOURCES: std::ops::Range<u8> = 16..32;
/// An address of the wire that nobody has.
const NOBODY: &str = "02:00:00:00:77:99";

/// How the handshakes of a burst end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    AsTheyCome,
    Together,
}

/// The node and its tenants.
pub(super) struct Field {
    pub(super) world: World,
    pub(super) service: Service,
    pub(super) kernel: Inspector,
    /// Who is burst upon at once.
    pub(super) groups: Vec<Group>,
    way: Way,
    /// The users' address on the wire.
    users: String,
}

impl Field {
    /// Raises it.
    ///
    /// # Errors
    /// The lab can't be had, or a proxy does not run.
    pub(super) fn raise(plan: &Plan) -> Result<Field> {
        ensure!(plan.invites.len() < 90, "the pool has a hundred ports");
        let settings = [("xdp", "\"auto\""), ("max_conns_total", plan.total)];
        let world = quiet_world(plan.name, &settings)?;
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
        for (nth, (invite, port)) in plan.invites.iter().zip(FIRST..).enumerate() {
            let name = format!("invite-{nth}");
            let tenant = world.invite(&name, invite.limits())?;
            let client = Client::of(&world, &name, &tenant, Tunnel::PLAIN, &proxy(port))?;
            running.push((invite.max, port, client.frpc));
        }
        let kernel = Inspector::open(&world.lab.pin_root())?;
        if plan.visitors {
            open(&world)?;
            for (nth, from) in [CLIENT_V4, CLIENT_V4_B].into_iter().enumerate() {
                let port = FIRST + 90 + nth as u16;
                let frpc = visitor(&world, from, &proxy(port))?;
                running.push((VISITOR, port, frpc));
            }
        }
        let tenants = tenants(&kernel, running)?;
        if plan.visitors {
            let mut parents = tenants.iter().map(|one| one.parent);
            let parent = parents.find(|parent| *parent != 0);
            let parent = parent.context("the visitors have no parent")?;
            let ceiling = within(PATIENCE, || {
                let policy = kernel.tenant(parent)?;
                Ok(policy.filter(|policy| policy.max_conns == CEILING))
            });
            ceiling.context("the visitors' ceiling is not in the kernel")?;
        }
        let field = Field {
            users: mac(&world.lab, Place::User, "eth0")?,
            world,
            service,
            kernel,
            groups: plan.groups(tenants),
            way,
        };
        // From here on nobody has to be asked for an address of the wire, which would lose answers.
        field.deafen(false)?;
        Ok(field)
    }

    /// Starts a crowd of so many at each tenant's port, and waits until all know where they stand. With it a
    /// moment before which none of their handshakes ended.
    ///
    /// # Errors
    /// Sockets can't be had.
    pub(super) fn begin(
        &self,
        group: &Group,
        count: usize,
        (ends, mix): (Ends, Mix),
        name: u32,
    ) -> Result<(Instant, Vec<Crowd>)> {
        let mut start = Instant::now();
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
                    scope.spawn(move || Crowd::start(&way, each, mix, name))
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
            start = Instant::now();
            self.deafen(false)?;
        }
        let mut crowds = crowds?;
        all(&mut crowds, |crowd| crowd.settle(PATIENCE))?;
        Ok((start, crowds))
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

    /// Ends every frpc in good order.
    pub(super) fn end(self) {
        for tenant in self.groups.into_iter().flat_map(|group| group.tenants) {
            tenant.frpc.stop();
        }
    }
}

/// Does something with all crowds at once.
///
/// # Errors
/// It fails with one.
pub(super) fn all<'a>(
    crowds: impl IntoIterator<Item = &'a mut Crowd>,
    work: impl Fn(&mut Crowd) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let crowds = crowds.into_iter();
        let each = crowds.map(|crowd| scope.spawn(move || work(crowd)));
        let each: Vec<_> = each.collect();
        each.into_iter()
            .try_for_each(|one| one.join().ok().context("a crowd panicked")?)
    })
}
