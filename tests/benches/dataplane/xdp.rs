//! XDP, per packet: the same bytes through Totoro's program, an empty one and xdp-filter's, in turns.

use std::path::Path;

use totoro_report::{Better, Figure, Relative, Run};

use crate::classes::{
    ADDRESSES, BANS, Class, FLOWING, FULL, LEAN, MANY_RULES, NOTHING, ONE_RULE, PASS, SIZES, Who,
    classes, crowds,
};
use crate::filter::{self, Features, Rules};
use crate::packets::{LEASED, V4, segment, syn};
use crate::programs::{Packets, Program, SOURCES};
use crate::shield;
use crate::{Args, Progress};

/// Parts of this one.
pub(crate) const PARTS: [&str; 3] = ["xdp-same", "xdp-others", "xdp-growth"];

/// What 65,536 leases may cost of what one costs.
const GROWTH: f64 = 1.2;

/// What growth is measured against.
const ONE_LEASE: &str = "1 lease";

/// TCP ports that may be leased.
const TCP_PORTS: u32 = u16::MAX as u32 - LEASED as u32 + 1;

/// All that are measured.
struct All {
    nothing: Program,
    filters: Vec<(&'static str, Program)>,
    sizes: Vec<Program>,
    banning: Program,
    banning_wide: Program,
    reads_clock: Program,
    flooded: Program,
    flowing: Vec<Program>,
    waiting: Program,
    banning_senders: Program,
}

impl All {
    fn load(args: &Args, pins: &Path, run: &mut Run) -> All {
        let (object, baseline) = (args.object(), args.baseline());
        let totoro = |who: Who| shield::totoro(&object, &baseline, who.node());
        let mut filters = Vec::new();
        match filter::dir() {
            Some(dir) => {
                let version = version_of("xdp-tools");
                let all =
                    "xdpfilt_alw_all, which a default load chooses, and one for TCP and UDP ports";
                let lean = "xdpfilt_alw_tcp, which knows no UDP and no addresses";
                for (name, features, how, ports, addresses) in [
                    (ONE_RULE, Features::All, all, 1, 0),
                    (MANY_RULES, Features::All, all, 10_000, 0),
                    (ADDRESSES, Features::All, all, 1, BANS),
                    (LEAN, Features::Tcp, lean, 1, 0),
                ] {
                    let rules = Rules {
                        features,
                        ports,
                        addresses,
                    };
                    filters.push((name, filter::load(&dir, &baseline, pins, rules)));
                    let how = format!("{how}; as the package has it, without libxdp's dispatcher");
                    run.baseline(name, &format!("xdp-tools {version}: {how}"));
                }
            }
            None => {
                let why = "not measured: xdpfilt_alw_all.o and xdpfilt_alw_tcp.o of xdp-tools are not on \
                           this machine";
                for name in [ONE_RULE, MANY_RULES, ADDRESSES, LEAN] {
                    run.baseline(name, why);
                }
            }
        }
        All {
            nothing: shield::nothing(&baseline),
            filters,
            sizes: (0..SIZES.len()).map(Who::Totoro).map(totoro).collect(),
            banning: totoro(Who::Banning),
            banning_wide: totoro(Who::BanningWide),
            reads_clock: shield::reads_clock(&object, &baseline, pins, Who::ReadsClock.node()),
            flooded: totoro(Who::Flooded),
            flowing: (0..FLOWING.len()).map(Who::Flowing).map(totoro).collect(),
            waiting: totoro(Who::Waiting),
            banning_senders: totoro(Who::BanningSenders),
        }
    }

    fn of(&mut self, who: Who) -> &mut Program {
        match who {
            Who::Totoro(size) => &mut self.sizes[size],
            Who::Banning => &mut self.banning,
            Who::BanningWide => &mut self.banning_wide,
            Who::ReadsClock => &mut self.reads_clock,
            Who::Flooded => &mut self.flooded,
            Who::Flowing(nth) => &mut self.flowing[nth],
            Who::Waiting => &mut self.waiting,
            Who::BanningSenders => &mut self.banning_senders,
        }
    }
}

/// The version of a Debian package.
fn version_of(package: &str) -> String {
    let mut query = std::process::Command::new("dpkg-query");
    let said = query
        .args(["--show", "--showformat=${Version}", package])
        .output();
    let version = said.ok().filter(|said| said.status.success());
    version.map_or_else(
        || "of unknown version".to_owned(),
        |said| String::from_utf8_lossy(&said.stdout).into_owned(),
    )
}

/// What one class took: one sample per round of each.
#[derive(Default)]
struct Samples {
    ours: Vec<f64>,
    nothing: Vec<f64>,
    filters: Vec<Vec<f64>>,
}

/// Measures, and adds the figures.
pub(crate) fn measure(args: &Args, pins: &Path, run: &mut Run, progress: &Progress) {
    run.baseline(
        NOTHING,
        "returns XDP_PASS; aya-ebpf 0.2, the same compiler as Totoro's programs",
    );
    let mut all = All::load(args, pins, run);
    progress.says("XDP: programs loaded, maps filled");
    how(args, run);
    let same = "XDP, one packet again and again";
    let others = "XDP, each packet from another source to another port";
    let full = Packets::Others {
        sources: SOURCES,
        first: LEASED,
        count: TCP_PORTS,
    };
    let mut classes = classes();
    classes.retain(|class| class.name.contains(&args.class));
    let all_of: Vec<&Class> = classes.iter().collect();
    if args.wants(PARTS[0]) {
        by_class(args, same, &mut all, &all_of, Packets::Same, run);
        progress.says("XDP: one packet");
    }
    // The driver makes IPv4 to leased ports; what is not ours stays at a port that is not ours.
    let crowds = crowds();
    let driven: Vec<&Class> = classes
        .iter()
        .filter(|class| class.name.contains("TCP, IPv4") || class.name.contains("SYN to a lease"))
        .filter(|class| !class.name.contains("IPv6"))
        .chain(
            crowds
                .iter()
                .filter(|class| class.name.contains(&args.class)),
        )
        .collect();
    if args.wants(PARTS[1]) {
        by_class(args, others, &mut all, &driven, full, run);
        progress.says("XDP: other packets");
    }
    if args.wants(PARTS[2]) {
        growth(args, &mut all, run);
        progress.says("XDP: growth");
    }
}

fn how(args: &Args, run: &mut Run) {
    run.note(format!(
        "XDP: {} rounds of {} runs by BPF_PROG_TEST_RUN for each program and class, all programs in \
         turns within a round, in another order each; before those that count, the same packet runs \
         5,000 times. A figure is this thread's processor time for one run, the kernel's loop around it \
         included; all programs get the same bytes. Budgets never end (1 ns of 1 s), so that what is to \
         pass passes; each verdict is checked. Where each packet is another, a driver (the same for \
         all) writes source and port, and calls the program; the empty program is measured behind it \
         too. A SYN that reads the clock is one in 128 ticks of the kernel's: its program finds no tick that \
         it saw, and the look into an empty hash in place of the tick's array is in the figure. \
         The node has 65,536 leases, each of another tenant, on all TCP ports from {LEASED} on.",
        args.rounds, args.repeat
    ));
}

/// Measures classes, all who concern each in turns.
fn by_class(
    args: &Args,
    part: &str,
    all: &mut All,
    classes: &[&Class],
    packets: Packets,
    run: &mut Run,
) {
    let mut samples: Vec<Samples> = classes.iter().map(|_| Samples::default()).collect();
    let concerned = |class: &&Class| {
        let all = all.filters.iter().enumerate();
        let all = all.filter(|(_, (name, _))| class.filters.contains(name));
        all.map(|(nth, _)| nth).collect()
    };
    let beside: Vec<Vec<usize>> = classes.iter().map(concerned).collect();
    for (one, beside) in samples.iter_mut().zip(&beside) {
        one.filters.resize(beside.len(), Vec::new());
    }
    for round in 0..args.rounds {
        for ((class, samples), beside) in classes.iter().zip(&mut samples).zip(&beside) {
            let packets = match packets {
                Packets::Others { .. } => class.driven(packets),
                Packets::Same => Packets::Same,
            };
            let count = 2 + beside.len();
            for nth in 0..count {
                let nth = (nth + round) % count;
                let (program, to, verdict) = match nth {
                    0 => (all.of(class.who), &mut samples.ours, class.verdict),
                    1 => (&mut all.nothing, &mut samples.nothing, PASS),
                    nth => (
                        &mut all.filters[beside[nth - 2]].1,
                        &mut samples.filters[nth - 2],
                        class.verdict,
                    ),
                };
                let (ns, found) = program.run(&class.packet, packets, args.repeat);
                assert_eq!(found, verdict, "{part}: {}, program {nth}", class.name);
                to.push(ns);
            }
        }
    }
    for ((class, samples), beside) in classes.iter().zip(samples).zip(beside) {
        let mut figure = Figure::new(part, class.name, "ns", Better::Less, samples.ours);
        figure = figure.against_empty(NOTHING, &samples.nothing, class.goal);
        // The lean one does less than is asked for: told, and no goal.
        let goal = |name| (name != LEAN).then_some(Relative::at_most(1.0));
        for (nth, theirs) in beside.into_iter().zip(&samples.filters) {
            let name = all.filters[nth].0;
            figure = figure.against(name, theirs, goal(name));
        }
        // What is not on this machine is no goal less.
        let loaded = |name: &str| all.filters.iter().any(|(loaded, _)| *loaded == name);
        for name in class.filters.iter().filter(|name| !loaded(name)) {
            figure = figure.lacks(name, goal(*name));
        }
        run.add(figure);
    }
}

/// What a packet costs over the empty program, by how many leases there are.
fn growth(args: &Args, all: &mut All, run: &mut Run) {
    run.baseline(
        ONE_LEASE,
        "the same program and packet, on a node with one lease of one tenant",
    );
    let part = "XDP over the empty program, by leases and tenants";
    for (name, packet) in [
        ("established: TCP, IPv4", segment(V4, LEASED)),
        ("SYN to a lease, IPv4", syn(V4, LEASED)),
    ] {
        if !name.contains(&args.class) {
            continue;
        }
        for driven in [false, true] {
            let mut over: Vec<Vec<f64>> = vec![Vec::new(); SIZES.len()];
            for round in 0..args.rounds {
                let mut took = [0.0; SIZES.len()];
                let mut nothing = [0.0; SIZES.len()];
                for nth in 0..2 * SIZES.len() {
                    // Each right beside its empty program: the machine has slow and fast moments.
                    let nth = (nth + 2 * round) % (2 * SIZES.len());
                    let size = nth / 2;
                    let packets = if driven {
                        Packets::Others {
                            sources: SOURCES,
                            first: LEASED,
                            count: SIZES[size].leases.min(TCP_PORTS),
                        }
                    } else {
                        Packets::Same
                    };
                    let (program, to) = if nth.is_multiple_of(2) {
                        (&mut all.sizes[size], &mut took)
                    } else {
                        (&mut all.nothing, &mut nothing)
                    };
                    let (ns, verdict) = program.run(&packet, packets, args.repeat);
                    assert_eq!(verdict, PASS, "{name}");
                    to[size] = ns;
                }
                for (size, over) in over.iter_mut().enumerate() {
                    over.push(took[size] - nothing[size]);
                }
            }
            let which = if driven {
                "each to another lease"
            } else {
                "one packet"
            };
            let one = over[0].clone();
            for (size, over) in SIZES.into_iter().zip(over) {
                let called = format!("{name}, {which}, {}", size.words());
                let mut figure = Figure::new(part, &called, "ns", Better::Less, over);
                if size.leases > 1 {
                    let is_full = size.tenants == SIZES[FULL].tenants;
                    let goal = is_full.then_some(Relative::at_most(GROWTH));
                    figure = figure.against(ONE_LEASE, &one, goal);
                }
                run.add(figure);
            }
        }
    }
}
