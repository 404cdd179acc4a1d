//! One packet through one program, and through the model.

use anyhow::Result;
use totoro_ebpf::abi::Event;
use totoro_model::{Lookup, Outcome, Told, Unsure, World};

use crate::node::{Hook, Node, boot_ns, differences};
use crate::{read, words};

/// What is run.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A frame, through a hook.
    Frame(Hook, &'a [u8]),
    /// A lookup.
    Lookup(Lookup),
}

/// A step that outlives its world.
#[derive(Clone, Debug)]
pub enum Owned {
    /// A frame.
    Frame(Hook, Vec<u8>),
    /// A lookup.
    Lookup(Lookup),
}

impl From<Step<'_>> for Owned {
    fn from(step: Step<'_>) -> Self {
        match step {
            Step::Frame(hook, frame) => Owned::Frame(hook, frame.to_vec()),
            Step::Lookup(who) => Owned::Lookup(who),
        }
    }
}

impl Owned {
    /// The step.
    #[must_use]
    pub fn step(&self) -> Step<'_> {
        match self {
            Owned::Frame(hook, frame) => Step::Frame(*hook, frame),
            Owned::Lookup(who) => Step::Lookup(*who),
        }
    }
}

/// What both made of a step.
#[derive(Debug)]
pub struct Compared {
    /// How the verdict or the frame differ.
    pub differ: Option<String>,
    /// What the model says.
    pub outcome: Outcome,
}

impl Step<'_> {
    /// Runs it through the kernel's program and through the model, whose maps are `world`.
    ///
    /// # Errors
    /// When the kernel does not take it. Inside: when what is right turns on the moment.
    pub fn run(self, node: &mut Node, world: &mut World) -> Result<Result<Compared, Unsure>> {
        let (ran, outcome) = match self {
            Step::Frame(hook, frame) => {
                let ran = node.run(hook, frame)?;
                let outcome = match hook {
                    Hook::Xdp | Hook::TcIn => world.filter(frame, ran.at),
                    Hook::TcOut => {
                        world.leave(frame, ran.at);
                        Ok(Outcome::passes())
                    }
                    // A test run's socket is nobody's, so its packets are not metered.
                    Hook::MeterIn | Hook::MeterOut => Ok(Outcome::passes()),
                };
                (ran, outcome)
            }
            Step::Lookup(who) => {
                let ran = node.look_up(&who)?;
                (ran, world.lookup(&who, ran.at))
            }
        };
        let Ok(outcome) = outcome else {
            return Ok(Err(Unsure));
        };
        let mut differ = None;
        if ran.passed != outcome.refused.is_none() {
            let found = if ran.passed { "passes it" } else { "drops it" };
            differ = Some(format!("the model {}, the kernel {found}", said(&outcome)));
        } else if let Step::Frame(hook, frame) = self {
            let expected = outcome.rewritten.as_deref().unwrap_or(frame);
            // The kernel gives the meter's packets back without their Ethernet header.
            let from = if matches!(hook, Hook::MeterIn | Hook::MeterOut) {
                14
            } else {
                0
            };
            let found = node.frame();
            if expected.get(from..) != found.get(from..) {
                let (expected, found) = (hex::encode(expected), hex::encode(found));
                differ = Some(format!(
                    "the model has the frame go on as\n  {expected}\nthe kernel as\n  {found}"
                ));
            }
        }
        Ok(Ok(Compared { differ, outcome }))
    }

    /// What is run, in words.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Step::Frame(hook, frame) => format!("{hook:?}: {}", read::words(frame)),
            Step::Lookup(who) => format!("lookup: {}", lookup_words(&who)),
        }
    }
}

/// A lookup in words.
#[must_use]
pub fn lookup_words(who: &Lookup) -> String {
    let proto = if who.proto == totoro_ebpf::abi::TCP {
        "TCP"
    } else {
        "UDP"
    };
    let family = if who.v6 { "IPv6" } else { "IPv4" };
    let (remote, local) = (words::addr(&who.remote), words::addr(&who.local));
    let (from, to) = (who.remote_port, who.port);
    format!("{family}, {proto} {remote} port {from} to {local} port {to}")
}

/// What the model says, in words.
#[must_use]
pub fn said(outcome: &Outcome) -> String {
    match (&outcome.refused, &outcome.rewritten) {
        (Some(refused), _) => {
            let (reason, tenant) = (words::reason(refused.reason), refused.tenant);
            format!("drops it, {reason} of tenant {tenant}")
        }
        (None, Some(_)) => "rewrites it".to_owned(),
        (None, None) => "passes it".to_owned(),
    }
}

/// Where maps and events are not what the model says after its steps.
///
/// # Errors
/// When the maps can't be read.
pub fn aftermath(node: &mut Node, world: &World, told: &[Told]) -> Result<Vec<String>> {
    let mut lines = differences(world, &node.state(world)?, boot_ns());
    let found = node.told()?;
    for nth in 0..told.len().max(found.len()) {
        let (expected, found) = (told.get(nth), found.get(nth));
        let same = expected.zip(found).is_some_and(|(expected, found)| {
            expected.at.holds(found.at_ns) && expected.event == Event { at_ns: 0, ..*found }
        });
        if !same {
            let nothing = || "nothing".to_owned();
            let expected = expected.map_or_else(nothing, |told| words::event(&told.event));
            let found = found.map_or_else(nothing, words::event);
            lines.push(format!("event {nth}: expected {expected}; found {found}"));
        }
    }
    Ok(lines)
}
