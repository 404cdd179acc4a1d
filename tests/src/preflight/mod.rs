//! `totoro-node check` on a machine that is not fit. Each thing that it looks for is really there, and
//! gone afterwards; each time its line says what is, and what to do, as a table and as JSON.

mod around;
mod machine;

use std::any::Any;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::hostile;
use crate::lab::{Netns, Place, WallClock};
use crate::report::Report;
use crate::story::World;

/// Attaches programs of another owner's in the node's namespace: a socket lookup there, and XDP on the
/// interface of this name. They stay for as long as what is returned.
pub type Others<'a> = &'a dyn Fn(&Netns, &str) -> Result<Box<dyn Any + Send>>;

/// What is broken by turns, by `check`'s word for it.
const COMPONENTS: [&str; 20] = [
    "capabilities",
    "bpf",
    "privilege",
    "sk_lookup",
    "bpffs",
    "cgroup",
    "state",
    "object",
    "plugin",
    "pool",
    "ephemeral",
    "listeners",
    "tproxy",
    "node key",
    "frps",
    "frps mptcp",
    "frps memory",
    "frps config",
    "control",
    "clock",
];

/// Breaks all of it in a lab, one after the other.
///
/// # Errors
/// A line was not as it should be, or the lab can't be had.
pub fn play(others: Others<'_>) -> Result<()> {
    let mut world = hostile::world("preflight", &[])?;
    let mut report = Report::new(false);
    let clock = WallClock::new(world.lab.file("clock"))?;
    report.item("A fit machine");
    report.check("nothing is wrong", || well(&world));
    report.item("The machine");
    machine::play(&mut world, &mut report, others);
    report.item("frps, and the way to the control plane");
    around::play(&mut world, &mut report, &clock);
    report.item("As it was");
    report.check("nothing is wrong any more", || well(&world));
    ensure!(report.finish(), "a line of `check` is not as it should be");
    Ok(())
}

/// Nothing of what is broken here is.
fn well(world: &World) -> Result<String> {
    let told = Told::of(world, &[])?;
    for component in COMPONENTS {
        told.says(component, "ok", &[])?;
    }
    ensure!(told.code == 0, "exit code {}", told.code);
    Ok(format!("{} lines", told.lines.len()))
}

/// An answer, in both its forms.
struct Told {
    lines: Vec<Value>,
    table: String,
    code: i32,
}

impl Told {
    /// `totoro-node check ARGS`, as root.
    fn of(world: &World, args: &[&str]) -> Result<Told> {
        Told::by(world, |form| world.node_command(&[form, args].concat()))
    }

    /// The same of a command that is given `check`, with `--json` and without.
    fn by(world: &World, command: impl Fn(&[&str]) -> Command) -> Result<Told> {
        let json = world.lab.run(Place::Node, command(&["check", "--json"]))?;
        let table = world.lab.run(Place::Node, command(&["check"]))?;
        let lines: Vec<Value> = serde_json::from_str(&json.out)
            .with_context(|| format!("read {}{}", json.out, json.err))?;
        let failed = lines.iter().any(|line| line["status"] == "fail");
        for one in [&json, &table] {
            ensure!(
                one.code == i32::from(failed),
                "exit code {}: {}",
                one.code,
                one.err
            );
            ensure!(one.err.contains("checks failed") == failed, "{}", one.err);
        }
        ensure!(
            table.out.lines().count() == lines.len() + 1,
            "{}",
            table.out
        );
        Ok(Told {
            lines,
            table: table.out,
            code: json.code,
        })
    }

    /// Some line on this component has this status and says these words; the line's detail.
    fn says(&self, component: &str, status: &str, words: &[&str]) -> Result<String> {
        let has = |text: &str| words.iter().all(|word| text.contains(word));
        let mut ours = self
            .lines
            .iter()
            .filter(|line| line["component"] == component);
        let line = ours.find(|line| {
            let text = format!("{} {}", line["target"], line["detail"]);
            line["status"] == status && has(&text.replace('\\', ""))
        });
        let Some(line) = line else {
            bail!(
                "no {status} line on {component} with {words:?} in {:?}",
                self.lines
            );
        };
        let status = format!(" {} ", status.to_uppercase());
        let mut rows = self.table.lines().filter(|row| row.starts_with(component));
        ensure!(
            rows.any(|row| row.contains(&status) && has(row)),
            "the table has no{status}line on {component} with {words:?}: {}",
            self.table
        );
        Ok(line["detail"].as_str().unwrap_or_default().to_owned())
    }
}
