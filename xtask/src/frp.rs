//! Stock frps and frpc, built from the Go modules under `tests/frp`: the newest of both, and older
//! releases of frpc down to the oldest that we promise.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cache, path, root, step, target};

/// The oldest Go that fetches the one which go.mod asks for.
const OLDEST: (u32, u32) = (1, 21);

/// What is built.
const TOOLS: [Tool; 4] = [
    Tool::new("frps", "", "frps"),
    Tool::new("frpc", "", "frpc"),
    Tool::new("frpc-v0_61", "v0_61", "frpc"),
    Tool::new("frpc-v0_65", "v0_65", "frpc"),
];

/// A program of one release.
struct Tool {
    /// As it is called in `target/tools/`.
    name: &'static str,
    /// Its module's directory under `tests/frp`.
    module: &'static str,
    /// frp's name for it.
    program: &'static str,
}

impl Tool {
    const fn new(name: &'static str, module: &'static str, program: &'static str) -> Self {
        Tool {
            name,
            module,
            program,
        }
    }

    fn module(&self) -> PathBuf {
        root().join("tests/frp").join(self.module)
    }

    /// Where the binary built from exactly these sums is kept.
    fn binary(&self) -> Result<PathBuf> {
        let module = self.module();
        // FNV-1a: names a directory, guards nothing. go.sum is what vouches for the sources.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for file in ["go.mod", "go.sum"] {
            let path = module.join(file);
            for byte in fs::read(&path).with_context(|| format!("read {}", path.display()))? {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Ok(cache().join(format!("frp-{hash:016x}")).join(self.program))
    }

    fn build(&self, binary: &Path) -> Result<()> {
        let go = go().map_err(anyhow::Error::msg)?;
        let parent = binary.parent().context("the tool has no directory")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let fresh = binary.with_extension(format!("{}.new", std::process::id()));
        let program = self.program;
        let mut command = Command::new(go);
        command
            .current_dir(self.module())
            // The newest frp has no web assets in its repository, hence `noweb`; the admin API works
            // without.
            .args([
                "build",
                "-trimpath",
                "-tags",
                &format!("{program},noweb"),
                "-o",
            ])
            .arg(&fresh)
            .arg(format!("github.com/fatedier/frp/cmd/{program}"));
        step::run(
            self.name,
            "stock frp from tests/frp, for the demo and the end-to-end tests",
            &mut command,
        )?;
        fs::rename(&fresh, binary).with_context(|| format!("replace {}", binary.display()))
    }
}

/// What building them would take and this machine lacks; nothing when they are built.
pub(crate) fn missing() -> Option<String> {
    let is_built = |tool: &Tool| tool.binary().ok().and_then(|at| version(&at)).is_some();
    if TOOLS.iter().all(is_built) {
        return None;
    }
    go().err()
}

/// Builds what is not there, and links both into `target/tools/`.
pub(crate) fn install() -> Result<()> {
    let tools = target().join("tools");
    fs::create_dir_all(&tools).with_context(|| format!("create {}", tools.display()))?;
    for tool in &TOOLS {
        let binary = tool.binary()?;
        match version(&binary) {
            Some(version) => step::skip(tool.name, &version),
            None => tool.build(&binary)?,
        }
        link(&binary, &tools.join(tool.name))?;
    }
    Ok(())
}

fn version(binary: &Path) -> Option<String> {
    step::output(Command::new(binary).arg("--version"))
}

/// Points a link to a binary. A right one is left alone, and a wrong one replaced by rename: a lab
/// may be running that is about to start the program.
fn link(binary: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|to| to == binary) {
        return Ok(());
    }
    let fresh = at.with_extension(format!("{}.new", std::process::id()));
    symlink(binary, &fresh)
        .and_then(|()| fs::rename(&fresh, at))
        .with_context(|| format!("link {}", at.display()))
}

/// A Go that can build them, or what to do about it.
fn go() -> Result<PathBuf, String> {
    let how =
        "install Go 1.25 or newer (https://go.dev/doc/install); frps and frpc are built with it";
    let go = path::find("go").ok_or_else(|| format!("go is not in PATH: {how}"))?;
    // Not in the module's directory, where it would become the Go that go.mod asks for.
    let said = step::output(
        Command::new(&go)
            .current_dir("/")
            .args(["env", "GOVERSION"]),
    );
    let said = said.unwrap_or_default();
    match release(&said) {
        Some(release) if release >= OLDEST => Ok(go),
        Some(_) => Err(format!(
            "{said} in PATH is too old to fetch the Go that frp needs: {how}"
        )),
        // A development version names no release.
        None if said.starts_with("devel") => Ok(go),
        None => Err(format!("{} does not tell its version: {how}", go.display())),
    }
}

/// (major, minor) of `go1.25.3`; an old Go prints nothing.
fn release(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.strip_prefix("go")?.split(['.', 'r', 'b', ' ', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, release};

    #[test]
    fn reads_what_go_says_of_itself() {
        assert_eq!(release("go1.26.8"), Some((1, 26)));
        assert_eq!(release("go1.21rc2"), Some((1, 21)));
        assert!(release("go1.19.8").is_some_and(|old| old < OLDEST));
        assert_eq!(release(""), None);
        assert_eq!(release("devel go1.27-abc"), None);
    }
}
