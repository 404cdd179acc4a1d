//! Stock frps and frpc, built from the Go module under `tests/frp`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, root, step, target, toolchain};

/// Builds what is not there, and links both into `target/tools/`.
pub(crate) fn install() -> Result<()> {
    let store = store()?;
    let tools = target().join("tools");
    fs::create_dir_all(&tools).with_context(|| format!("create {}", tools.display()))?;
    for name in ["frps", "frpc"] {
        let binary = store.join(name);
        let version = step::output(Command::new(&binary).arg("--version"));
        match version {
            Some(version) => step::skip(name, &version),
            None => build(name, &binary)?,
        }
        let link = tools.join(name);
        fs::remove_file(&link).ok();
        symlink(&binary, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// Where binaries built from exactly these sums are kept.
fn store() -> Result<PathBuf> {
    let module = root().join("tests/frp");
    // FNV-1a: names a directory, guards nothing. go.sum is what vouches for the sources.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in ["go.mod", "go.sum"] {
        let path = module.join(file);
        for byte in fs::read(&path).with_context(|| format!("read {}", path.display()))? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(cache().join(format!("frp-{hash:016x}")))
}

fn build(name: &str, binary: &std::path::Path) -> Result<()> {
    let Some(go) = toolchain::on_path("go") else {
        bail!(
            "go is not in PATH: install Go 1.25 or newer (https://go.dev/doc/install); frps and frpc are built with it"
        );
    };
    let parent = binary.parent().context("the tool has no directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let fresh = binary.with_extension("new");
    let mut command = Command::new(go);
    command
        .current_dir(root().join("tests/frp"))
        // frp's web assets are not in its repository, hence `noweb`; the admin API works without.
        .args([
            "build",
            "-trimpath",
            "-tags",
            &format!("{name},noweb"),
            "-o",
        ])
        .arg(&fresh)
        .arg(format!("github.com/fatedier/frp/cmd/{name}"));
    step::run(
        name,
        "stock frp from tests/frp, for the demo and the end-to-end tests",
        &mut command,
    )?;
    fs::rename(&fresh, binary).with_context(|| format!("replace {}", binary.display()))
}
