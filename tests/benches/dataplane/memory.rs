//! Memory and load time, by leases and tenants.

use std::path::Path;
use std::time::Instant;

use totoro_report::{Better, Figure, Run};

use crate::{Args, Progress, node};

const MIB: f64 = 1024.0 * 1024.0;
/// Leases, and of how many tenants in turn.
const SIZES: [(u32, u32, &str); 5] = [
    (0, 1, "nothing lent"),
    (1, 1, "1 lease"),
    (1_000, node::TENANTS, "1,000 leases and tenants"),
    (node::FULL, node::TENANTS, "65,536 leases and tenants"),
    (node::FULL, 1, "65,536 leases of one tenant"),
];
/// Loads of each size: a load is no test run, and takes a tenth of a second.
const LOADS: usize = 10;

/// Measures, and adds the figures.
pub(crate) fn measure(args: &Args, pins: &Path, cgroup: &Path, run: &mut Run, progress: &Progress) {
    let mut options = node::options(args.object(), pins, cgroup);
    // The shield is loaded for interfaces alone.
    options.interfaces = vec!["lo".to_owned()];
    let part = "Memory and load time";
    run.note(
        "Memory is what the kernel counts for the maps and programs of a node with one interface, in TC \
         (memlock of fdinfo: entries that are there, not those that may be). A first load begins \
         without pins; a later one takes over what a daemon before it left, and puts its own programs \
         in the place of the other's. Both are from the object on disk until every program is attached.",
    );
    let loads = args.rounds.min(LOADS);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..loads {
        let start = Instant::now();
        let kernel = node::load(&options);
        times[0].push(start.elapsed().as_secs_f64() * 1e3);
        node::unload(kernel, pins);
    }
    let ms = |name: &str, samples| Figure::new(part, name, "ms", Better::Less, samples);
    run.add(ms(
        "first load, until attached",
        std::mem::take(&mut times[0]),
    ));
    for (leases, tenants, words) in SIZES {
        let mut kernel = node::load(&options);
        node::lend(&kernel, 0..leases, tenants);
        let memory = node::map_memory(&node::programs(pins)) as f64 / MIB;
        let name = format!("maps, {words}");
        let figure = Figure::new(part, &name, "MiB", Better::Less, vec![memory]);
        run.add(figure.exact());
        for _ in 0..loads {
            drop(kernel);
            let start = Instant::now();
            kernel = node::load(&options);
            times[1].push(start.elapsed().as_secs_f64() * 1e3);
        }
        let name = format!("later load, {words}");
        run.add(ms(&name, std::mem::take(&mut times[1])));
        progress.says(&format!("memory: {words}"));
        node::unload(kernel, pins);
    }
    let kernel = node::load(&options);
    let programs = node::programs(pins);
    let bytes =
        |info: &aya::programs::ProgramInfo| f64::from(info.memory_locked().expect("memlock"));
    let memory = programs.iter().map(bytes).sum::<f64>() / MIB;
    let name = "programs that are attached";
    run.add(Figure::new(part, name, "MiB", Better::Less, vec![memory]).exact());
    node::unload(kernel, pins);
}
