//! Labs that nobody runs any more: kept ones, and what a SIGKILL left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{MACHINES, Tools, down, machine, tag};

/// Tags of abandoned labs: those of this checkout, and those whose checkout is gone. Found by their
/// directories and by their names in the kernel.
#[must_use]
pub fn abandoned(tools: &Tools) -> Vec<String> {
    let mut all = BTreeSet::new();
    for name in names(&tools.labs) {
        let owner = fs::read_to_string(tools.labs.join(&name).join("owner")).unwrap_or_default();
        if owner.parse().is_ok_and(|pid| !runs_a_lab(pid)) {
            all.insert(name);
        }
    }
    let ours = |name: &str| {
        let home = fs::read_to_string(down::run_dir(name).join("lab")).map(PathBuf::from);
        home.is_ok_and(|home| home.starts_with(&tools.labs) || !home.exists())
            || !down::run_dir(name).exists()
    };
    let unowned = |name: &String| !tools.labs.join(name).join("owner").exists();
    all.extend(
        in_kernel()
            .into_iter()
            .filter(|name| unowned(name) && tag::is_abandoned(name) && ours(name)),
    );
    all.into_iter().collect()
}

/// Tags of all labs that have something in the kernel, whoever runs them.
fn in_kernel() -> BTreeSet<String> {
    let mut places = vec![PathBuf::from("/sys/fs/bpf"), PathBuf::from("/run")];
    places.extend(machine::cgroup2());
    let plain = places.iter().flat_map(|dir| names(dir));
    let namespaces = names(Path::new("/run/netns"));
    let namespaces = namespaces.iter().filter_map(|name| {
        let (tag, machine) = name.rsplit_once('-')?;
        MACHINES.contains(&machine).then(|| tag.to_owned())
    });
    plain
        .chain(namespaces)
        // `kt`: the kernel tests', which `cargo xtask test` sweeps.
        .filter_map(|name| name.strip_prefix("totoro-").map(str::to_owned))
        .filter(|name| !name.starts_with("kt-"))
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Whether this process is a living lab, and not a stranger with a reused number.
fn runs_a_lab(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    let exe = exe.unwrap_or_default().to_string_lossy().into_owned();
    // A binary that was built anew meanwhile is shown as deleted.
    let exe = Path::new(exe.trim_end_matches(" (deleted)"));
    exe.ends_with("totoro-lab") || exe.parent().is_some_and(|dir| dir.ends_with("deps"))
}
