//! How fast the node is, as ratios within one run: the real daemon with its programs in the kernel and a
//! bare handler, asked in turns by the same clients on loopback of a network namespace; then a node with
//! many tenants and leases. `cargo xtask bench node`; `docs/benchmarks.md` has the figures.

mod bare;
mod client;
mod daemons;
mod frps;
mod full;
mod logins;
mod place;
mod rounds;
mod seen;
mod series;
mod timer;

use std::time::{Duration, Instant};

use clap::Parser;
use totoro_report::Run;

// The daemon's, so that the bare handler has no other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Options.
#[derive(Debug, Parser)]
struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Rounds in which all are measured in turn.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Requests at once, each on its own connection, as frps asks.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long each is measured in a round, milliseconds.
    #[arg(long, default_value_t = 300)]
    millis: u64,
    /// Seconds of 1,000 logins each.
    #[arg(long, default_value_t = 10)]
    seconds: usize,
    /// Tenants of the full node.
    #[arg(long, default_value_t = 10_000)]
    tenants: usize,
    /// Its leases.
    #[arg(long, default_value_t = 65_536)]
    leases: usize,
    /// Changes of policy.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Seconds for which the full node is watched while nobody asks: two of its looks at frps's proxies, and
    /// of what it does each minute, are in them.
    #[arg(long, default_value_t = 135)]
    watched: u64,
    /// Only parts whose name has this in it: calls, sustained, changes, full.
    #[arg(long, default_value = "")]
    only: String,
    /// Serve the bare handler, which verifies with these keys; how this program starts itself.
    #[arg(long, hide = true)]
    serve_bare: Option<String>,
    /// Be where frps would be; how this program starts itself.
    #[arg(long, hide = true)]
    serve_frps: bool,
    /// Be frps's admin API, with the answers in this directory; how this program starts itself.
    #[arg(long, hide = true)]
    serve_admin: Option<std::path::PathBuf>,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Says on stderr how far it is.
struct Progress(Instant);

impl Progress {
    fn says(&self, what: &str) {
        eprintln!("{:6.1} s: {what}", self.0.elapsed().as_secs_f64());
    }
}

fn main() {
    let args = Args::parse();
    let serves = args.serve_frps || args.serve_bare.is_some() || args.serve_admin.is_some();
    // Before there is a second thread: all that is started later lives in the same namespace.
    let place = (!serves).then(place::Place::enter);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if args.serve_frps {
        return runtime.block_on(frps::serve_frps());
    }
    if let Some(dir) = &args.serve_admin {
        return runtime.block_on(frps::serve_admin(dir));
    }
    if let Some(keys) = &args.serve_bare {
        return runtime.block_on(bare::serve(keys));
    }
    let mut run = Run::new("node");
    run.only("--only", &args.only);
    runtime.block_on(measure(&args, &place.as_ref().unwrap().0, &mut run));
    drop(place);
    run.finish(args.json).expect("write the report");
    totoro_tests::lab::settle();
}

async fn measure(args: &Args, place: &place::Paths, run: &mut Run) {
    let progress = Progress(Instant::now());
    let wanted = |part: &str| part.contains(&args.only);
    if ["calls", "sustained", "changes"].into_iter().any(wanted) {
        let daemons = daemons::Daemons::start(place, "usual");
        let tenants = daemons.invites(args.tenants).await;
        progress.says(&format!("control plane, node, {} invites", tenants.len()));
        let some = tenants.get(..2 * logins::SESSIONS).expect("more tenants");
        let logins = logins::Logins::open(&daemons, some).await;
        progress.says(&format!("{} sessions", some.len()));
        if wanted("calls") {
            let rounds = rounds::Rounds {
                count: args.rounds,
                clients: args.clients,
                length: Duration::from_millis(args.millis),
            };
            let others = &tenants[some.len()..];
            rounds.run(&daemons, &logins, others, run, &progress).await;
        }
        if wanted("sustained") {
            logins.sustained(&daemons, args.seconds, run).await;
            progress.says("sustained logins");
        }
        if wanted("changes") {
            let part = format!("Changes of policy, {} invites", tenants.len());
            full::changes(&daemons, &tenants, args.changes, &part, run);
            progress.says("changes of policy");
        }
    }
    if wanted("full") {
        let mut daemons = daemons::Daemons::start(place, "full");
        let tenants = daemons.invites(args.tenants).await;
        let logins = logins::Logins::open(&daemons, &tenants).await;
        progress.says(&format!("another node with {} sessions", tenants.len()));
        let leased = logins.lease(args.leases).await;
        progress.says(&format!("{} leases, {:.0}/s", args.leases, leased.rate));
        let frps = logins.answers(&daemons, args.leases);
        full::measure(&mut daemons, args, &tenants, &frps, run, &progress);
    }
}
