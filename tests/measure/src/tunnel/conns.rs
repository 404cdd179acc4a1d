//! New connections per second through the node: with nothing in their way, below Totoro, with `ct count` of
//! nftables, and with a `NewUserConn` plugin; those that are served, and those that are refused.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use totoro_report::{Better, Figure, Relative, Run};
use totoro_tests::hostile::client::USERS_DOOR;
use totoro_tests::lab;
use totoro_tests::net::user;

use super::drive::{Plan, Series, Wants};
use super::place::{Maker, Place, Tenant, generations, raise};
use super::plugin::{self, Plugin};
use super::{Args, NOTHING, TOTORO, TWIN, rules, samples};
use crate::Progress;

/// Ports that are open, and those that are full. So many that no lease's SYN budget (2,000 a second) is in
/// the way of what the machine can do.
const OPEN: std::ops::Range<u16> = 20_000..20_024;
const FULL: std::ops::Range<u16> = 20_030..20_054;
/// Ports of nobody's, where nothing listens.
const CLOSED: std::ops::Range<u16> = 30_000..30_024;
/// Users' addresses: so many that no source's budget is in the way either.
const SOURCES: std::ops::Range<u8> = 16..40;

const AS_IT_COMES: &str = "frps as it comes";
const NFT: &str = "nft ct count";
const PLUGIN: &str = "NewUserConn plugin";

/// `max_conns` of the full ports is 1, and somebody has it.
const RULES: &str = "table inet door { chain door { type filter hook input priority 0\n\
    tcp dport 20000-20023 ct state new ct count over 60000 reject with tcp reset\n\
    tcp dport 20030-20053 ct state new ct count over 1 reject with tcp reset\n}\n}\n";

/// Measures.
///
/// # Errors
/// A lab can't be had, or a user has something else than it expects.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let make = |generation| {
        let (places, plugin) = places(generation)?;
        if generation == 0 {
            run.baseline(NFT, &rules::nft_version(places[0].lab())?);
        }
        // For as long as these places are measured.
        let held: Vec<Option<TcpStream>> = places.iter().map(hold).collect::<Result<_>>()?;
        Ok((places, (plugin, held)))
    };
    let says = |what: &str| progress.says(&format!("connections, {what}"));
    let work = |place: &Place, (plugin, _): &(Plugin, _)| both(place, plugin, args);
    let (names, rounds) = generations(args, args.rounds, says, make, work)?;
    let of = |nth: usize| {
        let row = |round: &Vec<[Series; 2]>| round.iter().map(|both| both[nth]).collect();
        rounds.iter().map(row).collect::<Vec<Vec<Series>>>()
    };
    let all = [of(0), of(1)];
    run.baseline(
        PLUGIN,
        "a bare hyper handler that answers the same bytes to everyone",
    );
    run.note(
        "Connections: users connect, have a byte back and close, some at once over 24 ports and 24 sources \
         (a lease takes 2,000 SYNs a second, of one source 500, with bursts of 8,000). Refused: by max_conns, by ct count, by \
         the plugin; beside a port where nothing listens, which is the kernel's own refusal.",
    );
    tell(run, &names, &all);
    Ok(())
}

/// Users who are served at a place, then some who are refused.
fn both(place: &Place, plugin: &Plugin, args: &Args) -> Result<[Series; 2]> {
    let time = Duration::from_secs_f64(args.seconds);
    plugin.deny(false);
    let before = place.processor()?;
    let mut served = plan(place, OPEN, Wants::Service, args)?.drive(time)?;
    let spent = place.processor()? - before;
    served.cost = spent.as_secs_f64() * 1e6 / (served.rate * args.seconds);
    plugin.deny(true);
    let full = if [NOTHING, TWIN, AS_IT_COMES].contains(&place.name) {
        CLOSED
    } else {
        FULL
    };
    let refused = plan(place, full, Wants::Refusal, args)?.drive(time)?;
    Ok([served, refused])
}

fn places(generation: usize) -> Result<(Vec<Place>, Plugin)> {
    fn tenants() -> [Tenant; 2] {
        let much = json!({ "max_conns": 60_000, "max_conns_per_source": 60_000,
            "conn_rate": 100_000, "max_proxies": 24 });
        let one = json!({ "max_conns": 1, "max_conns_per_source": 1, "conn_rate": 100_000,
            "max_proxies": 24 });
        [("open", much, OPEN), ("full", one, FULL)].map(|(name, limits, ports)| Tenant {
            name,
            limits,
            ports: ports.collect(),
        })
    }
    let stock = |name, more| -> Maker { Box::new(move || Place::stock(name, &tenants(), more)) };
    let makers = [
        stock(TWIN, ""),
        stock(NOTHING, ""),
        Box::new(|| Place::guarded(TOTORO, &tenants(), "\"auto\"")),
        Box::new(|| {
            let nft = Place::stock(NFT, &tenants(), "")?;
            rules::nft(nft.lab(), RULES)?;
            Ok(nft)
        }),
        stock(PLUGIN, plugin::SETTINGS),
        Box::new(|| Place::as_it_comes(AS_IT_COMES, &tenants())),
    ];
    let places = raise(&makers, generation)?;
    let asking = places.iter().find(|place| place.name == PLUGIN);
    let asking = asking.context("the place")?.lab();
    let plugin = Plugin::start(asking.ns(lab::Place::Node))?;
    for place in &places {
        let users = place.lab().ns(lab::Place::User);
        for source in SOURCES {
            users.ip(&[
                "addr",
                "add",
                &format!("10.77.2.{source}/24"),
                "dev",
                "eth0",
            ])?;
        }
    }
    Ok((places, plugin))
}

/// Takes the one place of the full ports, where a limit knows of it.
fn hold(place: &Place) -> Result<Option<TcpStream>> {
    if place.name != TOTORO && place.name != NFT {
        return Ok(None);
    }
    let to = user::at(USERS_DOOR, FULL.start)?;
    let mut stream = user::connect(place.lab().ns(lab::Place::User), to)?;
    std::io::Write::write_all(&mut stream, b"E")?;
    user::exchange(&mut stream, b"mine").context("the one who has the place")?;
    Ok(Some(stream))
}

fn plan(place: &Place, ports: std::ops::Range<u16>, wants: Wants, args: &Args) -> Result<Plan> {
    Ok(Plan {
        ns: place.lab().ns(lab::Place::User).clone(),
        sources: SOURCES.map(|last| [10, 77, 2, last].into()).collect(),
        door: USERS_DOOR.parse()?,
        ports: ports.collect(),
        at_once: args.users,
        wants,
    })
}

fn tell(run: &mut Run, names: &[&str], [served, refused]: &[Vec<Vec<Series>>; 2]) {
    let of =
        |name: &str, all: &[Vec<Series>], part: fn(&Series) -> f64| samples(names, name, all, part);
    let rate = |one: &Series| one.rate;
    for name in [TOTORO, TWIN, AS_IT_COMES, NFT, PLUGIN] {
        let base = of(NOTHING, served, rate);
        let mut figure = Figure::new(
            "served",
            &format!("{name}: connections"),
            "/s",
            Better::More,
            of(name, served, rate),
        );
        let goal = (name == TOTORO).then(|| Relative::at_least(0.95));
        figure = figure.against(NOTHING, &base, goal);
        if name == TOTORO {
            for other in [NFT, PLUGIN] {
                let goal = Some(Relative::at_least(1.0));
                figure = figure.against(other, &of(other, served, rate), goal);
            }
        }
        run.add(figure);
        for (what, part) in quantiles() {
            let figure = Figure::new(
                "served",
                &format!("{name}: {what}"),
                "ms",
                Better::Less,
                of(name, served, part),
            );
            run.add(figure.against(NOTHING, &of(NOTHING, served, part), None));
        }
        let what = format!("{name}: processor of frps and what is beside it, each");
        let cost: Part = |one| one.cost;
        let figure = Figure::new("served", &what, "µs", Better::Less, of(name, served, cost));
        run.add(figure.against(NOTHING, &of(NOTHING, served, cost), None));
    }
    for name in [TOTORO, NFT, PLUGIN] {
        let figure = Figure::new(
            "refused",
            &format!("{name}: refused"),
            "/s",
            Better::More,
            of(name, refused, rate),
        );
        let figure = figure.against(NOTHING, &of(NOTHING, refused, rate), None);
        let figure = match name {
            TOTORO => {
                let goal = Some(Relative::at_least(5.0));
                let figure = figure.against(PLUGIN, &of(PLUGIN, refused, rate), goal);
                figure.against(NFT, &of(NFT, refused, rate), None)
            }
            _ => figure,
        };
        run.add(figure);
    }
}

/// A part of a series.
type Part = fn(&Series) -> f64;

/// How long a connection and its byte take.
fn quantiles() -> [(&'static str, Part); 2] {
    [("p50", |one| one.p50), ("p99", |one| one.p99)]
}
