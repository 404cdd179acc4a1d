//! How fast the control plane is, as ratios within one run: the real server and a bare handler, both
//! processes of their own on loopback, asked by the same clients in turns, and the store's own group
//! commit between them. `cargo xtask bench control`; `docs/benchmarks.md` has the figures.

mod bare;
mod client;
mod disk;
mod frps;
mod rounds;
mod series;
mod server;
#[expect(dead_code, reason = "the tests use all of it, these figures a part")]
#[path = "../../tests/control/support/mod.rs"]
mod support;
mod tls;
mod trail;

use std::time::Duration;

use clap::Parser;
use totoro_report::Run;

use rounds::Rounds;

// As the server has: the bare handlers are in this program.
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
    /// Clients that ask at once, each on its own connection.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// How long each is measured in a round, milliseconds.
    #[arg(long, default_value_t = 300)]
    millis: u64,
    /// Only calls whose name has this in it, and their baselines.
    #[arg(long, default_value = "")]
    only: String,
    /// All calls over TLS, to the bare handlers too.
    #[arg(long)]
    tls: bool,
    /// A slower disk for all of them: each sync takes so many microseconds at least.
    #[arg(long, default_value_t = 0)]
    sync_micros: u64,
    /// Events through the audit trail; 0 leaves it out.
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// Serve the bare handlers, which verify with these keys; how this program starts itself.
    #[arg(long, hide = true)]
    serve_bare: Option<String>,
    /// The bare handlers write to a store in this directory.
    #[arg(long, hide = true)]
    store: Option<std::path::PathBuf>,
    /// The bare handlers speak TLS with the certificate in this directory.
    #[arg(long, hide = true)]
    certificate: Option<std::path::PathBuf>,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    if args.sync_micros > 0 {
        disk::slow_down(args.sync_micros);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build();
    runtime.expect("threads can be started").block_on(run(args));
}

async fn run(args: Args) {
    if let Some(keys) = &args.serve_bare {
        let (store, certificate) = (args.store.as_deref(), args.certificate.as_deref());
        return bare::serve(keys, store, certificate).await;
    }
    let disk = match args.sync_micros {
        0 => String::new(),
        micros => format!(", each sync {micros} µs at least"),
    };
    let mut run = Run::new("control");
    run.only("--only", &args.only);
    if args.events == 0 {
        run.only("--events", "0");
    }
    let rounds = Rounds {
        count: args.rounds,
        clients: args.clients,
        length: Duration::from_millis(args.millis),
        only: args.only.clone(),
        tls: args.tls,
        how: format!("{}{disk}", if args.tls { ", over TLS" } else { "" }),
    };
    rounds.run(&mut run).await;
    if args.events > 0 {
        trail::measure(args.events, &disk, &mut run).await;
    }
    run.finish(args.json).expect("write the report");
}
