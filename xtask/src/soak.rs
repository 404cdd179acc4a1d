//! `soak`: what is longer than CI should be.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{root, target, vm};

/// Long runs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Soak {
    /// The kernel tests on Debian 12's own kernel (6.1), in qemu.
    OldKernel,
    /// SIGKILL of the control plane under load: is all there that was acknowledged?
    Durability {
        /// How often.
        #[arg(long, default_value_t = 1000)]
        rounds: u32,
    },
    /// The same for simulated power cuts.
    Power {
        /// How often.
        #[arg(long, default_value_t = 400)]
        rounds: u32,
    },
}

/// Runs one of them.
pub(crate) fn run(soak: &Soak) -> Result<()> {
    match soak {
        Soak::OldKernel => vm::run(),
        Soak::Durability { rounds } => control(
            "durability::acknowledged",
            "TOTORO_DURABILITY_ROUNDS",
            *rounds,
        ),
        Soak::Power { rounds } => control("power::acknowledged", "TOTORO_POWER_ROUNDS", *rounds),
    }
}

/// A counted test of the control plane, with more rounds than in CI; it prints what it counted.
fn control(test: &str, variable: &str, rounds: u32) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["test", "--package", "totoro-control", "--test", "control"])
        .args(["--locked", "--", test, "--nocapture"])
        .env("CARGO_TARGET_DIR", target())
        .env(variable, rounds.to_string());
    let status = command.status().context("start cargo test")?;
    if !status.success() {
        bail!("{test} failed ({status}); TOTORO_SEED repeats the chance of a run");
    }
    Ok(())
}
