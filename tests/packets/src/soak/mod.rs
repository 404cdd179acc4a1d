//! Random packets through the kernel's programs and through the model: many worlds, a thousand packets
//! each, and no difference.

mod found;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use totoro_model::{Told, World};

pub use found::Mismatch;

use crate::node::{Hook, Node, boot_ns};
use crate::random::{Clock, Packets, Scene, once_in};
use crate::step::{Owned, Step, aftermath};
use crate::words;

/// Packets of one world.
const PACKETS: u64 = 1_000;
/// Worlds after which cells of the sketch are looked at that nothing should have touched.
const STRAY: u64 = 500;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many packets, at least.
    pub packets: u64,
    /// Repeats the chance of a run.
    pub seed: u64,
    /// Threads, with programs and maps of their own each.
    pub threads: usize,
    /// Whether to say every few seconds how far it is.
    pub progress: bool,
}

/// What was run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Packets, each through XDP.
    pub packets: u64,
    /// Of them, how many went through other hooks too; and lookups.
    pub others: BTreeMap<&'static str, u64>,
    /// Worlds.
    pub worlds: u64,
    /// Of them, those that went by the kernel's ticks, as on a node.
    pub by_ticks: u64,
    /// Such worlds that were left out, because something turned on a tick.
    pub unsure_by_ticks: u64,
    /// Packets of worlds in which something turned on the nanosecond: not counted above.
    pub unsure: u64,
    /// What was refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Requests that were stamped.
    pub stamped: u64,
    /// Events that the daemon was told.
    pub told: u64,
    /// How long it took.
    pub took: Duration,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.packets += other.packets;
        self.worlds += other.worlds;
        self.by_ticks += other.by_ticks;
        self.unsure_by_ticks += other.unsure_by_ticks;
        self.unsure += other.unsure;
        self.stamped += other.stamped;
        self.told += other.told;
        for (name, count) in other.others {
            *self.others.entry(name).or_default() += count;
        }
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.packets as f64 / self.took.as_secs_f64().max(1e-9);
        let (packets, worlds) = (self.packets, self.worlds);
        writeln!(
            f,
            "{packets} packets in {worlds} worlds, {rate:.0} a second"
        )?;
        for (name, count) in &self.others {
            writeln!(f, "  {count} {name}")?;
        }
        let refused: u64 = self.refused.values().sum();
        writeln!(f, "  {refused} refused: {:?}", self.refused)?;
        writeln!(f, "  {} stamped, {} events", self.stamped, self.told)?;
        writeln!(
            f,
            "  {} worlds went by ticks, {} more were left out, which turned on one",
            self.by_ticks, self.unsure_by_ticks
        )?;
        write!(
            f,
            "  {} packets left out, whose world turned on a tick or the nanosecond",
            self.unsure
        )
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// Without a difference.
    Same(Tally),
    /// With one, after so many packets.
    Differs(Box<Mismatch>, u64),
}

/// What the threads of a run share.
#[derive(Default)]
struct Shared {
    /// The next world's number.
    next: AtomicU64,
    /// Packets that are done.
    done: AtomicU64,
    /// Whether a difference was found, or a thread failed.
    over: AtomicBool,
    found: Mutex<Option<Box<Mismatch>>>,
}

/// Runs random packets until there are enough, or one differs.
///
/// # Errors
/// When the programs can't be loaded or run.
pub fn run(object: &Path, plan: Plan) -> Result<Ended> {
    let shared = Shared::default();
    let begun = Instant::now();
    let mut tally = Tally::default();
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..plan.threads.max(1))
            .map(|nth| {
                let shared = &shared;
                scope.spawn(move || {
                    let done = work(object, plan, shared, nth);
                    if done.is_err() {
                        shared.over.store(true, Relaxed);
                    }
                    done
                })
            })
            .collect();
        let mut said = begun;
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            if plan.progress && said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                let done = shared.done.load(Relaxed);
                let rate = done as f64 / begun.elapsed().as_secs_f64();
                eprintln!("{done} of {} packets, {rate:.0} a second", plan.packets);
            }
        }
        for worker in workers {
            tally.add(worker.join().expect("a thread of the soak")?);
        }
        Ok(())
    })?;
    tally.took = begun.elapsed();
    let found = shared.found.into_inner().expect("nobody panicked");
    Ok(match found {
        Some(mismatch) => Ended::Differs(mismatch, shared.done.load(Relaxed)),
        None => Ended::Same(tally),
    })
}

/// World after world.
fn work(object: &Path, plan: Plan, shared: &Shared, nth: usize) -> Result<Tally> {
    stay(nth)?;
    let mut node = Node::load(object)?;
    let mut tally = Tally::default();
    let mut spent = None;
    while shared.done.load(Relaxed) < plan.packets && !shared.over.load(Relaxed) {
        let number = shared.next.fetch_add(1, Relaxed);
        let mut game = Game::new(plan.seed, number);
        let stop = game.play(&mut node, spent.as_ref(), Watch::AtTheEnd, &shared.done)?;
        spent = Some(game.world.clone());
        match stop {
            Stop::Fine => tally.add(game.tally),
            Stop::Unsure => {
                tally.unsure += game.tally.packets;
                tally.unsure_by_ticks += u64::from(by_ticks(number));
                // The model stopped in the middle of a packet; the kernel did not.
                node.wipe_sketch()?;
                continue;
            }
            Stop::Differs(mismatch) => {
                shared.over.store(true, Relaxed);
                shared.done.fetch_add(game.tally.packets, Relaxed);
                let mismatch = found::narrow(&mut node, &game.world, *mismatch)?;
                *shared.found.lock().expect("nobody panicked") = Some(Box::new(mismatch));
                break;
            }
        }
        if number.is_multiple_of(STRAY) {
            let own: std::collections::HashSet<u32> = game.world.sketch.keys().copied().collect();
            let stray: Vec<u32> = node.spent_cells()?.difference(&own).copied().collect();
            anyhow::ensure!(
                stray.is_empty(),
                "world {number} of seed {} touched cells of the sketch that no source has: {stray:?}",
                plan.seed
            );
        }
    }
    Ok(tally)
}

/// Keeps this thread on one processor: refusals are told of by each processor's own count.
fn stay(nth: usize) -> Result<()> {
    let this = Pid::from_raw(0);
    let may = sched_getaffinity(this).context("which processors there are")?;
    let all: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| may.is_set(*cpu).unwrap_or(false))
        .collect();
    let mut one = CpuSet::new();
    one.set(all[nth % all.len()])?;
    sched_setaffinity(this, &one).context("stay on one processor")
}

/// Whether a world goes by the kernel's ticks, as on a node.
const fn by_ticks(number: u64) -> bool {
    number.is_multiple_of(8)
}

/// When maps and events are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    AtTheEnd,
    /// After each step, whose world is kept: slow.
    EachStep,
}

/// How a world ended.
enum Stop {
    Fine,
    /// Something turned on the nanosecond, after which nothing is known.
    Unsure,
    Differs(Box<Mismatch>),
}

/// One world and its packets.
struct Game {
    seed: u64,
    number: u64,
    dice: Rng,
    scene: Scene,
    /// The model's maps.
    world: World,
    told: Vec<Told>,
    tally: Tally,
}

impl Game {
    fn new(seed: u64, number: u64) -> Game {
        let mut dice = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let clock = Clock {
            now: boot_ns(),
            is_coarse: by_ticks(number),
        };
        let scene = Scene::new(&mut dice, clock);
        Game {
            seed,
            number,
            dice,
            world: scene.world.clone(),
            scene,
            told: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn play(
        &mut self,
        node: &mut Node,
        spent: Option<&World>,
        watch: Watch,
        done: &AtomicU64,
    ) -> Result<Stop> {
        // Every other world is at hand in arrays, as on a node.
        node.keep_near(self.number.is_multiple_of(2));
        node.keep_ticks(by_ticks(self.number));
        node.install(&self.world, spent)?;
        let mut packets = Packets::default();
        for _ in 0..PACKETS {
            let frame = packets.next(&mut self.dice, &self.scene);
            if let Some(stop) = self.step(node, Step::Frame(Hook::Xdp, frame), watch)? {
                return Ok(stop);
            }
            self.tally.packets += 1;
            // Fewer through the others: the filter's verdict is the same code, the meter knows no socket.
            for (hook, name, share) in [
                (Hook::TcIn, "through TC ingress too", 8),
                (Hook::TcOut, "through TC egress too", 8),
                (Hook::MeterIn, "through cgroup_skb ingress too", 64),
                (Hook::MeterOut, "through cgroup_skb egress too", 64),
            ] {
                if once_in(&mut self.dice, share) && hook.takes(frame) {
                    if let Some(stop) = self.step(node, Step::Frame(hook, frame), watch)? {
                        return Ok(stop);
                    }
                    *self.tally.others.entry(name).or_default() += 1;
                }
            }
            if once_in(&mut self.dice, 3) {
                let who = packets.lookup(&mut self.dice, &self.scene);
                if let Some(stop) = self.step(node, Step::Lookup(who), watch)? {
                    return Ok(stop);
                }
                *self.tally.others.entry("looked up").or_default() += 1;
            }
        }
        self.tally.worlds = 1;
        self.tally.by_ticks = u64::from(by_ticks(self.number));
        self.tally.told = self.told.len() as u64;
        let lines = aftermath(node, &self.world, &self.told)?;
        if lines.is_empty() {
            done.fetch_add(self.tally.packets, Relaxed);
            return Ok(Stop::Fine);
        }
        Ok(Stop::Differs(Box::new(self.mismatch(None, None, lines))))
    }

    /// One packet through one program; why the world ends with it, if it does.
    fn step(&mut self, node: &mut Node, step: Step<'_>, watch: Watch) -> Result<Option<Stop>> {
        let before = (watch == Watch::EachStep).then(|| self.world.clone());
        let Ok(compared) = step.run(node, &mut self.world)? else {
            return Ok(Some(Stop::Unsure));
        };
        let outcome = &compared.outcome;
        self.told.extend(outcome.told);
        self.tally.stamped += u64::from(outcome.rewritten.is_some());
        if let Some(refused) = outcome.refused {
            let reason = words::reason(refused.reason);
            *self.tally.refused.entry(reason).or_default() += 1;
        }
        let mut lines: Vec<String> = compared.differ.into_iter().collect();
        if watch == Watch::EachStep {
            lines.extend(aftermath(node, &self.world, &self.told)?);
            self.told.clear();
        }
        Ok((!lines.is_empty()).then(|| {
            let mismatch = self.mismatch(Some(step), before, lines);
            Stop::Differs(Box::new(mismatch))
        }))
    }

    fn mismatch(
        &self,
        step: Option<Step<'_>>,
        before: Option<World>,
        lines: Vec<String>,
    ) -> Mismatch {
        Mismatch {
            seed: self.seed,
            number: self.number,
            packet: self.tally.packets,
            step: step.map(Owned::from),
            before,
            lines,
        }
    }
}
