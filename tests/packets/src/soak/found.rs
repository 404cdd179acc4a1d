//! A difference, made small and printed so that it can become a row of the table.

use std::fmt::{Debug, Write as _};
use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use anyhow::Result;
use totoro_ebpf::abi;
use totoro_model::World;

use super::{Game, Stop, Watch};
use crate::node::{Node, boot_ns};
use crate::step::{Owned, aftermath};
use crate::words;

/// Has a macro do something with each of a world's maps that have keys and values.
macro_rules! each_map {
    ($each:ident) => {
        $each!(
            bans,
            ports,
            port_usage,
            tenants,
            usage,
            flows_closed,
            sources,
            flows,
            candidates,
            outbound,
            control,
            sketch,
            reasons
        )
    };
}

/// Model and kernel differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The run's seed.
    pub seed: u64,
    /// The world's number.
    pub number: u64,
    /// How many packets of it went before.
    pub packet: u64,
    /// What was run; `None` where only the maps at the end tell.
    pub step: Option<Owned>,
    /// The maps before, where they are known.
    pub before: Option<World>,
    /// How they differ.
    pub lines: Vec<String>,
}

/// Plays the world again, this time looking at everything after each step; then leaves out of the maps
/// what the difference does not need.
pub(super) fn narrow(node: &mut Node, spent: &World, mismatch: Mismatch) -> Result<Mismatch> {
    let mut game = Game::new(mismatch.seed, mismatch.number);
    let nobody = AtomicU64::new(0);
    let stop = game.play(node, Some(spent), Watch::EachStep, &nobody)?;
    node.wipe_sketch()?;
    let Stop::Differs(again) = stop else {
        return Ok(mismatch);
    };
    let mut found = *again;
    if let (Some(step), Some(before)) = (&found.step, &mut found.before) {
        shrink(node, step, before)?;
        if let Some(lines) = differ(node, step, before)? {
            found.lines = lines;
        }
    }
    Ok(found)
}

/// How model and kernel differ in one step from these maps on.
fn differ(node: &mut Node, step: &Owned, before: &World) -> Result<Option<Vec<String>>> {
    let mut world = before.clone();
    node.install(&world, None)?;
    let mut lines = Vec::new();
    if let Ok(compared) = step.step().run(node, &mut world)? {
        lines.extend(compared.differ);
        let told: Vec<_> = compared.outcome.told.into_iter().collect();
        lines.extend(aftermath(node, &world, &told)?);
    }
    // What is left in the sketch is not the next one's.
    node.wipe_sketch()?;
    Ok((!lines.is_empty()).then_some(lines))
}

/// Leaves out of each map what is not needed.
fn shrink(node: &mut Node, step: &Owned, world: &mut World) -> Result<()> {
    macro_rules! each {
        ($($map:ident),*) => {
            $(let keys: Vec<_> = world.$map.keys().copied().collect();
            for key in keys {
                let mut less = world.clone();
                less.$map.remove(&key);
                if differ(node, step, &less)?.is_some() {
                    *world = less;
                }
            })*
        };
    }
    each_map!(each);
    for port in world.pool.clone() {
        let mut less = world.clone();
        less.pool.remove(&port);
        if differ(node, step, &less)?.is_some() {
            *world = less;
        }
    }
    for local in world.locals.clone() {
        let mut less = world.clone();
        less.locals.remove(&local);
        if differ(node, step, &less)?.is_some() {
            *world = less;
        }
    }
    let plain = abi::Config {
        abi: abi::VERSION,
        bind_port: world.config.bind_port,
        ..abi::Config::default()
    };
    let less = World {
        config: plain,
        ..world.clone()
    };
    if differ(node, step, &less)?.is_some() {
        *world = less;
    }
    Ok(())
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seed, number, packet) = (self.seed, self.number, self.packet);
        writeln!(
            f,
            "model and kernel differ: seed {seed}, world {number}, packet {packet}"
        )?;
        if let Some(step) = &self.step {
            writeln!(f, "{}", step.step().words())?;
            if let Owned::Frame(_, frame) = step {
                writeln!(f, "  {}", hex::encode(frame))?;
            }
        }
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        let now = boot_ns();
        if let Some(before) = &self.before {
            writeln!(f, "\nmaps:")?;
            for (key, value) in words::entries(before, now) {
                writeln!(f, "  {key} {value}")?;
            }
        }
        if let (Some(step), Some(before)) = (&self.step, &self.before) {
            writeln!(
                f,
                "\nas a row of tests/packets/src/table (use totoro_ebpf::abi::*):\n{}",
                row(step, before, now)
            )?;
        }
        write!(f, "TOTORO_SEED={seed} repeats the chance of this run")
    }
}

/// A row of the table; what is right is for people to say.
fn row(step: &Owned, before: &World, now: u64) -> String {
    let mut text = match step {
        Owned::Frame(hook, frame) => {
            let frame = format!("hex::decode({:?}).expect(\"hex\")", hex::encode(frame));
            let run = format!("Owned::Frame(Hook::{hook:?}, {frame})");
            format!("Row::new(\"what it is\", &[Hook::{hook:?}], {run}, now)")
        }
        Owned::Lookup(who) => {
            format!("Row::new(\"what it is\", &[], Owned::Lookup({who:?}), now)")
        }
    };
    text.push_str("\n    .given(|world, now| {\n");
    let mut line = |said: String| {
        writeln!(text, "        {}", relative(&said, now)).expect("a string");
    };
    line(format!("*world = World::new({:?}, cells);", before.config));
    for port in &before.pool {
        line(format!("world.pool.insert({port:?});"));
    }
    for local in &before.locals {
        line(format!("world.locals.insert({local:?});"));
    }
    macro_rules! each {
        ($($map:ident),*) => {
            $(for (key, value) in &before.$map {
                line(format!("world.{}.insert({});", stringify!($map), pair(key, value)));
            })*
        };
    }
    each_map!(each);
    text.push_str("    }) // .refused(tenant, Reason::…), .changes(&[…])\n");
    text
}

fn pair<K: Debug + Hash, V: Debug>(key: &K, value: &V) -> String {
    format!("{key:?}, {value:?}")
}

/// Numbers that are moments, around `now`, as differences to it.
fn relative(text: &str, now: u64) -> String {
    const HOURS: u64 = 4 * 3_600_000_000_000;
    let mut said = String::new();
    let mut digits = String::new();
    for letter in text.chars().chain(['\0']) {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        match digits.parse::<u64>() {
            // No count and no interval is so near.
            Ok(at) if digits.len() > 9 && at.abs_diff(now) < HOURS => {
                let sign = if at < now { '-' } else { '+' };
                write!(said, "now {sign} {}", at.abs_diff(now)).expect("a string");
            }
            _ => said.push_str(&digits),
        }
        digits.clear();
        if letter != '\0' {
            said.push(letter);
        }
    }
    said
}
