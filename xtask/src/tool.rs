//! Tools that cargo builds: of a pinned release, once, kept in the cache.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{cache, path, step, toolchain};

/// A tool's program, built where it is not there yet; `why` it is wanted, in a line.
pub(crate) fn install(tool: &str, version: &str, why: &str) -> Result<PathBuf> {
    let home = cache().join(format!("{tool}-{version}"));
    let program = home.join("bin").join(tool);
    if program.exists() {
        step::skip(tool, &program.display().to_string());
        return Ok(program);
    }
    let cargo = path::find("cargo").context("cargo is not in PATH")?;
    let mut install = toolchain::bare(&cargo);
    install
        .args(["install", tool, "--locked", "--version", version])
        .arg("--root")
        .arg(&home);
    step::run(tool, why, &mut install)?;
    Ok(program)
}
