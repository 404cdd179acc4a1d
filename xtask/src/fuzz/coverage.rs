//! `soak fuzz --coverage`: which lines of its reader each target's corpus reaches, and which it misses
//! (cargo-llvm-cov, on the ordinary toolchain, so that no nightly is needed).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{CORPUS, names, readers};
use crate::{path, root, step, target, tool, toolchain};

/// The release of cargo-llvm-cov that builds and counts.
const CARGO_LLVM_COV: &str = "0.9.1";

/// A file's lines that have code, and whether one was reached.
type Lines = BTreeMap<u32, bool>;

/// What one target's inputs reach.
struct Reached {
    name: String,
    /// How many inputs are in the corpus, and how many more fuzzing found on this machine.
    inputs: [usize; 2],
    /// By the corpus.
    files: Vec<(&'static str, Lines)>,
    /// Lines that those others reach too, where there are any.
    with_found: Option<usize>,
}

/// Replays the inputs of these targets (all, where none is named) and shows what they reach.
pub(crate) fn run(wanted: &[String], json: bool) -> Result<u8> {
    let names = names(wanted)?;
    let tools = Tools::find()?;
    let mut build = tools.replay("--list", None);
    let why = "the product with coverage instrumentation; 10 minutes the first time";
    step::run("fuzz coverage", why, &mut build)?;
    newest_alone()?;
    let mut all = Vec::new();
    for name in names {
        all.push(one(&tools, name)?);
    }
    if json {
        let all: Vec<_> = all.iter().map(Reached::json).collect();
        println!("{:#}", json!({ "targets": all }));
    } else {
        show(&all);
    }
    Ok(0)
}

fn one(tools: &Tools, name: String) -> Result<Reached> {
    let found = target().join("fuzz/corpus");
    let count = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
    let inputs = [&root().join(CORPUS), &found].map(|dir| count(&dir.join(&name)));
    let files = tools.reached(&name, None)?;
    let with_found = match inputs[1] {
        0 => None,
        _ => Some(sum(&tools.reached(&name, Some(&found))?)[0]),
    };
    Ok(Reached {
        name,
        inputs,
        files,
        with_found,
    })
}

/// Reached lines, and all.
fn sum(files: &[(&'static str, Lines)]) -> [usize; 2] {
    let lines = || files.iter().flat_map(|(_, lines)| lines.values());
    [lines().filter(|reached| **reached).count(), lines().count()]
}

fn missed(lines: &Lines) -> Vec<u32> {
    let missed = lines.iter().filter(|(_, reached)| !**reached);
    missed.map(|(line, _)| *line).collect()
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn show(all: &[Reached]) {
    println!("\nLines of each reader that the committed corpus misses:");
    for of in all {
        for (file, lines) in &of.files {
            let missed = missed(lines);
            if !missed.is_empty() {
                let (name, all) = (&of.name, lines.len());
                println!(
                    "{name}: {file}: {} of {all}: {}",
                    missed.len(),
                    runs(&missed)
                );
            }
        }
    }
    let more = match all.iter().any(|of| of.with_found.is_some()) {
        true => "   found  with them",
        false => "",
    };
    println!("\ntarget             inputs  reached   lines       %{more}");
    for of in all {
        let [reached, lines] = sum(&of.files);
        print!(
            "{:<18} {:>6} {reached:>8} {lines:>7} {:>7.1}",
            of.name,
            of.inputs[0],
            percent(reached, lines)
        );
        match of.with_found {
            Some(with) => println!(" {:>7} {:>10.1}", of.inputs[1], percent(with, lines)),
            None => println!(),
        }
    }
}

/// Numbers as people write them: `3, 7-9`.
fn runs(numbers: &[u32]) -> String {
    let mut runs: Vec<[u32; 2]> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some([_, last]) if *last + 1 == number => *last = number,
            _ => runs.push([number; 2]),
        }
    }
    let written = runs.iter().map(|[first, last]| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    written.collect::<Vec<_>>().join(", ")
}

impl Reached {
    fn json(&self) -> serde_json::Value {
        let [reached, lines] = sum(&self.files);
        let files = self.files.iter().map(
            |(file, lines)| json!({ "file": file, "lines": lines.len(), "missed": missed(lines) }),
        );
        json!({
            "target": self.name, "inputs": self.inputs[0], "reached": reached, "lines": lines,
            "files": files.collect::<Vec<_>>(), "found": self.inputs[1], "reached_with_found": self.with_found,
        })
    }
}

/// cargo-llvm-cov, and LLVM's programs that read what rustc's code counts.
struct Tools {
    cargo_llvm_cov: PathBuf,
    /// llvm-cov, llvm-profdata.
    llvm: [PathBuf; 2],
}

impl Tools {
    fn find() -> Result<Tools> {
        // First, since they are what a person may have to install.
        let llvm = llvm()?;
        let why = "counts the lines that are reached; built once, kept in the cache";
        Ok(Tools {
            cargo_llvm_cov: tool::install("cargo-llvm-cov", CARGO_LLVM_COV, why)?,
            llvm,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = toolchain::bare(&self.cargo_llvm_cov);
        command
            .current_dir(root())
            .arg("llvm-cov")
            .args(words)
            .env("CARGO_LLVM_COV_TARGET_DIR", made())
            .env("LLVM_COV", &self.llvm[0])
            .env("LLVM_PROFDATA", &self.llvm[1]);
        command
    }

    /// The test that replays a corpus, without changes at random: they would reach something else each time.
    fn replay(&self, test: &str, found: Option<&Path>) -> Command {
        let words = ["--no-report", "--no-cfg-coverage"];
        let mut command = self.command(&words);
        command
            .args(["--locked", "--package", "totoro-fuzz", "--test", "replay"])
            .args(["--", "--exact", test])
            .env("TOTORO_CASES", "0")
            .env_remove("TOTORO_BLESS")
            .env_remove("TOTORO_FOUND")
            .envs(found.map(|found| ("TOTORO_FOUND", found)));
        command
    }

    /// The lines of a target's readers, reached by its corpus and by what is found there.
    fn reached(&self, name: &str, found: Option<&Path>) -> Result<Vec<(&'static str, Lines)>> {
        quiet(&mut self.command(&["clean", "--profraw-only"]))?;
        let why = match found {
            None => "its corpus, replayed",
            Some(_) => "the same, and what fuzzing found",
        };
        let mut replay = self.replay(&name.replace('-', "_"), found);
        step::run(&format!("coverage of {name}"), why, &mut replay)?;
        let report = made().join(format!("{name}.lcov"));
        let mut count = self.command(&["report", "--lcov", "--output-path"]);
        quiet(count.arg(&report))?;
        let text =
            fs::read_to_string(&report).with_context(|| format!("read {}", report.display()))?;
        let counted = lcov(&text);
        let mut files = Vec::new();
        for source in readers::of(name)? {
            let ranges = readers::lines(*source)?;
            let mut lines = counted
                .get(&*root().join(source.0))
                .with_context(|| format!("{} has no code that was built", source.0))?
                .clone();
            lines.retain(|line, _| ranges.iter().any(|range| range.contains(line)));
            files.push((source.0, lines));
        }
        Ok(files)
    }
}

/// Runs what takes less than a second, and says nothing where it goes well.
fn quiet(command: &mut Command) -> Result<()> {
    let output = command.output().context("start cargo-llvm-cov")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo-llvm-cov: {}", said.trim());
    Ok(())
}

/// Removes the programs of earlier builds: llvm-cov takes all that it finds, and would show their lines, from
/// before they moved, as missed. At most one is older, since this is done after each build.
fn newest_alone() -> Result<()> {
    let dir = made().join("debug/deps");
    let listed = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
    let mut programs = Vec::new();
    for entry in listed.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("replay-") && !name.contains('.') {
            let built = entry.metadata().and_then(|found| found.modified());
            programs.push((built.context("when a program was built")?, entry.path()));
        }
    }
    programs.sort_unstable();
    programs.pop();
    for (_, old) in programs {
        fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
    }
    Ok(())
}

fn made() -> PathBuf {
    target().join("fuzz-coverage")
}

/// llvm-cov and llvm-profdata that read the format of this rustc's LLVM: the toolchain's own, named ones, or
/// Debian's.
fn llvm() -> Result<[PathBuf; 2]> {
    let rustc = path::find("rustc").context("rustc is not in PATH")?;
    let said = |words: &[&str]| {
        step::output(toolchain::bare(&rustc).current_dir(root()).args(words)).unwrap_or_default()
    };
    let verbose = said(&["-vV"]);
    let (_, version) =
        toolchain::versions(&verbose).context("rustc -vV does not say which LLVM it has")?;
    let own = Path::new(&said(&["--print", "target-libdir"])).with_file_name("bin");
    let debian = PathBuf::from(format!("/usr/lib/llvm-{version}/bin"));
    let named = ["LLVM_COV", "LLVM_PROFDATA"].map(|name| std::env::var_os(name).map(PathBuf::from));
    if let [Some(cov), Some(profdata)] = named {
        return Ok([cov, profdata]);
    }
    for dir in [own, debian] {
        let both = ["llvm-cov", "llvm-profdata"].map(|name| dir.join(name));
        if both.iter().all(|program| program.exists()) {
            return Ok(both);
        }
    }
    bail!(
        "coverage needs the llvm-cov and llvm-profdata of rustc's LLVM {version}: `rustup component add \
         llvm-tools`, or, where rustc is Debian's, `apt-get install llvm-{version}`; LLVM_COV and \
         LLVM_PROFDATA name others"
    )
}

/// The lines with code, of every file of a report.
fn lcov(report: &str) -> HashMap<PathBuf, Lines> {
    let mut files: HashMap<PathBuf, Lines> = HashMap::new();
    let mut file = Lines::new();
    let mut path = PathBuf::new();
    for line in report.lines() {
        if let Some(name) = line.strip_prefix("SF:") {
            path = PathBuf::from(name);
        } else if let Some((number, count)) = line
            .strip_prefix("DA:")
            .and_then(|counted| counted.split_once(','))
        {
            if let Ok(number) = number.parse() {
                *file.entry(number).or_default() |= count != "0";
            }
        } else if line == "end_of_record" {
            let whole = files.entry(std::mem::take(&mut path)).or_default();
            for (number, reached) in std::mem::take(&mut file) {
                *whole.entry(number).or_default() |= reached;
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{lcov, missed, runs, sum};

    #[test]
    fn a_report_becomes_lines_and_what_is_missed() {
        let report = "SF:/a.rs\nFN:1,a\nDA:1,5\nDA:2,0\nDA:3,0\nDA:9,0\nLF:4\nend_of_record\n\
                      SF:/b.rs\nDA:1,0\nend_of_record\nSF:/b.rs\nDA:1,2\nend_of_record\n";
        let mut files = lcov(report);
        let a = files.remove(Path::new("/a.rs")).expect("a file");
        assert_eq!(runs(&missed(&a)), "2-3, 9");
        assert_eq!(sum(&[("a", a)]), [1, 4]);
        let b = files
            .remove(Path::new("/b.rs"))
            .expect("reached once is reached");
        assert_eq!(missed(&b), [] as [u32; 0]);
    }
}
