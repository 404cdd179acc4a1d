//! `test` and `check`: stages, a time table, and nothing left in the kernel.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{bpf, leftovers, root, setup, target, tidy};

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what needs no root, no BPF toolchain and no frp.
    #[arg(long)]
    quick: bool,
    /// Take the set-up and the kernel object as they are.
    #[arg(long)]
    no_setup: bool,
    /// Run only tests whose name has one of these words (and skip the checks of the code).
    filter: Vec<String>,
}

/// Times of the stages.
#[derive(Debug, Default)]
struct Table(Vec<(String, Duration, bool)>);

impl Table {
    fn stage(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        eprintln!("\n── {name}");
        let begun = Instant::now();
        let done = run();
        if let Err(error) = &done {
            eprintln!("✘ {name}: {error:#}");
        }
        self.0
            .push((name.to_owned(), begun.elapsed(), done.is_ok()));
    }

    fn finish(self) -> Result<()> {
        let total: Duration = self.0.iter().map(|(_, took, _)| *took).sum();
        println!("\nstage                          time");
        for (name, took, passed) in &self.0 {
            let mark = if *passed { '✔' } else { '✘' };
            println!("{mark} {name:<24} {:>8.1} s", took.as_secs_f64());
        }
        println!("  {:<24} {:>8.1} s", "total", total.as_secs_f64());
        let failed = self.0.iter().filter(|(_, _, passed)| !passed).count();
        println!("{} stages passed, {failed} failed", self.0.len() - failed);
        if failed > 0 {
            bail!("{failed} of {} stages failed", self.0.len());
        }
        Ok(())
    }
}

/// Runs the tests.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut table = Table::default();
    if !args.quick && !args.no_setup {
        // Nothing else makes sense without these two.
        let begun = Instant::now();
        setup::run()?;
        table.0.push(("set-up".to_owned(), begun.elapsed(), true));
        let begun = Instant::now();
        bpf::build()?;
        table
            .0
            .push(("kernel object".to_owned(), begun.elapsed(), true));
    }
    if args.filter.is_empty() {
        checks(&mut table);
    }
    // The test runner builds no binaries of other packages: the lab runs them, so build first.
    table.stage("build", || {
        cargo(&["build", "--workspace", "--locked"], &[])
    });
    let tag = format!("t{}", std::process::id());
    let kernel = if args.quick { "0" } else { "1" };
    let env = [
        ("TOTORO_REQUIRE_KERNEL", kernel),
        ("TOTORO_TEST_TAG", tag.as_str()),
    ];
    table.stage("tests", || {
        let mut command = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
        if args.quick {
            command.extend(["--lib", "--bins", "--test", "reasons"]);
        }
        command.push("--");
        command.extend(args.filter.iter().map(String::as_str));
        cargo(&command, &env)
    });
    if !args.quick {
        table.stage("nothing left behind", || {
            let found = leftovers::find(&tag);
            if found.is_empty() {
                Ok(())
            } else {
                bail!("left in the kernel: {}", found.join(", "))
            }
        });
    }
    table.finish()
}

/// What a commit must pass.
pub(crate) fn check() -> Result<()> {
    let mut table = Table::default();
    checks(&mut table);
    table.finish()
}

fn checks(table: &mut Table) {
    table.stage("rustfmt", || cargo(&["fmt", "--all", "--check"], &[]));
    table.stage("tidy", tidy::run);
    table.stage("clippy", || {
        cargo(
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
            &[],
        )
    });
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(args)
        .envs(env.iter().copied());
    command.env("CARGO_TARGET_DIR", target());
    let status = command
        .status()
        .with_context(|| format!("start cargo {}", args[0]))?;
    if status.success() {
        Ok(())
    } else {
        bail!("cargo {} failed ({status})", args.join(" "))
    }
}
