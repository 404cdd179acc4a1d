//! The control plane at scale: the real server, nodes that watch and report by the ten thousand, and
//! invites by the million, on loopback. `cargo xtask bench scale`; `docs/benchmarks.md` has figures.

mod beat;
mod change;
mod client;
mod fleet;
mod report;
mod server;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use totoro_report::{Goal, Run, percentile};

use beat::{Beats, Connections};
use fleet::Node;
use report::{Report, mib};
use server::Server;
use watch::{How, Watchers};

/// Load for the control plane.
#[derive(Debug, Parser)]
#[command(name = "totoro-load", version)]
struct Args {
    /// Nodes; each watches, and reports.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Invites, spread over the nodes.
    #[arg(long, default_value_t = 1_000_000)]
    invites: usize,
    /// Changes that are followed to their node.
    #[arg(long, default_value_t = 2000)]
    changes: usize,
    /// Changes per second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// How often each node reports, seconds.
    #[arg(long, default_value_t = 15)]
    interval: u64,
    /// For how long the server's processor time is measured with heartbeats, seconds, up to whole periods of what
    /// watchers cost; without them for one such period.
    #[arg(long, default_value_t = 60)]
    measure: u64,
    /// How nodes follow their policy.
    #[arg(long, value_enum, default_value_t = How::Stream)]
    watch: How,
    /// Whether a heartbeat's connection is kept for the next: that takes two descriptors per node.
    #[arg(long, value_enum, default_value_t = Connections::Fresh)]
    heartbeats: Connections,
    /// Without the second half, over TLS.
    #[arg(long)]
    plain_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The server's binary; beside this one unless it is given.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Where its directory is made: on a disk, not in memory.
    #[arg(long, default_value = "target/load")]
    dir: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let connections = match args.heartbeats {
        Connections::Kept => 2 * args.nodes,
        Connections::Fresh => args.nodes,
    };
    descriptors(connections as u64 + 300)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            report = run(&args) => report,
            // The server ends with us, and its directory goes.
            _ = tokio::signal::ctrl_c() => bail!("ended by SIGINT"),
            _ = terminate.recv() => bail!("ended by SIGTERM"),
        }
    })?;
    report.run().finish(args.json).context("write the report")?;
    Ok(())
}

/// Raises the limit on open files as far as it goes, which must be far enough.
fn descriptors(need: u64) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= need,
        "{need} descriptors are needed and the hard limit is {hard}: raise it (ulimit -Hn), take fewer \
         --nodes, or --heartbeats fresh"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Says how it is measured.
fn how(args: &Args, run: &mut Run) {
    if args.plain_only {
        run.only.push("--plain-only".to_owned());
    }
    let watch = match args.watch {
        How::Stream => "by a stream",
        How::Poll => "by polls",
    };
    let beats = match args.heartbeats {
        Connections::Fresh => "on a new connection each",
        Connections::Kept => "on a connection that is kept",
    };
    run.note(format!(
        "Each node watches {watch}, and reports every {} s {beats}; {} changes, {} a second; processor time over \
         {} s. The generator shares the server's processors.",
        args.interval,
        args.changes,
        args.rate,
        args.watch.whole(args.measure).as_secs()
    ));
}

async fn run(args: &Args) -> Result<Report> {
    let binary = match &args.server {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("totoro-control"),
    };
    let mut report = Report::new(args.nodes, args.invites);
    how(args, report.run());
    report.column("plain HTTP");
    let interval = Duration::from_secs(args.interval);
    // After three intervals of silence a node is told to be offline, with its event. Of the first one has passed
    // when heartbeats end.
    let alone = args.watch.whole(1);
    ensure!(
        alone <= 2 * interval,
        "watchers alone are measured for {alone:?}, in which nodes would be told to be offline: --interval {} at least",
        alone.as_secs().div_ceil(2)
    );
    let mut server = Server::new(&binary, &args.dir, args.nodes, interval).await?;
    report.add("resident, empty", mib(server.resident()?.0), "MiB");
    let (nodes, took) = fleet::enrol(&server.target, &server.admin, args.nodes).await?;
    report.add("nodes enrolled in", took.as_secs_f64(), "s");
    report.add("resident, with nodes", mib(server.resident()?.0), "MiB");
    let (nodes, took) = fleet::fill(&server.target, nodes, args.invites).await?;
    report.add("invites made in", took.as_secs_f64(), "s");
    report.add("resident, with invites", mib(server.resident()?.0), "MiB");
    report.add("store and trail on the disk", mib(server.on_disk()?), "MiB");
    let mut watchers = serve(args, &mut server, &nodes, false, &mut report).await?;
    if !args.plain_only {
        // It is killed with all of them open.
        report.column("TLS");
        watchers = serve(args, &mut server, &nodes, true, &mut report).await?;
    }
    let ended = server.terminate().await.context("end the server")?;
    report.add("ended in, with all watchers open", ended.as_secs_f64(), "s");
    drop(watchers);
    Ok(report)
}

/// A start, watchers, heartbeats and changes, with TLS or without.
async fn serve(
    args: &Args,
    server: &mut Server,
    nodes: &[Arc<Node>],
    tls: bool,
    report: &mut Report,
) -> Result<Watchers> {
    server.crash(tls).await?;
    report.add_goal(
        "start after SIGKILL, no file cached",
        server.started_in.as_secs_f64(),
        "s",
        Goal::at_most(10.0),
    );
    report.add("read from the disk by then", mib(server.read()?), "MiB");
    report.add(
        "resident, after the start",
        mib(server.resident()?.0),
        "MiB",
    );

    // Apart from the watchers: what reading all of the state costs, through the store's cache.
    let stands = watch::take_over(&server.target, nodes).await?;
    report.add("resident, all of it read", mib(server.resident()?.0), "MiB");
    let watchers = watch::all(&server.target, nodes, stands, args.watch).await?;
    report.add(
        "watchers connected in",
        watchers.connected_in.as_secs_f64(),
        "s",
    );
    report.add("resident, with watchers", mib(server.resident()?.0), "MiB");
    let interval = Duration::from_secs(args.interval);
    let beats = beat::all(&server.target, nodes, interval, args.heartbeats)?;
    // The first of each is told in the trail; what goes on is what is asked for.
    tokio::time::sleep(interval + Duration::from_secs(1)).await;
    let (before, began) = (answered(&beats), Instant::now());
    let both = busy(server, args.watch.whole(args.measure)).await?;
    let rate = (answered(&beats) - before) / began.elapsed().as_secs_f64();
    let (resident, most) = server.resident()?;
    let goal = Goal::at_most(1024.0);
    report.add_goal("resident, with heartbeats", mib(resident), "MiB", goal);

    let board = &watchers.board;
    let delays = change::measure(&server.target, nodes, board, (args.changes, args.rate)).await?;
    report.add(
        "a change sent, to its node, p50",
        percentile(&delays.sent, 50),
        "ms",
    );
    report.add_goal(
        "a change sent, to its node, p99",
        percentile(&delays.sent, 99),
        "ms",
        Goal::at_most(20.0),
    );
    report.add(
        "its answer, to its node, p50",
        percentile(&delays.answered, 50),
        "ms",
    );
    report.add(
        "its answer, to its node, p99",
        percentile(&delays.answered, 99),
        "ms",
    );
    report.add("resident, at most", mib(most), "MiB");

    #[expect(clippy::cast_precision_loss, reason = "a run has few of them")]
    let count = |count: u64| count as f64;
    report.add(
        "latest heartbeat sent late by",
        count(beats.counts.latest.load(Ordering::Relaxed)),
        "ms",
    );
    let failed = count(beats.counts.failed.load(Ordering::Relaxed) as u64);
    let (lost, why) = board.lost();
    let due = count(args.nodes as u64) / interval.as_secs_f64();
    report.served((rate, due), failed, count(lost as u64));
    if let Some(why) = why {
        eprintln!("the first watcher was lost: {why}");
    }
    // Until the changes' events are in segments.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(beats);
    // Not before them: who has not reported yet is looked up each second.
    let idle = busy(server, args.watch.whole(1)).await?;
    report.add("processor, heartbeats and watchers", both, "% of a core");
    report.add("processor, watchers alone", idle, "% of a core");
    report.add_goal(
        "processor for heartbeats",
        both - idle,
        "% of a core",
        Goal::at_most(25.0),
    );
    report.add(
        "processor per heartbeat",
        (both - idle) / 100.0 / rate * 1e6,
        "µs",
    );
    Ok(watchers)
}

/// Heartbeats that were answered so far.
#[expect(clippy::cast_precision_loss, reason = "a run has few heartbeats")]
fn answered(beats: &Beats) -> f64 {
    beats.counts.answered.load(Ordering::Relaxed) as f64
}

/// How busy the server is for so long, percent of one core.
async fn busy(server: &Server, length: Duration) -> Result<f64> {
    let (cpu, began) = (server.cpu()?, Instant::now());
    tokio::time::sleep(length).await;
    let used = server.cpu()? - cpu;
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}
