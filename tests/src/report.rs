//! Checks and how they are shown.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

/// Shows checks as they are made, and counts them.
#[derive(Debug)]
pub struct Report {
    json: bool,
    quiet: bool,
    passed: usize,
    failed: usize,
    item: usize,
}

impl Report {
    /// Lines for people, or one JSON object per check.
    #[must_use]
    pub const fn new(json: bool) -> Report {
        Report {
            json,
            quiet: false,
            passed: 0,
            failed: 0,
            item: 0,
        }
    }

    /// Lines on stderr for what fails, and nothing else.
    #[must_use]
    pub const fn quiet() -> Report {
        Report {
            quiet: true,
            ..Report::new(false)
        }
    }

    /// Begins the next item of the story.
    pub fn item(&mut self, title: &str) {
        self.item += 1;
        if !self.json && !self.quiet {
            println!("\n{}. {title}", self.item);
        }
    }

    /// Makes a check: what it is called, and what was measured or went wrong. `true` = passed.
    pub fn check(&mut self, name: &str, make: impl FnOnce() -> Result<String>) -> bool {
        let begun = Instant::now();
        let made = make();
        let took = begun.elapsed();
        let passed = made.is_ok();
        *(if passed {
            &mut self.passed
        } else {
            &mut self.failed
        }) += 1;
        let figure = made.unwrap_or_else(|error| format!("{error:#}"));
        if self.quiet {
            if !passed {
                eprintln!("✘ {name}: {figure}");
            }
        } else if self.json {
            let line = json!({
                "item": self.item, "check": name, "passed": passed, "figure": figure,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            });
            println!("{line}");
        } else {
            println!("   {} {name}: {figure}", if passed { '✔' } else { '✘' });
        }
        passed
    }

    /// Checks that failed so far.
    #[must_use]
    pub const fn failed(&self) -> usize {
        self.failed
    }

    /// Prints the last line; whether everything passed (and anything was checked at all).
    #[must_use]
    pub fn finish(&self) -> bool {
        let good = self.failed == 0 && self.passed > 0;
        if self.quiet {
            return good;
        }
        if self.json {
            println!(
                "{}",
                json!({ "passed": self.passed, "failed": self.failed })
            );
        } else {
            println!();
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        good
    }
}
