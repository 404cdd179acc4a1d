//! Packets through the real programs by `BPF_PROG_TEST_RUN`: the table of the data plane, and random
//! ones. What they are compared with is in `tests/packets` and `tests/model`.

use totoro_ebpf::abi::UDP;
use totoro_packets::build::packet;
use totoro_packets::node::{Hook, Node, boot_ns};
use totoro_packets::soak::{self, Ended, Plan};
use totoro_packets::step::{Step, aftermath};
use totoro_packets::table::{self, FREE, NODE4, USER4};

use crate::support;

#[test]
fn the_table_holds() {
    let Some(object) = support::object("the_table_holds") else {
        return;
    };
    let mut node = Node::load(&object).expect("load");
    let mut wrong = Vec::new();
    table::for_each(|section, row| {
        if let Err(error) = row.check(&mut node) {
            wrong.push(format!("{}: {}: {error:#}", section.title, row.what));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_truncation_of_every_row_is_judged_as_the_model_does() {
    let Some(object) = support::object("every_truncation_of_every_row_is_judged_as_the_model_does")
    else {
        return;
    };
    let mut node = Node::load(&object).expect("load");
    table::for_each(|_, row| {
        let judged = row.check_truncations(&mut node);
        judged.unwrap_or_else(|error| panic!("{}: {error:#}", row.what));
    });
}

#[test]
fn every_row_can_be_timed() {
    let Some(object) = support::object("every_row_can_be_timed") else {
        return;
    };
    let mut node = Node::load(&object).expect("load");
    table::for_each(|_, row| {
        let took = table::time(row, &mut node, 1_000).expect("run");
        println!("{took:?} ns: {}", row.what);
        // A lookup is in no hook.
        assert_eq!(took.len(), row.hooks.len().max(1), "{}", row.what);
    });
}

#[test]
fn an_answer_to_an_outbound_flow_passes() {
    let Some(object) = support::object("an_answer_to_an_outbound_flow_passes") else {
        return;
    };
    let mut node = Node::load(&object).expect("load");
    let mut world = table::base(boot_ns());
    node.install(&world, None).expect("install");
    // A resolver on the node (or who it forwards for) asks from a pool-numbered port.
    let query = packet(NODE4, USER4, UDP, 53)
        .with(|p| p.ports.0 = FREE)
        .bytes();
    let answer = packet(USER4, NODE4, UDP, FREE)
        .with(|p| p.ports.0 = 53)
        .bytes();
    let stranger = packet(USER4, NODE4, UDP, FREE)
        .with(|p| p.ports.0 = 54)
        .bytes();
    let mut told = Vec::new();
    for (hook, frame, passes) in [
        (Hook::Xdp, &answer, false),
        (Hook::TcOut, &query, true),
        (Hook::Xdp, &answer, true),
        (Hook::TcIn, &answer, true),
        (Hook::Xdp, &stranger, false),
        (Hook::TcIn, &stranger, false),
    ] {
        let step = Step::Frame(hook, frame);
        let compared = step.run(&mut node, &mut world).expect("run").expect("sure");
        assert_eq!(compared.differ, None, "{}", step.words());
        assert_eq!(
            compared.outcome.refused.is_none(),
            passes,
            "{}",
            step.words()
        );
        told.extend(compared.outcome.told);
    }
    let lines = aftermath(&mut node, &world, &told).expect("read");
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// A hundred thousand random packets, where `TOTORO_PACKETS` asks for no other number; `cargo xtask soak
/// packets` has ten million.
#[test]
fn random_packets_are_judged_as_the_model_does() {
    let Some(object) = support::object("random_packets_are_judged_as_the_model_does") else {
        return;
    };
    let seed = support::asked("TOTORO_SEED").unwrap_or_else(|| getrandom::u64().expect("a seed"));
    let plan = Plan {
        packets: support::asked("TOTORO_PACKETS").unwrap_or(100_000),
        seed,
        threads: 2,
        progress: false,
    };
    match soak::run(&object, plan).expect("run") {
        Ended::Same(tally) => {
            println!("seed {seed}: {tally}");
            let kinds = tally.refused.len();
            assert!(kinds > 10, "only {kinds} reasons were met, seed {seed}");
            assert!(tally.stamped > 0, "no request was stamped, seed {seed}");
            let (went, not) = (tally.by_ticks, tally.unsure_by_ticks);
            assert!(
                went > not,
                "{went} worlds by ticks, {not} left out, seed {seed}"
            );
        }
        Ended::Differs(mismatch, packets) => panic!("after {packets} packets: {mismatch}"),
    }
}
