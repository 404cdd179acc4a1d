//! What is measured: frps and frpc in a lab of their own, alone or with something at the node's door. Who
//! is not being measured is frozen, so that it takes no processor from who is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use totoro_api::Reason;
use totoro_node::kernel::Inspector;
use totoro_tests::hostile::client::{Client, Way};
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{self, Lab, NODE_CLIENT_V4, Options, Process, Tools};
use totoro_tests::story::World;
use totoro_tests::story::frpc::{self, PATIENCE, Proxy};
use totoro_tests::story::frps;

use super::{Args, NODE_CPU, postponed};
use crate::net::service::Service;

/// Who was frozen has this long to do what fell due meanwhile (keepalives, heartbeats, timers, what a daemon does
/// each second): it is no part of what is measured, where it would be ten times as much as it is in life.
const WAKES: Duration = Duration::from_millis(1_200);

/// What Totoro gives its own frps, but for the plugin, and the web server that it asks.
const ALIKE: &str = "bindPort = 7000\nuserConnTimeout = 10\ntransport.tls.force = true\n\
    [[allowPorts]]\nstart = 20000\nend = 20099\n";

/// Ports under one limit.
pub(super) struct Tenant {
    /// Its name.
    pub(super) name: &'static str,
    /// Where Totoro is: its limits.
    pub(super) limits: Value,
    /// Its pool ports.
    pub(super) ports: Vec<u16>,
}

/// A column of a table.
pub(super) struct Place {
    /// Its name.
    pub(super) name: &'static str,
    ground: Ground,
    _service: Service,
    _running: Vec<Process>,
    _clients: Vec<Client>,
}

enum Ground {
    /// With control plane and node.
    World(Box<World>),
    /// Without.
    Lab(Box<Lab>),
}

impl Place {
    /// frps and frpc of the tools, with the settings that Totoro gives its own, and none of Totoro.
    ///
    /// # Errors
    /// The lab can't be had, or a proxy does not run.
    pub(super) fn stock(name: &'static str, tenants: &[Tenant], more: &str) -> Result<Place> {
        Place::without(name, tenants, &format!("{ALIKE}{more}"), true)
    }

    /// The same with frps's own settings and environment.
    ///
    /// # Errors
    /// The lab can't be had, or a proxy does not run.
    pub(super) fn as_it_comes(name: &'static str, tenants: &[Tenant]) -> Result<Place> {
        Place::without(name, tenants, "bindPort = 7000\n", false)
    }

    fn without(
        name: &'static str,
        tenants: &[Tenant],
        settings: &str,
        with_environment: bool,
    ) -> Result<Place> {
        let tools = Tools::locate()?;
        tools.require()?;
        let tag = format!("{}-{}", lab::run_tag(), ground());
        let lab = Lab::raise(tools, Options { tag, keep: false })?;
        let service = Service::start(lab.ns(lab::Place::Client), false)?;
        let colour = "log.disablePrintColor = true\n";
        std::fs::write(lab.file("frps.toml"), format!("{colour}{settings}"))?;
        let mut frps = lab.command(&lab.tools.frps);
        frps.arg("-c").arg(lab.file("frps.toml"));
        if with_environment {
            frps.envs(frps::environment());
        }
        let mut frps = lab.start(lab::Place::Node, "frps", frps)?;
        frps.wait_line("frps started successfully", PATIENCE)?;
        let mut running = vec![frps];
        for tenant in tenants {
            let head = format!("serverAddr = \"{NODE_CLIENT_V4}\"\nserverPort = 7000\n");
            let proxies = proxies(tenant, service.tcp);
            let file = lab.file(&format!("{}.toml", tenant.name));
            std::fs::write(&file, frpc::with_proxies(&head, &proxies))?;
            let mut frpc = lab.command(&lab.tools.frpc);
            frpc.arg("-c").arg(file);
            let mut frpc = lab.start(lab::Place::Client, tenant.name, frpc)?;
            for proxy in &proxies {
                let line = format!("[{}] start proxy success", proxy.name);
                frpc.wait_line(&line, PATIENCE)?;
            }
            running.push(frpc);
        }
        Ok(Place {
            name,
            ground: Ground::Lab(Box::new(lab)),
            _service: service,
            _running: running,
            _clients: Vec::new(),
        })
    }

    /// The same below Totoro, whose node has this `xdp` setting.
    ///
    /// # Errors
    /// The lab can't be had, or a proxy does not run.
    pub(super) fn guarded(
        name: &'static str,
        tenants: &[Tenant],
        xdp: &'static str,
    ) -> Result<Place> {
        let world = quiet_world(&ground(), &[("xdp", xdp)])?;
        let service = Service::start(world.lab.ns(lab::Place::Client), false)?;
        let clients = tenants.iter().map(|tenant| {
            let (limits, proxies) = (tenant.limits.clone(), proxies(tenant, service.tcp));
            Client::start(&world, tenant.name, limits, Way::PLAIN, &proxies)
        });
        let clients = clients.collect::<Result<_>>()?;
        Ok(Place {
            name,
            ground: Ground::World(Box::new(world)),
            _service: service,
            _running: Vec::new(),
            _clients: clients,
        })
    }

    /// Its namespaces.
    pub(super) fn lab(&self) -> &Lab {
        match &self.ground {
            Ground::World(world) => &world.lab,
            Ground::Lab(lab) => lab,
        }
    }

    /// Processor time of all that is on its node so far, while it alone is not frozen: of its processes, and
    /// of what is postponed on their processor.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn processor(&self) -> Result<Duration> {
        Ok(self.lab().processor()? + postponed()?)
    }

    /// How its node filters an interface, by the kernel's links: `xdp-native`, `xdp-generic`, `tc-in`, or
    /// `None` where Totoro is not.
    ///
    /// # Errors
    /// There is a node, and no link.
    pub(super) fn filter(&self, interface: &str) -> Result<Option<String>> {
        let Ground::World(world) = &self.ground else {
            return Ok(None);
        };
        let links = world.lab.pin_root().join("v1/links");
        let kinds = ["xdp-native", "xdp-generic", "tc-in"];
        let names = std::fs::read_dir(&links).context("the links")?.flatten();
        let names: Vec<String> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let kind = kinds.into_iter().find(|kind| {
            let of = |name: &String| name.starts_with(kind) && name.ends_with(interface);
            names.iter().any(of)
        });
        let kind = kind.with_context(|| format!("no filter on {interface} among {names:?}"))?;
        Ok(Some(kind.to_owned()))
    }

    /// Freezes it, on the node's processor.
    ///
    /// # Errors
    /// The place can't be frozen, or there is no such processor.
    pub(super) fn settle(&self) -> Result<()> {
        self.lab().freeze(true)?;
        self.lab().keep_to(NODE_CPU)
    }

    /// Runs something with this place alone not frozen.
    ///
    /// # Errors
    /// It fails, or the place can't be frozen.
    pub(super) fn alone<T>(&self, work: impl FnOnce(&Place) -> Result<T>) -> Result<T> {
        self.lab().freeze(false)?;
        std::thread::sleep(WAKES);
        let done = work(self).with_context(|| self.name.to_owned());
        self.lab().freeze(true)?;
        done
    }

    /// How many packets Totoro has refused, because nobody has their port; `None` where it is not.
    ///
    /// # Errors
    /// The maps can't be read.
    pub(super) fn refused(&self) -> Result<Option<u64>> {
        let Ground::World(world) = &self.ground else {
            return Ok(None);
        };
        let all = Inspector::open(&world.lab.pin_root())?.refused()?;
        let closed = all.iter().filter(|row| row.reason == Reason::NoLease);
        Ok(Some(closed.map(|row| row.count).sum()))
    }
}

/// How a place is made.
pub(super) type Maker = Box<dyn Fn() -> Result<Place>>;

/// Makes places, and begins with another one each time. Each has its luck, which is worth some percent of what
/// it does for as long as it lives (where its memory lies, which processor its queues are served by), and so
/// has who comes first: what is compared is made anew many times.
///
/// # Errors
/// One can't be made.
pub(super) fn raise(makers: &[Maker], generation: usize) -> Result<Vec<Place>> {
    let first = generation % makers.len();
    let (later, sooner) = makers.split_at(first);
    let made = sooner.iter().chain(later).map(|make| make());
    let mut places = made.collect::<Result<Vec<_>>>()?;
    places.rotate_right(first);
    Ok(places)
}

/// Measures at places that are made anew for every few rounds, all in turn. `make` has what must live as long
/// as they do beside them. The places' names, and what `work` gave: rounds are rows.
///
/// # Errors
/// A place can't be made or frozen, or something fails at one.
pub(super) fn generations<K, T>(
    args: &Args,
    rounds: usize,
    says: impl Fn(&str),
    mut make: impl FnMut(usize) -> Result<(Vec<Place>, K)>,
    work: impl Fn(&Place, &K) -> Result<T>,
) -> Result<(Vec<&'static str>, Vec<Vec<T>>)> {
    let (mut names, mut all) = (Vec::new(), Vec::new());
    for generation in 0..args.generations {
        let (places, beside) = make(generation)?;
        for place in &places {
            place.settle()?;
        }
        for round in 0..rounds {
            let round = generation * rounds + round;
            all.push(in_turn(&places, round, |place| work(place, &beside))?);
        }
        names = places.iter().map(|place| place.name).collect();
        says(&format!(
            "generation {} of {}",
            generation + 1,
            args.generations
        ));
    }
    Ok((names, all))
}

/// Runs something at each place, in turn and in another order each round; what it gave, by place.
///
/// # Errors
/// It fails somewhere.
pub(super) fn in_turn<T>(
    places: &[Place],
    round: usize,
    mut work: impl FnMut(&Place) -> Result<T>,
) -> Result<Vec<T>> {
    let mut done: Vec<Option<T>> = places.iter().map(|_| None).collect();
    for turn in 0..places.len() {
        // Every other round goes the other way, so that nobody always comes after the same one.
        let turn = if round.is_multiple_of(2) {
            turn
        } else {
            places.len() - 1 - turn
        };
        let nth = (turn + round / 2) % places.len();
        done[nth] = Some(places[nth].alone(&mut work)?);
    }
    Ok(done.into_iter().flatten().collect())
}

/// A name for the next lab.
fn ground() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("tunnel{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn proxies(tenant: &Tenant, service: u16) -> Vec<Proxy> {
    let of = |port: &u16| Proxy::new(&format!("p{port}"), "tcp", service, *port);
    tenant.ports.iter().map(of).collect()
}
