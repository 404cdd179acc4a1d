//! `soak fuzz`: libFuzzer looks for inputs by the code that they reach (cargo-fuzz, on a rustup
//! nightly). What breaks a target becomes a file of its corpus, which the tests replay from then on.
//! `soak fuzz --coverage` says which lines of our readers the corpus reaches.

pub(crate) mod coverage;
mod readers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{root, step, target, tool, toolchain};

/// The release of cargo-fuzz that builds the targets.
const CARGO_FUZZ: &str = "0.13.2";
/// The longest input, bytes: as in the targets' own changes.
const LONGEST: usize = 4096;
/// Where the corpus is, below the root.
const CORPUS: &str = "tests/fuzz/corpus";

/// What one target came to.
struct Ran {
    name: String,
    executions: String,
    /// Edges of the program's code that its inputs reached.
    edges: String,
    /// Inputs that broke it, in the corpus.
    found: Vec<PathBuf>,
}

/// Runs these targets (all, where none is named) for so long each.
pub(crate) fn run(wanted: &[String], time: Duration) -> Result<u8> {
    let names = names(wanted)?;
    let program = build()?;
    let next = AtomicUsize::new(0);
    let ran = Mutex::new(Vec::new());
    let beside = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        for _ in 0..beside.min(names.len()) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = one(&program, name, time);
                    ran.lock()
                        .unwrap_or_else(|dead| dead.into_inner())
                        .push(one);
                }
            });
        }
    });
    let ran = ran.into_inner().unwrap_or_else(|dead| dead.into_inner());
    let mut ran = ran.into_iter().collect::<Result<Vec<Ran>>>()?;
    ran.sort_by(|a, b| a.name.cmp(&b.name));
    println!("\ntarget               executions    edges  found");
    for Ran {
        name,
        executions,
        edges,
        found,
    } in &ran
    {
        println!("{name:<18} {executions:>12} {edges:>8} {:>6}", found.len());
    }
    let found: Vec<_> = ran
        .iter()
        .flat_map(|ran| ran.found.iter().map(|file| (&ran.name, file)))
        .collect();
    for (name, file) in &found {
        println!("{}", file.display());
        println!(
            "  cargo test -p totoro-fuzz --test replay {}",
            name.replace('-', "_")
        );
    }
    ensure!(
        found.is_empty(),
        "{} inputs broke a target; they are in the corpus now, to be replayed as said",
        found.len()
    );
    Ok(0)
}

/// The targets by their corpus.
fn names(wanted: &[String]) -> Result<Vec<String>> {
    let dir = root().join(CORPUS);
    let listed = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
    let mut all: Vec<String> = listed
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    all.sort_unstable();
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("{unknown} is no target; there are {}", all.join(", "));
    }
    Ok(match wanted {
        [] => all,
        wanted => wanted.to_vec(),
    })
}

/// Builds the program of all targets, with AddressSanitizer.
fn build() -> Result<PathBuf> {
    let nightly = ["which", "--toolchain", "nightly", "cargo"];
    let cargo = step::output(Command::new("rustup").args(nightly))
        .context("libFuzzer's instrumentation needs a nightly: rustup toolchain install nightly")?;
    let why = "builds for libFuzzer; built once, kept in the cache";
    let cargo_fuzz = tool::install("cargo-fuzz", CARGO_FUZZ, why)?;
    // cargo-fuzz takes cargo and rustc from PATH.
    let bin = Path::new(&cargo).parent().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = bin.into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(paths).context("put the nightly into PATH")?;
    let made = target().join("fuzz");
    let mut build = toolchain::bare(&cargo_fuzz);
    build
        .current_dir(root().join("tests/fuzz"))
        // As it is shipped: some libraries check less under cfg(fuzzing).
        .args(["fuzz", "build", "--no-cfg-fuzzing", "--fuzz-dir", "fuzz"])
        .arg("--target-dir")
        .arg(&made)
        .arg("target")
        .env("PATH", path);
    let why = "the product with libFuzzer's instrumentation; 10 minutes the first time";
    step::run("fuzz targets", why, &mut build)?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    Ok(made.join(triple).join("release/target"))
}

/// Runs one target; it goes on from what was found before.
fn one(program: &Path, name: &str, time: Duration) -> Result<Ran> {
    let made = target().join("fuzz");
    let (work, broke) = (
        made.join("corpus").join(name),
        made.join("found").join(name),
    );
    for dir in [&work, &broke] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let corpus = root().join(CORPUS).join(name);
    let mut fuzz = Command::new(program);
    fuzz.env("TOTORO_FUZZ_TARGET", name)
        .arg(&work)
        .arg(&corpus)
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-artifact_prefix={}/", broke.display()))
        .args(["-timeout=10", "-print_final_stats=1", "-detect_leaks=0"])
        .stdin(Stdio::null());
    let output = fuzz
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let log = made.join(format!("{name}.log"));
    fs::write(&log, &*said).with_context(|| format!("write {}", log.display()))?;
    let executions = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let edges = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    let mut found = Vec::new();
    if !output.status.success() {
        for entry in fs::read_dir(&broke)
            .context("list what was found")?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let short: String = name.chars().take(20).collect();
            let kept = corpus.join(short);
            fs::rename(entry.path(), &kept)
                .or_else(|_| fs::copy(entry.path(), &kept).map(drop))
                .with_context(|| format!("write {}", kept.display()))?;
            found.push(kept);
        }
        ensure!(
            !found.is_empty(),
            "{name} failed ({}) without an input; its log is {}",
            output.status,
            log.display()
        );
    }
    Ok(Ran {
        name: name.to_owned(),
        executions: executions.unwrap_or("?").trim().to_owned(),
        edges: edges.unwrap_or("?").to_owned(),
        found,
    })
}
