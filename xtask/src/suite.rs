//! `test` and `check`: stages, a time table, and nothing left in the kernel.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::signals::{Ended, supervise};
use crate::{bpf, browser, deny, leftovers, root, schemathesis, setup, target, tidy, vm};

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what needs no root, no BPF toolchain and no frp.
    #[arg(long)]
    quick: bool,
    /// Take the set-up and the kernel object as they are.
    #[arg(long)]
    no_setup: bool,
    /// The kernel tests on another kernel, in qemu: 6.1, which Debian 12 ships. Some minutes.
    #[arg(long, value_parser = vm::KERNELS, conflicts_with_all = ["quick", "no_setup"])]
    kernel: Option<String>,
    /// Run only tests whose name has one of these words (and skip the checks of the code).
    filter: Vec<String>,
}

/// Times of the stages.
#[derive(Debug, Default)]
struct Table(Vec<(String, Duration, bool)>);

impl Table {
    /// Runs a stage; whether it passed.
    fn stage(&mut self, name: &str, run: impl FnOnce() -> Result<()>) -> bool {
        eprintln!("\n── {name}");
        let begun = Instant::now();
        let done = run();
        if let Err(error) = &done {
            eprintln!("✘ {name}: {error:#}");
        }
        self.0
            .push((name.to_owned(), begun.elapsed(), done.is_ok()));
        done.is_ok()
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

/// Runs the tests; the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let mut table = Table::default();
    if let Some(kernel) = &args.kernel {
        table.stage(&format!("kernel {kernel}"), || vm::run(&args.filter));
        return table.finish().map(|()| 0);
    }
    if !args.quick && !args.no_setup {
        // Nothing else makes sense without these two.
        if !table.stage("set-up", setup::run) || !table.stage("kernel object", bpf::build) {
            return table.finish().map(|()| 0);
        }
    }
    if args.filter.is_empty() {
        checks(&mut table);
    }
    // The test runner builds no binaries of other packages: the lab runs them, so build first.
    table.stage("build", || {
        cargo(&["build", "--workspace", "--locked"], &[])
    });
    if !args.quick {
        leftovers::sweep();
    }
    let tag = leftovers::new_tag();
    let mut signal = None;
    table.stage("tests", || tests(args, &tag, &mut signal));
    if let Some(signal) = signal {
        let left = leftovers::remove(&tag);
        if !left.is_empty() {
            eprintln!("left in the kernel: {}", left.join(", "));
        }
        table.finish().ok();
        return Ok(128 + signal as u8);
    }
    if args.filter.is_empty() {
        api(&mut table, args.quick);
        pages(&mut table, args.quick);
    }
    if !args.quick {
        table.stage("nothing left behind", || {
            let found = leftovers::find(&tag);
            if found.is_empty() {
                return Ok(());
            }
            leftovers::remove(&tag);
            bail!("left in the kernel: {}", found.join(", "))
        });
    }
    table.finish().map(|()| 0)
}

/// The control plane against its own description; set-up has what it takes.
fn api(table: &mut Table, quick: bool) {
    if quick && schemathesis::find().is_none() {
        eprintln!("\n── api\nnot run: schemathesis is not installed (cargo xtask setup)");
        return;
    }
    table.stage("api", || schemathesis::run(schemathesis::CASES));
}

/// The pages in a real browser; set-up has what it takes.
fn pages(table: &mut Table, quick: bool) {
    if quick && browser::find().is_none() {
        eprintln!("\n── pages\nnot run: there is no browser or no axe-core (cargo xtask setup)");
        return;
    }
    table.stage("pages", || browser::run(!quick));
}

/// Runs cargo's tests under a tag; a signal that ended them is told apart from their failing.
fn tests(args: &Args, tag: &str, signal: &mut Option<Signal>) -> Result<()> {
    let mut words = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    if args.quick {
        // `control` talks over loopback only.
        words.extend(["--lib", "--bins"]);
        words.extend(
            ["reasons", "control", "replay"]
                .into_iter()
                .flat_map(|name| ["--test", name]),
        );
    }
    words.push("--");
    words.extend(args.filter.iter().map(String::as_str));
    let kernel = if args.quick { "0" } else { "1" };
    let env = [("TOTORO_REQUIRE_KERNEL", kernel), ("TOTORO_TEST_TAG", tag)];
    let mut command = cargo_command(&words, &env);
    match supervise(&mut command)? {
        Ended::Itself(status) if status.success() => Ok(()),
        Ended::Itself(status) => bail!("cargo {} failed ({status})", words.join(" ")),
        Ended::Signal(came) => {
            *signal = Some(came);
            bail!("ended by {came}")
        }
    }
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
    if deny::is_there() {
        table.stage("deny", deny::lasting);
    } else {
        eprintln!(
            "\n── deny\nnot run: cargo-deny is not in PATH (cargo install cargo-deny --locked)"
        );
    }
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let status = cargo_command(args, env)
        .status()
        .with_context(|| format!("start cargo {}", args[0]))?;
    if status.success() {
        Ok(())
    } else {
        bail!("cargo {} failed ({status})", args.join(" "))
    }
}

fn cargo_command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(args)
        .envs(env.iter().copied())
        .env("CARGO_TARGET_DIR", target());
    command
}
