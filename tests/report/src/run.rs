//! A run, and where it is kept.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::figure::Figure;
use crate::goal::Verdict;
use crate::machine::Machine;
use crate::stats::{median, range};
use crate::{page, table};

/// The version of `run.json`.
pub const FORMAT: u32 = 1;

/// A run of one suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// The suite's name, which names its directory.
    pub suite: String,
    /// When it began, UTC; names its directory too.
    pub at: String,
    /// What it ran on.
    pub machine: Machine,
    /// What it was restricted to, as it was asked for (`--only xdp`): the suite's other figures are not
    /// missing. Empty: to nothing.
    #[serde(default)]
    pub only: Vec<String>,
    /// What was measured beside it.
    pub baselines: Vec<Baseline>,
    /// How it was measured, and what could not be.
    pub notes: Vec<String>,
    /// What was found.
    pub figures: Vec<Figure>,
}

/// What figures are measured against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Its name, as in [`crate::Against::baseline`].
    pub name: String,
    /// Its version, and how it was set up.
    pub version: String,
}

/// How a run's goals stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Goals {
    /// Those that were met.
    pub met: usize,
    /// All that there are.
    pub all: usize,
    /// Those that nothing can be said of, which are not met: figures without samples, and baselines without.
    pub not_measured: Vec<String>,
}

impl fmt::Display for Goals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} goals met", self.met, self.all)?;
        match self.not_measured.len() {
            0 => f.write_char('.'),
            count => write!(f, "; {count} could not be measured, and count as not met:"),
        }
    }
}

/// A figure as it is written: with what follows from it, for whoever reads the JSON.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    figure: &'a Figure,
    median: f64,
    range: (f64, f64),
    ratios: Vec<Option<f64>>,
    verdict: Option<Verdict>,
}

impl Run {
    /// A run that begins now, on this machine.
    #[must_use]
    pub fn new(suite: &str) -> Self {
        let format = format_description!("[year]-[month]-[day]T[hour]-[minute]-[second]Z");
        let at = OffsetDateTime::now_utc().format(format);
        Run {
            format: FORMAT,
            suite: suite.to_owned(),
            at: at.expect("a date has all of these"),
            machine: Machine::look(),
            only: Vec::new(),
            baselines: Vec::new(),
            notes: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Says that it is restricted by an option, unless that has its empty default.
    pub fn only(&mut self, option: &str, value: &str) {
        if !value.is_empty() {
            self.only.push(format!("{option} {value}"));
        }
    }

    /// Names something that figures are measured against.
    pub fn baseline(&mut self, name: &str, version: &str) {
        self.baselines.push(Baseline {
            name: name.to_owned(),
            version: version.to_owned(),
        });
    }

    /// Says how something was measured, or why it could not be.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a figure.
    ///
    /// # Panics
    /// There is one of that part and name, or it is measured against something that has no version:
    /// both are mistakes of the bench.
    pub fn add(&mut self, figure: Figure) {
        let same = |one: &Figure| one.part == figure.part && one.name == figure.name;
        assert!(
            !self.figures.iter().any(same),
            "two figures are called {}, {}",
            figure.part,
            figure.name
        );
        for against in &figure.against {
            assert!(
                self.baselines
                    .iter()
                    .any(|one| one.name == against.baseline),
                "{} is measured against {}, which is no baseline of the run",
                figure.name,
                against.baseline
            );
        }
        self.figures.push(figure);
    }

    /// How its goals stand.
    #[must_use]
    pub fn goals(&self) -> Goals {
        let verdicts: Vec<Verdict> = self.figures.iter().flat_map(Figure::verdicts).collect();
        let not_measured = self.figures.iter().flat_map(Figure::not_measured);
        Goals {
            met: verdicts.iter().filter(|one| **one == Verdict::Met).count(),
            all: verdicts.len(),
            not_measured: not_measured.collect(),
        }
    }

    /// The run as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let shown = self.figures.iter().map(|figure| Shown {
            median: median(&figure.samples),
            range: range(&figure.samples),
            ratios: figure.against.iter().map(|one| one.ratio(figure)).collect(),
            verdict: figure.verdict(),
            figure,
        });
        let shown: Vec<Shown> = shown.collect();
        let mut run = serde_json::to_value(self).expect("strings and finite numbers");
        run["figures"] = serde_json::to_value(shown).expect("strings and finite numbers");
        run["goals"] = serde_json::to_value(self.goals()).expect("strings and numbers");
        format!("{run:#}")
    }

    /// The run as a table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// Reads what [`Run::finish`] wrote: `run.json`, or the directory that has it.
    ///
    /// # Errors
    /// It can't be read, is no run, or one of a later format.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = if path.is_dir() {
            path.join("run.json")
        } else {
            path.to_owned()
        };
        let wrong = |error: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", file.display()),
            )
        };
        let text = fs::read_to_string(&file).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
        let run: Run = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if run.format != FORMAT {
            return Err(wrong(format!(
                "format {}, which this version (of format {FORMAT}) does not know",
                run.format
            )));
        }
        Ok(run)
    }

    /// Writes `run.json` and `index.html` below a directory, in one of the run's own.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, below: &Path) -> io::Result<PathBuf> {
        let dir = below.join(&self.suite).join(&self.at);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("run.json"), self.json())?;
        fs::write(dir.join("index.html"), page::page(self))?;
        Ok(dir)
    }

    /// Writes it to `target/bench/`, prints the table to stderr and, if asked for, JSON to stdout.
    /// Returns where it was written.
    ///
    /// # Errors
    /// It can't be written.
    pub fn finish(&self, json: bool) -> io::Result<PathBuf> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(workspace, PathBuf::from);
        let dir = self.write(&target.join("bench"))?.canonicalize()?;
        eprintln!("\n{}", self.table());
        eprintln!("{}", dir.join("index.html").display());
        if json {
            println!("{}", self.json());
        }
        Ok(dir)
    }
}
