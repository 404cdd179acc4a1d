//! What a run may have left in the kernel, found by its name tag: a letter, the process that began
//! the run, and chance, as in `t4711x9c2e`.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{machine, step};

/// Longer than killed processes took to let go of their cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// A new run's tag. By chance too, because process ids are used again.
pub(crate) fn new_tag() -> String {
    let chance = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    format!("t{}x{:04x}", std::process::id(), chance & 0xffff)
}

/// Every namespace, interface, cgroup, pin or socket directory and process of a run.
pub(crate) fn find(tag: &str) -> Vec<String> {
    let mut found: Vec<String> = named(|name| has(name, tag))
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let links = step::output(Command::new("ip").args(["-brief", "link"])).unwrap_or_default();
    let links = links.lines().filter(|line| has(line, tag));
    found.extend(links.map(|line| format!("link {}", line.trim())));
    found.extend(processes(tag).iter().map(|pid| format!("process {pid}")));
    found
}

/// Removes what a run left; what could not be removed.
pub(crate) fn remove(tag: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for pid in processes(tag) {
            kill(pid, Signal::SIGKILL).ok();
        }
        for path in named(|name| has(name, tag)) {
            remove_one(&path);
        }
        let left = find(tag);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes what test runs left that were killed, and says so.
pub(crate) fn sweep() {
    let all = named(|name| dead_run(name).is_some());
    let mut tags: Vec<String> = all
        .iter()
        .filter_map(|path| dead_run(path.file_name()?.to_str()?))
        .collect();
    tags.sort();
    tags.dedup();
    for tag in tags {
        let left = remove(&tag);
        if left.is_empty() {
            eprintln!("✔ removed what the killed test run {tag} had left");
        } else {
            eprintln!("✘ the killed test run {tag} left {}", left.join(", "));
        }
    }
}

/// Whether a name has the tag as one of its parts.
fn has(name: &str, tag: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|part| part == tag)
}

/// The tag of a test run that is over, if the name has one.
fn dead_run(name: &str) -> Option<String> {
    let parts = name.strip_prefix("totoro-")?.split('-');
    let mut tags = parts.filter(|part| {
        let run = part.strip_prefix('t').and_then(|rest| rest.split_once('x'));
        let pid =
            run.and_then(|(pid, chance)| (chance.len() == 4).then(|| pid.parse::<u32>().ok()));
        pid.flatten()
            .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    });
    tags.next().map(str::to_owned)
}

/// Everything of ours whose name is wanted, the deepest first.
fn named(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["/run/netns", "/run", "/sys/fs/bpf"] {
        found.extend(entries(Path::new(dir)));
    }
    if let Some(root) = machine::cgroup2() {
        cgroups(&root, &mut found);
    }
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("totoro-") && wanted(name))
    });
    found
}

/// Tests have theirs below the cgroup that they were started in, so all are looked at.
fn cgroups(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in entries(dir).into_iter().filter(|path| path.is_dir()) {
        cgroups(&path, found);
        found.push(path);
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn remove_one(path: &Path) {
    if path.starts_with("/run/netns") {
        let name = path.file_name().unwrap_or_default();
        step::output(Command::new("ip").args(["netns", "del"]).arg(name));
    } else if path.join("cgroup.procs").exists() {
        let mut all = Vec::new();
        cgroups(path, &mut all);
        for dir in all.iter().map(PathBuf::as_path).chain([path]) {
            let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            fs::remove_dir(dir).ok();
        }
    } else {
        fs::remove_dir_all(path).ok();
    }
}

/// Processes that were started with the tag in their environment; never ourselves.
fn processes(tag: &str) -> Vec<Pid> {
    let wanted = format!("TOTORO_TEST_TAG={tag}");
    let own = Pid::this();
    entries(Path::new("/proc"))
        .into_iter()
        .filter_map(|dir| {
            let pid = Pid::from_raw(dir.file_name()?.to_str()?.parse().ok()?);
            let environment = fs::read(dir.join("environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            let is = variables.any(|variable| variable == wanted.as_bytes());
            (is && pid != own).then_some(pid)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{dead_run, has, new_tag};

    #[test]
    fn a_tag_is_a_whole_part_of_a_name() {
        assert!(has("totoro-kt-pins-t12x00ff", "t12x00ff"));
        assert!(has("totoro-t12x00ff-p-node", "t12x00ff"));
        assert!(!has("totoro-t12x00ff0-node", "t12x00ff"));
        assert!(!has("totoro-pt12x00ff-node", "t12x00ff"));
    }

    #[test]
    fn only_runs_whose_process_is_gone_are_dead() {
        let dead = "t4294967295x00ff";
        assert_eq!(
            dead_run(&format!("totoro-kt-pins-{dead}")).as_deref(),
            Some(dead)
        );
        assert_eq!(dead_run(&format!("totoro-{}-node", new_tag())), None);
        assert_eq!(dead_run("totoro-d4294967295x00ff-node"), None, "a demo's");
        assert_eq!(dead_run("other-t4294967295x00ff"), None);
    }
}
