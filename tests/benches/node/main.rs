//! How fast the node is, as ratios within one run: the real daemon with its programs in the kernel and a
//! bare handler, asked in turns by the same clients on loopback of a network namespace; then a node with
//! many tenants and leases. `cargo xtask bench node`; `docs/benchmarks.md` has the figures.

mod bare;
mod client;
mod daemons;
mod full;
mod logins;
mod place;
mod rounds;
mod series;

use std::time::Duration;

use clap::Parser;

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
    /// Serve the bare handler, which verifies with these keys; how this program starts itself.
    #[arg(long, hide = true)]
    serve_bare: Option<String>,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What, how much, of what, and the most that it may be.
struct Figure(String, f64, &'static str, Option<f64>);

fn main() {
    let args = Args::parse();
    // Before there is a second thread: all that is started later lives in the same namespace.
    let place = args.serve_bare.is_none().then(place::Place::enter);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Some(keys) = &args.serve_bare {
        return runtime.block_on(bare::serve(keys));
    }
    let figures = runtime.block_on(measure(&args, &place.unwrap()));
    show(&args, &figures);
}

async fn measure(args: &Args, place: &place::Place) -> Vec<Figure> {
    let mut daemons = daemons::Daemons::start(place);
    let tenants = daemons.invites(args.tenants).await;
    eprintln!("{} invites", tenants.len());
    let rounds = rounds::Rounds {
        count: args.rounds,
        clients: args.clients,
        length: Duration::from_millis(args.millis),
    };
    let mut logins = logins::Logins::open(&daemons, &tenants).await;
    let mut figures = rounds.run(&daemons, &mut logins).await;
    figures.push(logins.sustained(&daemons, args.seconds).await);
    figures.extend(full::changes(&daemons, &tenants, args.changes));
    logins.lease(&daemons, args.leases).await;
    figures.extend(full::measure(&mut daemons, args.leases));
    figures
}

fn show(args: &Args, figures: &[Figure]) {
    if args.json {
        let all: Vec<_> = figures
            .iter()
            .map(|Figure(what, is, unit, most)| {
                serde_json::json!({ "what": what, "is": is, "unit": unit, "goal": most })
            })
            .collect();
        println!("{:#}", serde_json::Value::Array(all));
        return;
    }
    println!(
        "{} requests at once, medians of {} rounds of {} ms; {} tenants, {} leases\n",
        args.clients, args.rounds, args.millis, args.tenants, args.leases
    );
    println!("| what | is | | goal | |\n|---|---:|---|---:|---|");
    for Figure(what, is, unit, most) in figures {
        let (goal, verdict) = match most {
            None => (String::new(), ""),
            Some(most) if is <= most => (format!("≤ {most}"), "met"),
            Some(most) => (format!("≤ {most}"), "**missed**"),
        };
        println!("| {what} | {is:.2} | {unit} | {goal} | {verdict} |");
    }
}
