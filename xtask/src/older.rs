//! The kernel object of an earlier commit, for what follows it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{bpf, root, target};

/// Builds the object of `commit` from a clone of this repository, which stays for the next time.
///
/// # Errors
/// There is no such commit, or it can't be built here.
pub(crate) fn object(commit: &str) -> Result<PathBuf> {
    let name = git(
        &root(),
        ["rev-parse", "--verify", &format!("{commit}^{{commit}}")],
    )
    .with_context(|| format!("{commit} names no commit here (a shallow clone has few)"))?;
    let sources = target().join("older");
    if !sources.join(".git").exists() {
        // It has no objects of its own: whatever commit is here is there.
        let words = ["clone", "--quiet", "--shared", "--no-checkout"].map(OsStr::new);
        let ends = [root().into_os_string(), sources.clone().into_os_string()];
        git(
            &root(),
            words.into_iter().chain(ends.iter().map(AsRef::as_ref)),
        )?;
    }
    git(
        &sources,
        ["checkout", "--quiet", "--force", "--detach", &name],
    )?;
    let object = sources.join("totoro-ebpf.o");
    bpf::build_of(&sources, &object)?;
    Ok(object)
}

/// What git says.
fn git(at: &Path, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(at).args(words);
    let said = command.output().context("start git")?;
    if !said.status.success() {
        bail!("git: {}", String::from_utf8_lossy(&said.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
