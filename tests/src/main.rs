//! `totoro-lab`: the demo.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use totoro_tests::faults;
use totoro_tests::hostile::{flood, logins, readers, revoke};
use totoro_tests::lab::{self, Lab, Options, Tools};
use totoro_tests::net::backend::Backend;
use totoro_tests::report::Report;
use totoro_tests::story;

/// A lab of network namespaces with real frps and frpc.
#[derive(Debug, Parser)]
#[command(name = "totoro-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays the story, each line a check with a measured figure.
    Demo(Demo),
    /// Plays an outage of the control plane.
    Outage(Outage),
    /// Kills and breaks the lab's parts at random, and looks whether all converges.
    Faults(Faults),
    /// Revokes invites in use, by every way that frpc may take: how long until the last byte?
    Revoke {
        /// Rounds of each way.
        #[arg(long, default_value_t = 200)]
        rounds: u16,
        /// Only ways whose name has this in it.
        #[arg(long, default_value = "")]
        way: String,
    },
    /// Floods: SYNs to one invite's port, readers that read nothing, logins; how do others fare?
    Flood {
        /// SYNs per second.
        #[arg(long, default_value_t = 50_000)]
        rate: u32,
        /// New connections of the neighbour's, in each of four runs.
        #[arg(long, default_value_t = 1_000)]
        rounds: u32,
    },
    /// SIGKILL of daemon and control plane under load: the kernel goes on by itself.
    #[command(hide = true)]
    Headless {
        /// How long both are away.
        #[arg(long, default_value_t = 18)]
        seconds: u64,
    },
    /// Serves behind frpc in a kept lab.
    #[command(hide = true)]
    Backend {
        /// The TCP service's port on 127.0.0.1.
        tcp: u16,
        /// The UDP service's port on 127.0.0.1.
        udp: u16,
    },
}

#[derive(Debug, Args)]
struct Demo {
    /// `down` removes labs that `--keep` (or a SIGKILL) left.
    #[arg(value_parser = ["down"])]
    what: Option<String>,
    /// With `down`: only this lab.
    lab: Option<String>,
    /// One JSON object per check, then one with both counts; the last line stays the plain one.
    #[arg(long)]
    json: bool,
    /// Leave the lab running, and write target/demo/lab.env.
    #[arg(long)]
    keep: bool,
    /// Names the lab in the kernel; by default after the process id.
    #[arg(long, env = "TOTORO_TEST_TAG", hide = true)]
    tag: Option<String>,
    /// Play only so many of the story's items.
    #[arg(long, hide = true, default_value_t = usize::MAX)]
    items: usize,
}

#[derive(Debug, Args)]
struct Outage {
    /// Names the lab in the kernel; by default after the process id.
    #[arg(long, env = "TOTORO_TEST_TAG", hide = true)]
    tag: Option<String>,
}

#[derive(Debug, Args)]
struct Faults {
    /// Rounds at most.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
    /// No round begins after so many seconds.
    #[arg(long, default_value_t = u64::MAX)]
    seconds: u64,
    /// How many frpc, 2 to 10.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(2..=10))]
    clients: u8,
    /// Repeats the chance of a run.
    #[arg(long, env = "TOTORO_SEED")]
    seed: Option<u64>,
    /// Names the lab in the kernel; by default after the process id.
    #[arg(long, env = "TOTORO_TEST_TAG", hide = true)]
    tag: Option<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(demo) if demo.what.is_some() => down(demo.lab),
        Command::Demo(demo) => play(&demo),
        Command::Outage(asked) => be_away(asked),
        Command::Faults(asked) => break_things(&asked),
        Command::Revoke { rounds, way } => hostile(|| revoke::play(rounds, &way)),
        Command::Flood { rate, rounds } => hostile(|| {
            logins::play(Duration::from_secs(10))?;
            flood::play(rate, rounds)?;
            readers::play(readers::Played {
                readers: 1000,
                allowed: 85,
                rounds: 9,
                mib: 512,
            })
        }),
        Command::Headless { seconds } => headless(Duration::from_secs(seconds)),
        Command::Backend { tcp, udp } => Backend::serve_for_ever(tcp, udp).map(|()| true),
    };
    // A signal's exit code goes before ours.
    lab::settle();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays what has a lab of its own.
fn hostile(play: impl FnOnce() -> Result<()>) -> Result<bool> {
    lab::watch_signals()?;
    play().map(|()| true)
}

/// A lab, whose name is `tag` or made up.
fn raise(tag: Option<String>, keep: bool) -> Result<Lab> {
    let tools = Tools::locate()?;
    tools.require()?;
    lab::watch_signals()?;
    // reqwest is built without a TLS provider of its own choice.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let tag = tag.unwrap_or_else(|| lab::new_tag('d'));
    Lab::raise(tools, Options { tag, keep })
}

fn be_away(asked: Outage) -> Result<bool> {
    let lab = raise(asked.tag, false)?;
    let mut report = Report::new(false);
    story::outage::play(lab, &mut report)?;
    Ok(report.finish())
}

fn break_things(asked: &Faults) -> Result<bool> {
    let plan = faults::Plan {
        rounds: asked.rounds,
        seconds: asked.seconds,
        clients: usize::from(asked.clients),
        seed: match asked.seed {
            Some(seed) => seed,
            None => getrandom::u64().context("a seed")?,
        },
    };
    faults::run(raise(asked.tag.clone(), false)?, plan)
}

fn headless(lasts: Duration) -> Result<bool> {
    let lab = raise(std::env::var("TOTORO_TEST_TAG").ok(), false)?;
    println!("logs in {}", lab.dir.display());
    let mut report = Report::new(false);
    drop(story::headless::play(lab, &mut report, lasts)?);
    Ok(report.finish())
}

fn play(demo: &Demo) -> Result<bool> {
    let begun = Instant::now();
    let lab = raise(demo.tag.clone(), demo.keep)?;
    let mut report = Report::new(demo.json);
    if !demo.json {
        println!(
            "lab raised in {} ms, logs in {}",
            begun.elapsed().as_millis(),
            lab.dir.display()
        );
    }
    let world = story::play(lab, &mut report, demo.items)?;
    if demo.keep {
        let path = world.leave().context("leave the lab running")?;
        eprintln!(
            "the lab goes on; see {} and end it with `cargo xtask demo down`",
            path.display()
        );
    } else {
        drop(world);
    }
    if !demo.json {
        println!("\ntook {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(report.finish())
}

/// Takes the named lab down, or every abandoned one.
fn down(lab: Option<String>) -> Result<bool> {
    let tools = Tools::locate()?;
    if let Some(tag) = &lab {
        anyhow::ensure!(lab::exists(&tools, tag), "there is no lab {tag}");
    }
    let labs = lab.map_or_else(|| lab::abandoned(&tools), |tag| vec![tag]);
    let mut all = true;
    for tag in &labs {
        match lab::down(&tools, tag) {
            Ok(()) => println!("lab {tag} is down"),
            Err(error) => {
                all = false;
                eprintln!("error: {error:#}");
            }
        }
    }
    if labs.is_empty() {
        println!("no lab is left");
    }
    Ok(all)
}
