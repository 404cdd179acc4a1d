//! The programs that are measured, and how long one takes.

use std::path::Path;

use aya::maps::{Array, HashMap, LpmTrie, MapData, ProgramArray, lpm_trie::Key};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use nix::time::{ClockId, clock_gettime};
use totoro_baseline as drive;

/// Runs before those that count: caches and branch predictors know the packet then, for all alike.
const WARM: u32 = 5_000;

/// Frames that are received together: what NAPI takes at a time.
const BATCH: u32 = 64;

/// An XDP program, and a driver that goes on in it.
pub(crate) struct Program {
    ebpf: Ebpf,
    name: &'static str,
    driver: Ebpf,
}

/// Which packets it gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packets {
    /// One and the same.
    Same,
    /// Each from another of so many sources, to another of so many ports, from a first one on.
    Others {
        /// How many sources.
        sources: u32,
        /// The first port.
        first: u16,
        /// How many ports.
        count: u32,
    },
}

/// How many sources the driver makes, at most.
pub(crate) const SOURCES: u32 = 1 << 22;

impl Program {
    /// Loads a program of an object that is loaded already, and a driver for it.
    pub(crate) fn new(mut ebpf: Ebpf, name: &'static str, baseline: &Path) -> Program {
        load_xdp(&mut ebpf, name);
        let mut driver = EbpfLoader::new()
            .load_file(baseline)
            .expect("the baselines");
        load_xdp(&mut driver, "drive");
        let mut target =
            ProgramArray::try_from(driver.map_mut("TARGET").expect("map")).expect("its kind");
        let fd = xdp(&ebpf, name).fd().expect("it is loaded");
        target.set(0, fd, 0).expect("a target of the same kind");
        Program { ebpf, name, driver }
    }

    /// Nanoseconds of processor time for one run, the kernel's loop around it included; and the verdict.
    ///
    /// Processor time, because what else runs on the machine is not in it, and over all runs together,
    /// because the kernel's own figure is whole nanoseconds, rounded down.
    pub(crate) fn run(&mut self, packet: &[u8], packets: Packets, times: u32) -> (f64, u32) {
        timed(self.chosen(packets), packet, times)
    }

    /// The same of frames that the kernel receives, and goes on with as the program says. Their verdicts are not told.
    pub(crate) fn receive(&mut self, packet: &[u8], packets: Packets, times: u32) -> f64 {
        timed_as(self.chosen(packets), packet, times, || {
            TestRunAttrs::new().xdp_live_frames(BATCH)
        })
        .0
    }

    /// What is to be run for such packets.
    fn chosen(&mut self, packets: Packets) -> &Xdp {
        match packets {
            Packets::Same => xdp(&self.ebpf, self.name),
            Packets::Others {
                sources,
                first,
                count,
            } => {
                let map = self.driver.map_mut("DRIVE").expect("map");
                let mut map: Array<_, u64> = map.try_into().expect("its kind");
                for (place, value) in [
                    (drive::FIRST, u64::from(first)),
                    (drive::COUNT, u64::from(count)),
                    (drive::SOURCES, u64::from(sources)),
                ] {
                    map.set(place, value, 0).expect("set");
                }
                xdp(&self.driver, "drive")
            }
        }
    }
}

/// Runs a program so often; ns of this thread for one, and the verdict.
pub(crate) fn timed<P>(program: &P, packet: &[u8], times: u32) -> (f64, u32)
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    timed_as(program, packet, times, TestRunAttrs::new)
}

/// The same, run in another way.
fn timed_as<P>(
    program: &P,
    packet: &[u8],
    times: u32,
    attrs: impl Fn() -> TestRunAttrs,
) -> (f64, u32)
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let run = |repeat| {
        let options = TestRunOptions {
            data_in: Some(packet),
            repeat,
            attrs: attrs(),
            ..TestRunOptions::new()
        };
        program.test_run(options).expect("a test run").return_value
    };
    run(WARM.min(times));
    let before = clock();
    let verdict = run(times);
    ((clock() - before) * 1e9 / f64::from(times), verdict)
}

/// Processor time of this thread, s.
fn clock() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

fn xdp<'a>(ebpf: &'a Ebpf, name: &str) -> &'a Xdp {
    let program = ebpf.program(name).expect("the program");
    program.try_into().expect("an XDP program")
}

fn load_xdp(ebpf: &mut Ebpf, name: &str) {
    let program = ebpf.program_mut(name).expect("the program");
    let program: &mut Xdp = program.try_into().expect("an XDP program");
    program
        .load()
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
}

/// A hash map of an object.
pub(crate) fn hash<'a, K: Pod, V: Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> HashMap<&'a mut MapData, K, V> {
    ebpf.map_mut(name).expect("map").try_into().expect("a hash")
}

/// An array of an object.
pub(crate) fn array<'a, V: Pod>(ebpf: &'a mut Ebpf, name: &str) -> Array<&'a mut MapData, V> {
    ebpf.map_mut(name)
        .expect("map")
        .try_into()
        .expect("an array")
}

/// The longest-prefix trie of an object, entered.
pub(crate) fn enter<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, bits: u32, keys: &[K], value: V) {
    let map = ebpf.map_mut(name).expect("map");
    let mut map: LpmTrie<_, K, V> = map.try_into().expect("a trie");
    for key in keys {
        map.insert(&Key::new(bits, *key), value, 0).expect("insert");
    }
}
