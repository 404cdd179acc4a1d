//! The binaries that a lab runs, and whether this machine can run it at all.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The control plane.
    pub control: PathBuf,
    /// The node's daemon.
    pub node: PathBuf,
    /// The client.
    pub client: PathBuf,
    /// Stock frps.
    pub frps: PathBuf,
    /// Stock frpc.
    pub frpc: PathBuf,
    /// Older releases of it, from the oldest that is promised, with their versions.
    pub older_frpc: [(&'static str, PathBuf); 2],
    /// The kernel object.
    pub object: PathBuf,
    /// Where labs have their directories.
    pub labs: PathBuf,
    /// Where `--keep` writes lab.env.
    pub demo: PathBuf,
}

impl Tools {
    /// Finds them beside the running program: `target/<profile>/`, `target/tools/`, `target/bpf/`.
    ///
    /// # Errors
    /// The program's own path can't be read.
    pub fn locate() -> Result<Tools> {
        let exe = std::env::current_exe().context("our own path")?;
        let mut profile = exe.parent().context("our own directory")?;
        if profile.ends_with("deps") {
            profile = profile.parent().context("the build's directory")?;
        }
        let target = profile.parent().context("the target directory")?;
        Ok(Tools {
            control: profile.join("totoro-control"),
            node: profile.join("totoro-node"),
            client: profile.join("totoro"),
            frps: target.join("tools/frps"),
            frpc: target.join("tools/frpc"),
            older_frpc: [
                ("0.61", target.join("tools/frpc-v0_61")),
                ("0.65", target.join("tools/frpc-v0_65")),
            ],
            object: target.join("bpf/totoro-ebpf.o"),
            labs: target.join("lab"),
            demo: target.join("demo"),
        })
    }

    /// What keeps this machine from raising a lab, one line each; empty = nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = super::missing();
        for (file, how) in [
            (&self.object, "cargo xtask build-ebpf"),
            (&self.frps, "cargo xtask setup"),
            (&self.frpc, "cargo xtask setup"),
            (&self.older_frpc[0].1, "cargo xtask setup"),
            (&self.older_frpc[1].1, "cargo xtask setup"),
            (&self.control, "cargo build -p totoro-control"),
            (&self.node, "cargo build -p totoro-node"),
            (&self.client, "cargo build -p totoro-client"),
        ] {
            if !file.exists() {
                let name = file
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                missing.push(format!("{name} ({how})"));
            }
        }
        missing
    }

    /// Requires that nothing is missing.
    ///
    /// # Errors
    /// What is.
    pub fn require(&self) -> Result<()> {
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(());
        }
        bail!(
            "this machine lacks:\n  - {}\n`cargo xtask setup` gets most of it",
            missing.join("\n  - ")
        )
    }
}

/// For tests: the tools, or `None` after saying why the test is skipped.
///
/// # Panics
/// The test's own path can't be read, or something is missing although `TOTORO_REQUIRE_KERNEL=1` (as `cargo xtask test` sets).
#[must_use]
pub fn skip(test: &str) -> Option<Tools> {
    let tools = Tools::locate().expect("the test's own path");
    super::able(test, &tools.missing()).then_some(tools)
}
