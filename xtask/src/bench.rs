//! `bench`: figures as ratios within one run, in a release build. `docs/benchmarks.md` keeps them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{bpf, dist, machine, path, root, setup, step, target};

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Whether the second of two runs (directories below target/bench, or their run.json) is worse than
    /// the first, by more than noise, or can't judge a goal that the first could: the exit code is 1 then,
    /// and 3 where there are too few samples to tell.
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    compare: Vec<PathBuf>,
    #[command(subcommand)]
    bench: Option<Bench>,
}

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// The control plane's calls against a bare handler and the store's own group commit; the audit
    /// trail.
    Control {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, clients, events: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// The node: logins and proxies against a bare handler, changes on their way to the kernel, a node
    /// with 10,000 tenants and 65,536 leases. As root.
    Node {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, tenants, leases: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// How exact limits and counts are: bursts of connections, the end of a tunnel, counters beside a
    /// capture, UDP flows. As root.
    Accuracy {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, bursts, limits: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// What the node costs who uses it: new connections beside nft and a plugin, throughput and latency
    /// with and without XDP, what a flood leaves to a neighbour. As root.
    Tunnel {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, seconds, users: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// The kernel programs: nanoseconds per packet and per connection beside empty programs and
    /// xdp-filter, memory, load time. As root.
    Dataplane {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, runs per round, parts: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// The client: from its start to the first byte, and what gets through, against a stock frpc
    /// started by hand. As root.
    Client {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Rounds, downloads: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// The control plane with 10,000 nodes that watch and report, and 1,000,000 invites: processor
    /// time, memory, cold start, the way of a change to its node; without TLS and with it.
    Scale {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Nodes, invites, changes: see `-- --help`.
        #[arg(last = true)]
        more: Vec<String>,
    },
}

/// Measures, or compares; the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    match &args.bench {
        Some(bench) => measure(bench).map(|()| 0),
        None => compare(&args.compare),
    }
}

/// Whether a run is worse than another: what `totoro-report` says.
fn compare(runs: &[PathBuf]) -> Result<u8> {
    let mut report = cargo(&[
        "run",
        "--quiet",
        "--locked",
        "--package",
        "totoro-report",
        "--",
    ]);
    for run in runs {
        report.arg(std::path::absolute(run).context("where we are")?);
    }
    let status = report.status().context("start cargo")?;
    match status.code() {
        Some(code @ (0 | 1 | 3)) => Ok(code as u8),
        _ => bail!("the runs could not be compared ({status})"),
    }
}

fn measure(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Control { json, more } => {
            let mut bench = cargo(&["bench", "--locked", "--package", "totoro-control"]);
            bench.args(["--bench", "control", "--"]);
            ended(bench.args(json.then_some("--json")).args(more))
        }
        Bench::Node { json, more } => {
            dist::daemons(&dist::Args {
                revision: 1,
                dev: false,
            })?;
            let mut bench = cargo(&["bench", "--locked", "--package", "totoro-tests"]);
            bench.args(["--bench", "node", "--"]);
            ended(bench.args(json.then_some("--json")).args(more))
        }
        Bench::Accuracy { json, more } => suite("accuracy", *json, more),
        Bench::Tunnel { json, more } => {
            baseline("nft", "nftables");
            suite("tunnel", *json, more)
        }
        Bench::Dataplane { json, more } => {
            machine::require_kernel()?;
            bpf::build()?;
            bpf::build_baseline()?;
            baseline("xdp-filter", "xdp-tools");
            let mut bench = cargo(&["bench", "--locked", "--package", "totoro-tests"]);
            bench.args(["--bench", "dataplane", "--"]);
            ended(bench.args(json.then_some("--json")).args(more))
        }
        Bench::Client { json, more } => {
            let args = dist::Args {
                revision: 1,
                dev: false,
            };
            dist::build(&args, &[dist::CLIENT])?;
            let mut bench = cargo(&["bench", "--locked", "--package", "totoro-tests"]);
            bench.args(["--bench", "client", "--"]);
            ended(bench.args(json.then_some("--json")).args(more))
        }
        Bench::Scale { json, more } => {
            let packages = ["--package", "totoro-control", "--package", "totoro-load"];
            let mut build = cargo(&["build", "--release", "--locked", "--bins"]);
            ended(build.args(packages))?;
            let mut load = Command::new(target().join("release/totoro-load"));
            load.current_dir(root());
            ended(load.args(json.then_some("--json")).args(more))
        }
    }
}

/// A suite of `tests/measure`, with the daemons and the lab's other programs in release builds.
fn suite(name: &str, json: bool, more: &[String]) -> Result<()> {
    let args = dist::Args {
        revision: 1,
        dev: false,
    };
    dist::build(&args, &[dist::CLIENT])?;
    // A build of its own: what is measured has the features that it is shipped with.
    let mut build = cargo(&["build", "--release", "--locked", "--bins"]);
    ended(build.args(["--package", "totoro-measure"]))?;
    let mut measure = Command::new(target().join("release/totoro-measure"));
    measure.current_dir(root()).arg(name);
    ended(measure.args(json.then_some("--json")).args(more))
}

/// Installs what Totoro is measured beside, where that can be had; the bench says what it lacks.
fn baseline(program: &str, package: &str) {
    if path::find(program).is_some() {
        return;
    }
    let why = format!("the bench measures beside {program}");
    if let Err(error) = setup::Apt::default().install(&[package.to_owned()], &why) {
        step::skip(program, &format!("not measured: {error:#}"));
    }
}

fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(args)
        .env("CARGO_TARGET_DIR", target());
    command
}

/// Runs it; that it failed is an error.
fn ended(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let status = command
        .status()
        .with_context(|| format!("start {}", name.display()))?;
    if !status.success() {
        bail!("the bench failed ({status})");
    }
    Ok(())
}
