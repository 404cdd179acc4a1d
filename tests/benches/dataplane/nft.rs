//! Beside nftables, per packet: frames that the kernel receives, in its own loop, so that what stands at nft's
//! ingress hook sees them as it would a card's.

use std::io::Write as _;
use std::process::{Command, Stdio};

use totoro_report::{Better, Figure, Relative, Run};

use crate::classes::{DROP, PASS, SIZES, Who};
use crate::packets::{FREE, LEASED, OTHERS, V4, segment, syn};
use crate::programs::{Packets, Program, SOURCES};
use crate::shield;
use crate::{Args, Progress};

/// The part.
pub(crate) const PART: &str = "nft";

const NOTHING: &str = "empty program, frames received";
const NFT: &str = "nftables, equal set";

/// A packet, and where it may go to.
struct Class {
    name: &'static str,
    packet: Vec<u8>,
    verdict: u32,
    /// Whether each goes to another of the leased ports.
    spread: bool,
}

fn classes() -> [Class; 5] {
    let class = |name, packet| Class {
        name,
        packet,
        verdict: PASS,
        spread: false,
    };
    [
        class("not ours: SYN, IPv4", syn(V4, OTHERS)),
        class("established: TCP, IPv4", segment(V4, LEASED)),
        class("SYN to a lease, IPv4", syn(V4, LEASED)),
        Class {
            spread: true,
            ..class("SYN, each to another lease, IPv4", syn(V4, LEASED))
        },
        Class {
            verdict: DROP,
            ..class("SYN to no lease, IPv4: dropped", syn(V4, FREE))
        },
    ]
}

/// TCP ports that are leased of a node's leases: there are not more.
fn ports(leases: u32) -> u32 {
    leases.min(u16::MAX as u32 - LEASED as u32 + 1)
}

/// The ports that somebody has. Made once for each size: the kernel takes a third of a minute for all of them.
fn table(leases: u32) -> String {
    let open = (u32::from(LEASED)..).take(ports(leases) as usize);
    let open: Vec<String> = open.map(|port| port.to_string()).collect();
    let open = open.join(", ");
    format!(
        "flush ruleset\ntable netdev shield {{ set open {{ type inet_service; elements = {{ {open} }}\n}}\n}}\n"
    )
}

/// The same as the shield: SYNs to the pool pass where somebody has the port; what is dropped is counted, as Totoro
/// does. Frames that are received in the test come by the namespace's `lo`.
fn chain() -> String {
    format!(
        "table netdev shield {{ chain shield {{ type filter hook ingress device lo priority 0\n\
         tcp flags & (fin | syn | rst | ack) == syn tcp dport {FREE}-65535 tcp dport != @open counter drop\n}}\n}}\n"
    )
}

/// Has nft do something; what it says.
fn nft(args: &[&str], rules: &str) -> std::io::Result<String> {
    let mut nft = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    nft.stdin
        .take()
        .expect("piped")
        .write_all(rules.as_bytes())?;
    let done = nft.wait_with_output()?;
    assert!(done.status.success(), "nft {args:?}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// How many packets it dropped.
fn dropped() -> u64 {
    let chain = ["list", "chain", "netdev", "shield", "shield"];
    let said = nft(&chain, "").expect("nft");
    let count = said.split_once("counter packets ").and_then(|(_, rest)| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    count.unwrap_or_else(|| panic!("no counter: {said}"))
}

/// Measures, and adds the figures.
pub(crate) fn measure(args: &Args, run: &mut Run, progress: &Progress) {
    run.baseline(NOTHING, "the empty program, no rules");
    let version = nft(&["--version"], "").map(|said| said.trim().to_owned());
    let why = "not measured: nft is not on this machine (apt-get install nftables)";
    run.baseline(NFT, version.as_deref().unwrap_or(why));
    let frames = args.repeat.max(1_000);
    run.note(format!(
        "Beside nftables: BPF_F_TEST_XDP_LIVE_FRAMES, {frames} frames a run, {} rounds, in turns. The kernel makes a packet \
         of each frame that XDP passes, and has it meet the ingress hook on `lo` of the bench's namespace and the \
         stack, which drops it there, as it is for another card's address; all of that is in all figures. nft \
         looks at SYNs alone, and counts what it drops.",
        args.rounds
    ));
    let (object, baseline) = (args.object(), args.baseline());
    let mut nothing = shield::nothing(&baseline);
    for (nth, size) in SIZES.into_iter().enumerate() {
        let leases = size.leases;
        // Whose they are is nothing to nftables.
        if size.tenants < leases {
            continue;
        }
        let mut totoro = shield::totoro(&object, &baseline, Who::Totoro(nth).node());
        if version.is_ok() {
            nft(&["-f", "-"], &table(leases)).expect("nft");
        }
        for class in classes() {
            if class.name.contains(&args.class) {
                one(
                    args,
                    &class,
                    leases,
                    [&mut totoro, &mut nothing],
                    version.is_ok(),
                    run,
                );
            }
        }
        progress.says(&format!("beside nftables, {leases} leases"));
    }
    if version.is_ok() {
        nft(&["flush", "ruleset"], "").expect("nft");
    }
}

/// Measures a class on a node with so many leases.
fn one(
    args: &Args,
    class: &Class,
    leases: u32,
    [totoro, nothing]: [&mut Program; 2],
    has_nft: bool,
    run: &mut Run,
) {
    let packets = match class.spread {
        true => Packets::Others {
            sources: SOURCES,
            first: LEASED,
            count: ports(leases),
        },
        false => Packets::Same,
    };
    let frames = args.repeat.max(1_000);
    let mut took: [Vec<f64>; 3] = Default::default();
    for round in 0..args.rounds {
        for nth in 0..3 {
            let nth = (nth + round) % 3;
            match nth {
                0 => {
                    let (_, verdict) = totoro.run(&class.packet, packets, 1);
                    assert_eq!(verdict, class.verdict, "{}", class.name);
                    took[0].push(totoro.receive(&class.packet, packets, frames));
                }
                1 => took[1].push(nothing.receive(&class.packet, packets, frames)),
                _ if has_nft => {
                    nft(&["-f", "-"], &chain()).expect("nft");
                    took[2].push(nothing.receive(&class.packet, packets, frames));
                    let all = class.verdict == DROP;
                    assert_eq!(
                        dropped() >= u64::from(frames),
                        all,
                        "{}: by nft",
                        class.name
                    );
                    nft(&["delete", "chain", "netdev", "shield", "shield"], "").expect("nft");
                }
                _ => {}
            }
        }
    }
    let [ours, nothing, theirs] = took;
    let part = "A frame received, beside nftables";
    let name = format!("{}, {leases} leases", class.name);
    let figure = Figure::new(part, &name, "ns", Better::Less, ours);
    let figure = figure.against_empty(NOTHING, &nothing, None);
    let goal = Some(Relative::at_most(1.0));
    run.add(match has_nft {
        true => figure.against(NFT, &theirs, goal),
        false => figure.lacks(NFT, goal),
    });
}
