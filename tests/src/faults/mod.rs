//! The fault run: a lab under load whose parts are killed and broken at random. After each round
//! all of it is given back, and must converge: to the same counts everywhere, and to a trail that
//! misses nothing.

mod check;
mod load;
mod machine;
mod tally;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::story::World;
use check::Check;
use load::Load;
use machine::{Fault, Machine};
use tally::Tally;

/// The longest that a round may take to converge.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a run is to go.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds at most.
    pub rounds: u32,
    /// No round begins after so many seconds.
    pub seconds: u64,
    /// How many frpc.
    pub clients: usize,
    /// Repeats the chance of a run.
    pub seed: u64,
}

/// Runs it, and prints a line for each round and a table at the end; whether every round converged.
///
/// # Errors
/// The lab can't be brought up.
pub fn run(lab: Lab, plan: Plan) -> Result<bool> {
    let mut dice = fastrand::Rng::with_seed(plan.seed);
    let logs = lab.dir.clone();
    let mut machine = Machine::start(lab, plan.clients).context("bring the lab up")?;
    let load = Load::start(&machine.world.lab, &machine.doors())?;
    let (mut check, mut tally) = (Check::default(), Tally::default());
    let begun = Instant::now();
    println!(
        "seed {}, {} rounds, {} frpc, logs in {}",
        plan.seed,
        plan.rounds,
        plan.clients,
        logs.display()
    );
    let first = settle(&mut machine, &load, &mut check, &mut tally);
    first.context("before anything was broken")?;
    for round in 1..=plan.rounds {
        if begun.elapsed().as_secs() >= plan.seconds {
            println!("the time is over after {} rounds", round - 1);
            break;
        }
        load.run(true);
        let faults = Fault::some(&mut dice, plan.clients);
        let broken = machine
            .suffer(&faults, &mut dice, |world| check.sample(world))
            .and_then(|()| settle(&mut machine, &load, &mut check, &mut tally));
        tally.round(&faults, broken.is_ok());
        match broken {
            Ok(took) => println!(
                "round {round}: {}; well after {:.1} s",
                names(&faults),
                took.as_secs_f64()
            ),
            Err(error) => {
                println!("round {round}: {}; ✘ {error:#}", names(&faults));
                println!("TOTORO_SEED={} repeats its chance", plan.seed);
                break;
            }
        }
    }
    let served = load.stop();
    tally.print(&served, &check, begun.elapsed());
    Ok(tally.well())
}

fn names(faults: &[Fault]) -> String {
    let names: Vec<String> = faults.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Waits until everybody is served again, then until all is as it must be; how long both took.
fn settle(
    machine: &mut Machine,
    load: &Load,
    check: &mut Check,
    tally: &mut Tally,
) -> Result<Duration> {
    let begun = Instant::now();
    load.run(false);
    tally.help(machine.converge(PATIENCE)?);
    let held = machine.hold()?;
    let deadline = begun + PATIENCE;
    let all = loop {
        match check.all(machine) {
            Ok(all) => break all,
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("still after {PATIENCE:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    tally.note(&all, begun.elapsed());
    drop(held);
    Ok(begun.elapsed())
}

/// What a sample or a check looks at.
type Look<'a> = &'a World;
