//! `soak`: what is longer than CI should be.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{bpf, demo, fuzz, install, older, root, schemathesis, target};

/// Long runs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Soak {
    /// Packages on a fresh Debian with its own systemd: install, run, upgrade by ssh, roll back, purge.
    Install {
        /// Packages of a release build, as they are shipped.
        #[arg(long)]
        optimised: bool,
        /// Packages that an earlier run left in target/dist, as they are.
        #[arg(long, conflicts_with = "optimised")]
        as_is: bool,
    },
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
    /// The whole lab under load, its parts killed and broken at random: does all of it converge?
    Faults {
        /// How often.
        #[arg(long, default_value_t = 1000)]
        rounds: u32,
        /// How many frpc, 2 to 10.
        #[arg(long, default_value_t = 10)]
        clients: u8,
        /// Repeats the chance of a run.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// SIGKILL of the control plane and of a node's spool: does every event land once, in order?
    Spool {
        /// How often.
        #[arg(long, default_value_t = 500)]
        rounds: u32,
    },
    /// Invites revoked in use, by every way that frpc may take: from the answer to the last byte.
    Revoke {
        /// Rounds of each way.
        #[arg(long, default_value_t = 200)]
        rounds: u16,
        /// Only ways whose name has this in it, as "tcpMux off"; all where none is named.
        #[arg(long)]
        way: Option<String>,
    },
    /// Floods of SYNs, logins, and readers that read nothing: how do an invite's neighbours fare?
    Flood {
        /// SYNs per second.
        #[arg(long, default_value_t = 50_000)]
        rate: u32,
        /// New connections of the neighbour's, in each run.
        #[arg(long, default_value_t = 1000)]
        rounds: u32,
    },
    /// SIGKILL of the node's daemon and of the control plane, with users on: the kernel goes on.
    Headless {
        /// How long both are away.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// The kernel programs of an earlier commit and this one's follow each other under a flood, with users on, in one
    /// ABI: does nothing get through, and is nothing lost? As root.
    Upgrade {
        /// The earlier commit, as git names one.
        #[arg(long, default_value = "HEAD~1")]
        from: String,
    },
    /// Random packets in random maps through the kernel programs: is each judged, changed and counted as a
    /// model of them does? As root.
    Packets {
        /// How many.
        #[arg(long, default_value_t = 10_000_000)]
        packets: u64,
        /// Repeats the chance of a run.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Connections and flows that are made, used, cut and ended in random order: is each judged and counted as a model
    /// does? As root.
    Sockets {
        /// How many steps.
        #[arg(long, default_value_t = 200_000)]
        steps: u64,
        /// Repeats the chance of a run.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// libFuzzer: does every reader of bytes from outside keep to what it must?
    Fuzz {
        /// Which ones; all of them where none is named.
        targets: Vec<String>,
        /// How long each.
        #[arg(long, default_value_t = 2)]
        minutes: u64,
        /// Instead: which lines of each reader does its corpus reach, and which does it miss?
        #[arg(long, conflicts_with = "minutes")]
        coverage: bool,
        /// The coverage as JSON.
        #[arg(long, requires = "coverage")]
        json: bool,
    },
    /// schemathesis against the control plane: does it answer what it documents, and nothing else?
    Api {
        /// Cases of each call and phase.
        #[arg(long, default_value_t = 500)]
        cases: u32,
    },
}

/// Runs one of them.
pub(crate) fn run(soak: &Soak) -> Result<u8> {
    match soak {
        Soak::Faults {
            rounds,
            clients,
            seed,
        } => {
            let mut words = vec![format!("--rounds={rounds}"), format!("--clients={clients}")];
            words.extend(seed.map(|seed| format!("--seed={seed}")));
            return demo::lab("faults", &words);
        }
        Soak::Spool { rounds } => {
            demo::build()?;
            let env = [("TOTORO_SPOOL_ROUNDS", rounds.to_string())];
            let test = "kills::every_event_lands";
            run_test(Of::Binary("spool"), test, &[], &env)
        }
        Soak::Install { optimised, as_is } => install::run(*optimised, *as_is),
        Soak::Durability { rounds } => {
            let env = [("TOTORO_DURABILITY_ROUNDS", rounds.to_string())];
            control("durability::acknowledged", &[], &env)
        }
        Soak::Power { rounds } => {
            let env = [("TOTORO_POWER_ROUNDS", rounds.to_string())];
            control("power::acknowledged", &[], &env)?;
            let env = [("TOTORO_CASES", rounds.to_string())];
            let test = "power_tests::what_was";
            run_test(Of::Package("totoro-node"), test, &[], &env)
        }
        Soak::Revoke { rounds, way } => {
            let mut words = vec![format!("--rounds={rounds}")];
            words.extend(way.as_ref().map(|way| format!("--way={way}")));
            return demo::lab("revoke", &words);
        }
        Soak::Flood { rate, rounds } => {
            let words = [format!("--rate={rate}"), format!("--rounds={rounds}")];
            return demo::lab("flood", &words);
        }
        Soak::Headless { minutes } => {
            return demo::lab("headless", &[format!("--seconds={}", 60 * minutes)]);
        }
        Soak::Upgrade { from } => upgrade(from),
        Soak::Packets { packets, seed } => random_packets(*packets, *seed),
        Soak::Sockets { steps, seed } => random_sockets(*steps, *seed),
        Soak::Fuzz {
            targets,
            coverage: true,
            json,
            ..
        } => return fuzz::coverage::run(targets, *json),
        Soak::Fuzz {
            targets, minutes, ..
        } => {
            return fuzz::run(targets, Duration::from_secs(60 * minutes));
        }
        Soak::Api { cases } => {
            schemathesis::install()?;
            schemathesis::run(*cases)
        }
    }
    .map(|()| 0)
}

/// The kernel tests of upgrades, with another commit's object.
fn upgrade(from: &str) -> Result<()> {
    bpf::build()?;
    let object = older::object(from)?;
    let env = [
        ("TOTORO_REQUIRE_KERNEL", "1".to_owned()),
        ("TOTORO_OTHER_OBJECT", object.display().to_string()),
    ];
    run_test(Of::Binary("kernel"), "upgrade::", &[], &env)
}

/// The kernel test of sockets in random order, for longer.
fn random_sockets(steps: u64, seed: Option<u64>) -> Result<()> {
    bpf::build()?;
    let mut env = vec![
        ("TOTORO_REQUIRE_KERNEL", "1".to_owned()),
        ("TOTORO_STEPS", steps.to_string()),
    ];
    env.extend(seed.map(|seed| ("TOTORO_SEED", seed.to_string())));
    run_test(Of::Binary("kernel"), "random::", &[], &env)
}

/// Random packets, with the kernel object of this checkout.
fn random_packets(packets: u64, seed: Option<u64>) -> Result<()> {
    bpf::build()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["run", "--locked", "--package", "totoro-packets", "--"])
        .arg(format!("--packets={packets}"))
        .args(seed.map(|seed| format!("--seed={seed}")))
        .env("TOTORO_OBJECT", bpf::object())
        .env("CARGO_TARGET_DIR", target());
    let status = command.status().context("start the packets")?;
    if !status.success() {
        bail!("a packet is judged another way than the model does, or could not be run ({status})");
    }
    Ok(())
}

/// A test of the control plane under this environment; it prints what it counted.
pub(crate) fn control(test: &str, words: &[&str], env: &[(&str, String)]) -> Result<()> {
    run_test(Of::Binary("control"), test, words, env)
}

/// Where a test is.
#[derive(Clone, Copy)]
pub(crate) enum Of<'a> {
    /// Among the own tests of a package.
    Package(&'a str),
    /// In the binary of this name.
    Binary(&'a str),
}

/// Runs a test by its name.
pub(crate) fn run_test(
    of: Of<'_>,
    test: &str,
    words: &[&str],
    env: &[(&str, String)],
) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .arg("test")
        .args(match of {
            Of::Package(package) => ["--package", package, "--lib"],
            // For one package alone those that it needs would be built once more, with fewer features.
            Of::Binary(binary) => ["--workspace", "--test", binary],
        })
        .args(["--locked", "--", test, "--nocapture"])
        .args(words)
        .env("CARGO_TARGET_DIR", target())
        .envs(env.iter().map(|(name, value)| (name, value)));
    let status = command.status().context("start cargo test")?;
    if !status.success() {
        bail!("{test} failed ({status}); TOTORO_SEED repeats the chance of a run");
    }
    Ok(())
}
