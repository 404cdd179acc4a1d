//! Where what the maps hold is not what was expected.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use totoro_ebpf::abi;
use totoro_model::{Span, Timed, World};

use crate::words::{Key, Value};

/// What is not as expected in the maps that the programs change: a line for each entry.
#[must_use]
pub fn differences(expected: &World, found: &World, now: u64) -> Vec<String> {
    // A moment that was expected to be within a span.
    let timed = |expected: &Span, found: &Span| expected.holds(found.from);
    let mut lines = BTreeMap::new();
    let mut all = Differ {
        lines: &mut lines,
        now,
    };
    all.map(
        "PORT_USAGE",
        &expected.port_usage,
        &found.port_usage,
        |a, b| {
            let spared = |usage: &Timed<abi::PortUsage>| abi::PortUsage {
                syn_tat_ns: 0,
                ..usage.is
            };
            spared(a) == spared(b) && timed(&a.at, &b.at)
        },
    );
    all.map("USAGE", &expected.usage, &found.usage, |a, b| {
        let spared = |usage: &Timed<abi::Usage>| abi::Usage {
            last_ns: 0,
            ..usage.is
        };
        spared(a) == spared(b) && timed(&a.at, &b.at)
    });
    let same = |a: &u64, b: &u64| a == b;
    all.map(
        "FLOWS_CLOSED",
        &expected.flows_closed,
        &found.flows_closed,
        same,
    );
    let counted = |a: &Timed<u64>, b: &Timed<u64>| a.is == b.is && timed(&a.at, &b.at);
    all.map("SOURCES", &expected.sources, &found.sources, counted);
    all.map("REASONS", &expected.reasons, &found.reasons, counted);
    let same = |a: &abi::Flow, b: &abi::Flow| a == b;
    all.map("FLOWS", &expected.flows, &found.flows, same);
    all.map("CANDIDATES", &expected.candidates, &found.candidates, same);
    all.map("OUTBOUND", &expected.outbound, &found.outbound, timed);
    all.map("SKETCH", &expected.sketch, &found.sketch, timed);
    all.map("CONTROL", &expected.control, &found.control, |a, b| a == b);
    lines.into_values().collect()
}

struct Differ<'a> {
    lines: &'a mut BTreeMap<String, String>,
    now: u64,
}

impl Differ<'_> {
    fn map<K: Key + Eq + Hash, V: Value>(
        &mut self,
        name: &str,
        expected: &HashMap<K, V>,
        found: &HashMap<K, V>,
        same: impl Fn(&V, &V) -> bool,
    ) {
        let nothing = || "nothing".to_owned();
        for key in expected.keys().chain(found.keys()) {
            let (a, b) = (expected.get(key), found.get(key));
            if let (Some(a), Some(b)) = (a, b)
                && same(a, b)
            {
                continue;
            }
            let said =
                |value: Option<&V>| value.map_or_else(nothing, |value| value.words(self.now));
            let key = format!("{name} {}", key.words());
            let line = format!("{key}: expected {}, found {}", said(a), said(b));
            self.lines.insert(key, line);
        }
    }
}
