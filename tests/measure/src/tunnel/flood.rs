//! A flood of SYNs at a port of the pool that nobody has: what a neighbour's tunnel keeps of its throughput,
//! and what each million of them costs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use totoro_report::{Better, Figure, Goal, Relative, Run};
use totoro_tests::hostile::client::USERS_DOOR;
use totoro_tests::lab::{self, Netns};
use totoro_tests::net::{syn, user};

use super::place::{Maker, Place, generations, raise};
use super::rules::{self, Mode, Verdict, xdp};
use super::speed::{GENERIC, NATIVE, PORT, download, tenant};
use super::{Args, NODE_CPU, NOTHING, TOTORO, postponed, samples};
use crate::Progress;
use crate::net::truth::mac;

/// The flooded port: of the pool, and nobody's.
const CLOSED: u16 = 20_050;
/// Packets between two looks at the clock.
const BATCH: u64 = 32;
/// The processor that sends: what a veth pair receives is handled where it was sent, and that is the node's
/// to do.
const CPU: usize = NODE_CPU;

const NFT: &str = "nft, equal set";
/// Everything is dropped at once, at the two places where that can be.
const FLOOR: &str = "dropped unseen";
const NATIVE_FLOOR: &str = "dropped unseen, native";

/// The same as Totoro's shield: SYNs to the pool pass to ports that somebody has.
const RULES: &str = "table netdev shield {\n\
    set open { type inet_service; elements = { 20000 }\n}\n\
    chain shield { type filter hook ingress device us0 priority 0\n\
    tcp flags & (fin | syn | rst | ack) == syn tcp dport 20000-20099 tcp dport != @open drop\n}\n}\n";

/// One measurement.
#[derive(Clone, Copy)]
struct Flooded {
    /// Of the neighbour's throughput: beside the flood, over that of just before and after it.
    kept: f64,
    /// MiB per second beside the flood.
    throughput: f64,
    /// SYNs per second that the paced flood sent.
    rate: f64,
    /// Processor seconds per million, sending included.
    cost: f64,
    /// Of the SYNs sent, those that Totoro counted; 1 where it is not.
    counted: f64,
}

/// What a sender did.
struct Sent {
    packets: u64,
    seconds: f64,
    processor: f64,
}

/// Measures.
///
/// # Errors
/// A lab can't be had, or no packet can be sent.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let make = |generation| {
        let places = places(generation)?;
        if generation == 0 {
            run.baseline(NFT, &rules::nft_version(places[0].lab())?);
        }
        Ok((places, ()))
    };
    let says = |what: &str| progress.says(&format!("flood, {what}"));
    // Fewer than of the others: what differs here is larger.
    let rounds = args.rounds.div_ceil(4);
    let (names, all) = generations(args, rounds, says, make, |place, ()| flooded(place, args))?;
    let unseen = "generic XDP that drops everything at once: what sending costs";
    run.baseline(FLOOR, unseen);
    run.baseline(
        NATIVE_FLOOR,
        "the same in the driver, which copies first on a veth",
    );
    run.note(format!(
        "Flood: {} SYNs a second from forged sources to a port of the pool that nobody has, sent from one of \
         the machine's processors, beside a neighbour's download; then as many as go, of which each million's \
         processor time is told, with what sending takes (a veth pair receives where it sends) and what the \
         kernel's thread for postponed work takes on that processor. Answers go to a device that drops them.",
        args.rate
    ));
    tell(run, &names, f64::from(args.rate), &all);
    Ok(())
}

fn places(generation: usize) -> Result<Vec<Place>> {
    let floor = |name, mode| -> Maker {
        Box::new(move || {
            let place = Place::stock(name, &[], "")?;
            xdp(place.lab(), &["us0"], Verdict::Drop, mode)?;
            Ok(place)
        })
    };
    let ours =
        |name, xdp| -> Maker { Box::new(move || Place::guarded(name, &[tenant(PORT)], xdp)) };
    let makers: [Maker; 7] = [
        Box::new(|| {
            let nft = Place::stock(NFT, &[tenant(PORT)], "")?;
            rules::nft(nft.lab(), RULES)?;
            Ok(nft)
        }),
        Box::new(|| Place::stock(NOTHING, &[tenant(PORT)], "")),
        ours(TOTORO, "\"auto\""),
        ours(GENERIC, "\"generic\""),
        ours(NATIVE, "\"native\""),
        floor(FLOOR, Mode::Generic),
        floor(NATIVE_FLOOR, Mode::Native),
    ];
    let places = raise(&makers, generation)?;
    for place in &places {
        let node = place.lab().ns(lab::Place::Node);
        // A device whose other end is down drops what it is given.
        node.ip(&[
            "link", "add", "sink", "type", "veth", "peer", "name", "drain",
        ])?;
        node.ip(&["link", "set", "sink", "arp", "off", "up"])?;
        node.ip(&["route", "add", "198.18.0.0/15", "dev", "sink"])?;
        // Who drops everything answers no question for its address either.
        let mac = mac(place.lab(), lab::Place::Node, "us0")?;
        let neighbour = ["neigh", "replace", USERS_DOOR, "lladdr", &mac];
        let users = place.lab().ns(lab::Place::User);
        users.ip(&[&neighbour[..], &["dev", "eth0", "nud", "permanent"]].concat())?;
    }
    Ok(places)
}

fn is_floor(name: &str) -> bool {
    name == FLOOR || name == NATIVE_FLOOR
}

fn flooded(place: &Place, args: &Args) -> Result<Flooded> {
    let users = place.lab().ns(lab::Place::User);
    let time = Duration::from_secs_f64(args.seconds);
    let to = user::at(USERS_DOOR, PORT)?;
    let (kept, throughput, rate) = if is_floor(place.name) {
        // Nobody's tunnel is there.
        (1.0, 1.0, f64::from(args.rate))
    } else {
        let (before, _) = users.run(|| download(to, time))?;
        let stop = AtomicBool::new(false);
        let (during, sent) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| send(users, Some(args.rate), &stop, Duration::MAX));
            let during = users.run(|| download(to, time));
            stop.store(true, Ordering::SeqCst);
            let sent = flood.join().ok().context("the flood panicked")??;
            anyhow::Ok((during?.0, sent))
        })?;
        let rate = sent.packets as f64 / sent.seconds;
        let (after, _) = users.run(|| download(to, time))?;
        (2.0 * during / (before + after), during, rate)
    };
    let before = place.refused()?;
    let sent = send(users, None, &AtomicBool::new(false), time)?;
    let after = place.refused()?;
    let packets = sent.packets as f64;
    ensure!(packets > 0.0, "nothing was sent");
    Ok(Flooded {
        kept,
        throughput,
        rate,
        cost: sent.processor / packets * 1e6,
        counted: match (before, after) {
            (Some(before), Some(after)) => (after - before) as f64 / packets,
            _ => 1.0,
        },
    })
}

/// Sends SYNs until told to stop, or for a time: at a pace, or as many as go.
fn send(ns: &Netns, pace: Option<u32>, stop: &AtomicBool, time: Duration) -> Result<Sent> {
    ns.run(|| {
        lab::keep_to(CPU)?;
        let raw = Some(Protocol::from(libc::IPPROTO_RAW));
        let socket = Socket::new(Domain::IPV4, Type::RAW, raw).context("a raw socket")?;
        let door: Ipv4Addr = USERS_DOOR.parse()?;
        let (to, target) = (
            SocketAddrV4::new(door, CLOSED),
            SockaddrIn::from(SocketAddrV4::new(door, 0)),
        );
        // Made beforehand: what is measured is what becomes of them.
        let packets: Vec<[u8; 40]> = (0..4096)
            .map(|nth: u32| {
                let from = syn::forged(nth.wrapping_mul(31));
                syn::packet(SocketAddrV4::new(from, 1024 + nth as u16), to)
            })
            .collect();
        let (begun, before) = (Instant::now(), processor()?);
        let mut sent = 0_u64;
        while !stop.load(Ordering::Relaxed) && begun.elapsed() < time {
            let due = pace.map_or(u64::MAX, |pace| {
                (begun.elapsed().as_secs_f64() * f64::from(pace)) as u64
            });
            let batch = due.saturating_sub(sent).min(BATCH);
            for _ in 0..batch {
                let packet = &packets[sent as usize % packets.len()];
                sendto(socket.as_raw_fd(), packet, &target, MsgFlags::empty()).context("send")?;
                sent += 1;
            }
            if batch == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(Sent {
            packets: sent,
            seconds: begun.elapsed().as_secs_f64(),
            processor: processor()? - before,
        })
    })
}

/// Processor seconds of this thread, and of its processor's thread for postponed network work.
fn processor() -> Result<f64> {
    let own = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
    Ok((own + postponed()?).as_secs_f64())
}

fn tell(run: &mut Run, names: &[&str], pace: f64, all: &[Vec<Flooded>]) {
    let of = |name: &str, part: Part| samples(names, name, all, part);
    let tunnels: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !is_floor(name))
        .collect();
    for name in &tunnels {
        let figure = Figure::new("kept", name, "", Better::More, of(name, |one| one.kept));
        run.add(beside(figure, name, &of, |one| one.kept, [None, None]));
    }
    for name in &tunnels {
        let part: fn(&Flooded) -> f64 = |one| one.throughput;
        let figure = Figure::new(
            "beside the flood",
            name,
            "MiB/s",
            Better::More,
            of(name, part),
        );
        let goal = (*name == TOTORO).then(|| Relative::at_least(1.0));
        run.add(beside(figure, name, &of, part, [goal, None]));
    }
    for name in &tunnels {
        let rate = of(name, |one| one.rate);
        let name = format!("{name}: SYNs sent");
        let figure = Figure::new("beside the flood", &name, "/s", Better::Neither, rate);
        // Who was sent less kept more: then nothing is said by the figures above.
        run.add(figure.goal(Goal::at_least(0.95 * pace).each()));
    }
    for name in names {
        let part: fn(&Flooded) -> f64 = |one| one.cost;
        let figure = Figure::new("a million SYNs", name, "s", Better::Less, of(name, part));
        let ours = [TOTORO, GENERIC, NATIVE].contains(name);
        let goal = || ours.then(|| Relative::at_most(1.0));
        let figure = beside(figure, name, &of, part, [goal(), goal()]);
        let floor = if *name == NATIVE { NATIVE_FLOOR } else { FLOOR };
        run.add(if is_floor(name) {
            figure
        } else {
            figure.against(floor, &of(floor, part), None)
        });
    }
    for name in [TOTORO, GENERIC, NATIVE] {
        let what = format!("{name}: refusals counted of SYNs sent");
        let counted = of(name, |one| one.counted);
        let figure = Figure::new("a million SYNs", &what, "", Better::More, counted);
        run.add(figure.goal(Goal::at_least(0.99).each()));
    }
}

/// A part of a measurement.
type Part = fn(&Flooded) -> f64;

/// Beside nothing, and beside nft, with a goal for each.
fn beside(
    figure: Figure,
    name: &str,
    of: &dyn Fn(&str, Part) -> Vec<f64>,
    part: Part,
    [goal, beside_nft]: [Option<Relative>; 2],
) -> Figure {
    if name == NOTHING {
        return figure;
    }
    let figure = figure.against(NOTHING, &of(NOTHING, part), goal);
    match name {
        TOTORO | GENERIC | NATIVE => figure.against(NFT, &of(NFT, part), beside_nft),
        _ => figure,
    }
}
