//! TC, per packet: what XDP's classes of packets cost where XDP is off, and what the node's answers cost on
//! their way out; beside a TC program that does nothing, in turns.

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use totoro_report::{Better, Figure, Run};

use crate::classes::{self, FULL, Who};
use crate::packets::{FREE, LEASED, OTHERS, V4, V6, answer, datagram, segment};
use crate::programs::timed;
use crate::shield;
use crate::{Args, Progress};

/// What the programs say: the next one decides, or the packet is dropped.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;

const IN: &str = "totoro_tc_in";
const OUT: &str = "totoro_tc_out";
const NOTHING: &str = "empty TC program";
const EMPTY: &str = "nothing_tc";

/// A packet on its way through one program of one node.
struct Class {
    name: &'static str,
    program: &'static str,
    packet: Vec<u8>,
    who: Who,
    verdict: u32,
}

fn ingress() -> Vec<Class> {
    let classes = classes::classes().into_iter();
    let classes = classes.filter(|class| Nodes::place(class.who).is_some());
    let classes = classes.map(|class| Class {
        name: class.name,
        program: IN,
        packet: class.packet,
        who: class.who,
        verdict: if class.verdict == classes::DROP {
            SHOT
        } else {
            UNSPEC
        },
    });
    classes.collect()
}

/// What the node sends. It looks for datagrams from pool-numbered ports alone.
fn egress() -> Vec<Class> {
    let class = |name, packet| Class {
        name,
        program: OUT,
        packet: answer(packet),
        who: Who::Totoro(FULL),
        verdict: UNSPEC,
    };
    vec![
        class("not ours: TCP, IPv4", segment(V4, OTHERS)),
        class("not ours: UDP, IPv4", datagram(V4, OTHERS)),
        class("an answer: TCP, IPv4", segment(V4, LEASED)),
        class("an answer: TCP, IPv6", segment(V6, LEASED)),
        class("an answer: UDP, IPv4", datagram(V4, LEASED)),
        class("an answer: UDP, IPv6", datagram(V6, LEASED)),
        class(
            "the node's own datagram from a pool port, IPv4",
            datagram(V4, FREE),
        ),
    ]
}

/// The nodes: with all leases; with bans too; with all budgets spent.
struct Nodes([Ebpf; 3]);

impl Nodes {
    fn load(args: &Args) -> Nodes {
        Nodes([Who::Totoro(FULL), Who::Banning, Who::Flooded].map(|who| {
            let mut ebpf = shield::filled(&mut EbpfLoader::new(), &args.object(), who.node());
            for name in [IN, OUT] {
                load(&mut ebpf, name);
            }
            ebpf
        }))
    }

    /// Where it stands; XDP has some more, which are not measured here.
    fn place(who: Who) -> Option<usize> {
        match who {
            Who::Totoro(_) => Some(0),
            Who::Banning => Some(1),
            Who::Flooded => Some(2),
            Who::BanningWide
            | Who::BanningSenders
            | Who::ReadsClock
            | Who::Waiting
            | Who::Flowing(_) => None,
        }
    }

    fn of(&self, who: Who) -> &Ebpf {
        &self.0[Nodes::place(who).expect("one of these")]
    }
}

fn load(ebpf: &mut Ebpf, name: &str) {
    let program = ebpf.program_mut(name).expect("the program");
    let program: &mut SchedClassifier = program.try_into().expect("a TC program");
    program
        .load()
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
}

fn classifier<'a>(ebpf: &'a Ebpf, name: &str) -> &'a SchedClassifier {
    let program = ebpf.program(name).expect("the program");
    program.try_into().expect("a TC program")
}

/// Measures, and adds the figures.
pub(crate) fn measure(args: &Args, run: &mut Run, progress: &Progress) {
    run.baseline(
        NOTHING,
        "returns TC_ACT_UNSPEC; aya-ebpf 0.2, the same compiler as Totoro's programs",
    );
    run.note(format!(
        "TC: as XDP with one packet again and again ({} rounds of {} runs each, in turns), through the programs \
         that the daemon attaches to an interface where XDP is off. All of a packet lies in one piece. What \
         the kernel does to make an skb of a frame is in neither figure.",
        args.rounds, args.repeat
    ));
    let mut nothing = EbpfLoader::new()
        .load_file(args.baseline())
        .expect("the baselines");
    load(&mut nothing, EMPTY);
    let nodes = Nodes::load(args);
    progress.says("TC: programs loaded, maps filled");
    for (part, classes) in [
        ("TC ingress, one packet again and again", ingress()),
        ("TC egress, one packet again and again", egress()),
    ] {
        let wanted = classes.into_iter();
        let wanted: Vec<Class> = wanted
            .filter(|one| one.name.contains(&args.class))
            .collect();
        by_class(args, part, &nodes, &nothing, &wanted, run);
        progress.says(part);
    }
}

fn by_class(
    args: &Args,
    part: &str,
    nodes: &Nodes,
    nothing: &Ebpf,
    classes: &[Class],
    run: &mut Run,
) {
    let mut samples: Vec<[Vec<f64>; 2]> = classes.iter().map(|_| Default::default()).collect();
    for round in 0..args.rounds {
        for (class, samples) in classes.iter().zip(&mut samples) {
            let both = [
                (
                    classifier(nodes.of(class.who), class.program),
                    class.verdict,
                ),
                (classifier(nothing, EMPTY), UNSPEC),
            ];
            for nth in 0..2 {
                let nth = (nth + round) % 2;
                let (program, verdict) = both[nth];
                let (ns, found) = timed(program, &class.packet, args.repeat);
                assert_eq!(found, verdict, "{part}: {}, program {nth}", class.name);
                samples[nth].push(ns);
            }
        }
    }
    for (class, [ours, nothing]) in classes.iter().zip(samples) {
        let figure = Figure::new(part, class.name, "ns", Better::Less, ours);
        run.add(figure.against_empty(NOTHING, &nothing, None));
    }
}
