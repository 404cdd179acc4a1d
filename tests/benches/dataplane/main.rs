//! What the kernel programs cost, beside programs that do nothing and beside xdp-filter, in the same run:
//! per packet, per connection, in memory, until they are loaded. `cargo xtask bench dataplane`;
//! `docs/benchmarks.md` has the figures.

mod classes;
mod filter;
mod memory;
mod nft;
mod node;
mod packets;
#[path = "../node/place.rs"]
mod place;
mod programs;
mod server;
mod shield;
mod sockets;
mod table;
mod tc;
mod xdp;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use totoro_report::Run;

/// Options.
#[derive(Debug, Parser)]
struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Rounds in which all are measured in turn.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Runs of a program in a round.
    #[arg(long, default_value_t = 200_000)]
    repeat: u32,
    /// Only parts whose name has this in it: table, xdp-same, xdp-others, xdp-growth, nft, tc,
    /// sockets, memory.
    #[arg(long, default_value = "")]
    only: String,
    /// Only classes of packets whose name has this in it.
    #[arg(long, default_value = "")]
    class: String,
    /// Totoro's kernel object, instead of `target/bpf/totoro-ebpf.o`: an earlier one, say.
    #[arg(long)]
    object: Option<PathBuf>,
    /// Serve these ports, with commas between them; how this program starts itself.
    #[arg(long, hide = true, value_delimiter = ',')]
    serve: Vec<u16>,
    /// The same of UDP.
    #[arg(long, hide = true, value_delimiter = ',')]
    serve_udp: Vec<u16>,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn wants(&self, part: &str) -> bool {
        part.contains(&self.only)
    }

    /// Totoro's object.
    fn object(&self) -> PathBuf {
        let own = self.object.clone();
        own.unwrap_or_else(|| built("totoro-ebpf.o"))
    }

    /// The baselines' object.
    fn baseline(&self) -> PathBuf {
        built("totoro-baseline.o")
    }
}

/// An object that `cargo xtask` builds.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/bpf")
        .join(name)
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
    if !args.serve.is_empty() {
        return server::serve(&args.serve, &args.serve_udp);
    }
    // Before there is a second thread: all that is started later lives in the same namespace.
    let place = place::Place::enter();
    let progress = Progress(Instant::now());
    let mut run = Run::new("dataplane");
    run.only("--only", &args.only);
    run.only("--class", &args.class);
    if let Some(object) = &args.object {
        let object = object.display();
        run.note(format!(
            "Totoro's programs are those of {object}, not this commit's."
        ));
    }
    if args.wants(table::PART) {
        table::measure(&args, &mut run, &progress);
    }
    if xdp::PARTS.into_iter().any(|part| args.wants(part)) {
        // Beside the pins, whose directory is the node's; bpffs takes no dots.
        let mut filter = place.0.pins.clone().into_os_string();
        filter.push("-filter");
        xdp::measure(&args, Path::new(&filter), &mut run, &progress);
    }
    if args.wants(nft::PART) {
        nft::measure(&args, &mut run, &progress);
    }
    if args.wants("tc") {
        tc::measure(&args, &mut run, &progress);
    }
    let (pins, cgroup) = (&place.0.pins, &place.0.cgroup);
    if args.wants("sockets") {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let _guard = runtime.enter();
        sockets::measure(&args, pins, cgroup, &mut run, &progress);
    }
    if args.wants("memory") {
        memory::measure(&args, pins, cgroup, &mut run, &progress);
    }
    drop(place);
    run.finish(args.json).expect("write the report");
    totoro_tests::lab::settle();
}
