//! A row of the table, and how it is held to what it says.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use totoro_api::Reason;
use totoro_model::{Refusal, World};

use super::base;
use crate::node::{Hook, Node, cells};
use crate::step::{Owned, Step, aftermath};
use crate::words::{self, entries};

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it shows.
    pub what: &'static str,
    /// The hooks that it runs in; none for a lookup.
    pub hooks: &'static [Hook],
    /// The frame, or what is looked up.
    pub(super) run: Owned,
    /// What the maps hold.
    pub(super) world: World,
    /// Whom the refusal is counted on, and why; `None` = it passes.
    refused: Option<Refusal>,
    /// Whether the frame goes on with another origin.
    stamped: bool,
    /// Entries of maps that change, that come (`+`) and that go (`-`), but for the refusal's count.
    changes: &'static [&'static str],
    /// Whether the daemon is told.
    told: bool,
    now: u64,
}

impl Row {
    pub(super) fn new(what: &'static str, hooks: &'static [Hook], run: Owned, now: u64) -> Row {
        Row {
            what,
            hooks,
            run,
            world: base(now),
            refused: None,
            stamped: false,
            changes: &[],
            told: false,
            now,
        }
    }

    /// The base world, changed.
    pub(super) fn given(mut self, change: impl FnOnce(&mut World, u64)) -> Row {
        change(&mut self.world, self.now);
        self
    }

    pub(super) fn refused(mut self, tenant: u32, reason: Reason) -> Row {
        let reason = reason.number();
        self.refused = Some(Refusal { tenant, reason });
        self.told = true;
        self
    }

    /// Refused, but too often before to be told.
    pub(super) fn untold(mut self) -> Row {
        self.told = false;
        self
    }

    /// It goes on with another origin.
    pub(super) fn stamped(mut self) -> Row {
        self.stamped = true;
        self
    }

    pub(super) fn changes(mut self, changes: &'static [&'static str]) -> Row {
        self.changes = changes;
        self
    }

    /// What is run: the frame in each of its hooks, or the lookup.
    pub(super) fn steps(&self) -> Vec<Step<'_>> {
        match &self.run {
            Owned::Frame(_, frame) => {
                let step = |hook: &Hook| Step::Frame(*hook, frame);
                self.hooks.iter().map(step).collect()
            }
            Owned::Lookup(who) => vec![Step::Lookup(*who)],
        }
    }

    /// The frame, where it is none of a lookup.
    #[must_use]
    pub fn frame(&self) -> Option<&[u8]> {
        match &self.run {
            Owned::Frame(_, frame) => Some(frame),
            Owned::Lookup(_) => None,
        }
    }

    /// The packet in words.
    #[must_use]
    pub fn packet(&self) -> String {
        match &self.run {
            Owned::Frame(_, frame) => crate::read::words(frame),
            Owned::Lookup(who) => crate::step::lookup_words(who),
        }
    }

    /// What the maps hold beyond the base, in words.
    #[must_use]
    pub fn maps(&self) -> Vec<String> {
        let (base, its) = (
            entries(&base(self.now), self.now),
            entries(&self.world, self.now),
        );
        let mut said: Vec<String> = (its.iter())
            .filter(|(key, value)| base.get(*key) != Some(*value))
            .map(|(key, value)| {
                if value.is_empty() {
                    key.clone()
                } else {
                    format!("{key}: {value}")
                }
            })
            .collect();
        said.extend(
            (base.keys())
                .filter(|key| !its.contains_key(*key))
                .map(|key| format!("no {key}")),
        );
        said
    }

    /// The verdict in words.
    #[must_use]
    pub fn verdict(&self) -> String {
        match self.refused {
            None if self.stamped => "passes, stamped".to_owned(),
            None => "passes".to_owned(),
            Some(refused) => {
                let (reason, tenant) = (words::reason(refused.reason), refused.tenant);
                format!("drops, `{reason}` of tenant {tenant}")
            }
        }
    }

    /// Entries of maps that change, but for the refusal's count.
    #[must_use]
    pub const fn changed_entries(&self) -> &'static [&'static str] {
        self.changes
    }

    /// Whether the daemon is told.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        self.told
    }

    /// Runs it in all of its hooks, and looks whether kernel and model do what it says.
    ///
    /// # Errors
    /// When one of them does not, or can't be run.
    pub fn check(&self, node: &mut Node) -> Result<()> {
        let twice = self
            .steps()
            .into_iter()
            .flat_map(|step| [(step, false), (step, true)]);
        for (step, near) in twice {
            let mut world = self.world.clone();
            // The arrays in front of the hashes change no verdict.
            node.keep_near(near);
            node.install(&self.world, None)?;
            let compared = step.run(node, &mut world)?;
            let what = step.words();
            let Ok(compared) = compared else {
                anyhow::bail!("{what}: a row must not turn on the nanosecond");
            };
            let outcome = compared.outcome;
            ensure!(
                outcome.refused == self.refused && outcome.rewritten.is_some() == self.stamped,
                "{what}: the row {}, the model {}",
                self.verdict(),
                crate::step::said(&outcome)
            );
            ensure!(
                compared.differ.is_none(),
                "{what}: {}",
                compared.differ.unwrap_or_default()
            );
            ensure!(
                outcome.told.is_some() == self.told,
                "{what}: the row says told: {}, the model {:?}",
                self.told,
                outcome.told
            );
            let state = node.state(&world)?;
            let told: Vec<_> = outcome.told.into_iter().collect();
            let lines = aftermath(node, &world, &told)?;
            ensure!(lines.is_empty(), "{what}: {}", lines.join("\n"));
            let changed = self.changed(&state);
            ensure!(
                changed == self.changes,
                "{what}: changed {changed:?}, not {:?}",
                self.changes
            );
            node.install(&World::new(self.world.config, cells), Some(&world))?;
        }
        Ok(())
    }

    /// Which entries are others than before, but for the refusal's.
    fn changed(&self, after: &World) -> Vec<String> {
        let (before, after) = (entries(&self.world, self.now), entries(after, self.now));
        let mut all: BTreeMap<&String, char> = BTreeMap::new();
        for key in before
            .keys()
            .chain(after.keys())
            .filter(|key| !key.starts_with("REASONS"))
        {
            match (before.get(key), after.get(key)) {
                (None, _) => all.insert(key, '+'),
                (_, None) => all.insert(key, '-'),
                (a, b) if a != b => all.insert(key, ' '),
                _ => None,
            };
        }
        // Which cells a source has is nobody's business.
        let spent = all.keys().filter(|key| key.starts_with("SKETCH")).count();
        let mut said: Vec<String> = (all.into_iter())
            .filter(|(key, _)| !key.starts_with("SKETCH"))
            .map(|(key, how)| format!("{how} {key}").trim_start().to_owned())
            .collect();
        if spent > 0 {
            said.push(format!("SKETCH: {spent} of its cells"));
        }
        said
    }

    /// Runs every truncation of the frame through XDP: kernel and model must agree.
    ///
    /// # Errors
    /// When they do not, or it can't be run.
    pub fn check_truncations(&self, node: &mut Node) -> Result<()> {
        let Owned::Frame(_, frame) = &self.run else {
            return Ok(());
        };
        node.install(&self.world, None)?;
        let mut world = self.world.clone();
        for length in 14..frame.len() {
            let step = Step::Frame(Hook::Xdp, &frame[..length]);
            let Ok(compared) = step.run(node, &mut world)? else {
                anyhow::bail!("{}: a row must not turn on the nanosecond", step.words());
            };
            ensure!(
                compared.differ.is_none(),
                "{}: {}",
                step.words(),
                compared.differ.unwrap_or_default()
            );
        }
        node.install(&World::new(self.world.config, cells), Some(&world))
    }
}
