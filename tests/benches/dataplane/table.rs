//! The packet table (`docs/packets.md`), row by row: what documents the data plane is timed too.

use std::collections::BTreeMap;

use totoro_packets::node::{Hook, Node};
use totoro_packets::table;
use totoro_report::{Better, Figure, Run};

use crate::{Args, Progress};

pub(crate) const PART: &str = "table";

/// Runs of a row for one of another part's: there are some hundred rows, and none is compared.
const FEWER: u32 = 20;

/// A row in one of its hooks: its place in the table, its section, and its name there (without a number: rows come
/// and go before it).
type Place = (usize, String, String);

/// Measures, and adds the figures.
pub(crate) fn measure(args: &Args, run: &mut Run, progress: &Progress) {
    let repeat = (args.repeat / FEWER).max(1);
    run.note(format!(
        "The packet table: each row of docs/packets.md in each of its hooks, with what the row says in the maps; {} \
         rounds of {repeat} runs each, by the kernel's own clock, in whole ns and with its loop. Where a packet \
         spends a budget, all but the first are refused. Small tables, all of it in the nearest cache: a row is held \
         against itself in another run (--compare), not against a goal.",
        args.rounds
    ));
    let mut node = Node::load(&args.object()).expect("load");
    let mut samples = BTreeMap::<Place, Vec<f64>>::new();
    for _ in 0..args.rounds {
        let mut place = 0;
        table::for_each(|section, row| {
            place += 1;
            if !row.what.contains(&args.class) {
                return;
            }
            for (hook, ns) in table::time(row, &mut node, repeat).expect("run") {
                let part = format!("Packet table: {}", section.title);
                let name = format!("{}: {}", word(hook), row.what);
                let of = samples.entry((place, part, name)).or_default();
                of.push(f64::from(ns));
            }
        });
    }
    for ((_, part, name), ns) in samples {
        run.add(Figure::new(&part, &name, "ns", Better::Less, ns));
    }
    progress.says("the packet table, row by row");
}

/// What a hook is called; `None` = the lookup of a socket.
const fn word(hook: Option<Hook>) -> &'static str {
    match hook {
        Some(Hook::Xdp) => "XDP",
        Some(Hook::TcIn) => "TC in",
        Some(Hook::TcOut) => "TC out",
        Some(Hook::MeterIn) => "cgroup in",
        Some(Hook::MeterOut) => "cgroup out",
        None => "lookup",
    }
}
