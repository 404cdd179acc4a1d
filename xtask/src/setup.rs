//! `setup`: what is missing is installed or built, what is there is skipped.

use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::machine::{TOOLS, is_debian, is_root, require_for_setup, require_kernel};
use crate::toolchain::{self, BPF_LINKER};
use crate::{browser, frp, path, schemathesis, step};

const BPFFS: &str = "/sys/fs/bpf";

/// Debian's packages that rustc-web and its cargo can't stand beside them.
const RIVALS: [&str; 4] = ["rustc", "cargo", "rustup", "rustc-mozilla"];

/// Sets the machine up.
pub(crate) fn run() -> Result<()> {
    // What no step could get is said at once and whole.
    require_for_setup()?;
    let mut apt = Apt::default();
    for (tool, package) in TOOLS {
        match path::find(tool) {
            Some(path) => step::skip(tool, &path.display().to_string()),
            None => apt.install(&[package.to_owned()], "the lab and the build use it")?,
        }
    }
    bpf_toolchain(&mut apt)?;
    frp::install()?;
    if schemathesis::find().is_none() && !schemathesis::can_install() {
        let package = [schemathesis::PACKAGE.to_owned()];
        apt.install(&package, "schemathesis lives in a virtual environment")?;
    }
    schemathesis::install()?;
    let missing = browser::missing();
    if !missing.is_empty() {
        apt.install(&missing, "pages are tested in a browser")?;
    }
    browser::install()?;
    mount_bpffs()?;
    require_kernel()
}

/// Makes sure that one toolchain for the kernel object is complete.
fn bpf_toolchain(apt: &mut Apt) -> Result<()> {
    let why_not = match toolchain::find() {
        Ok(found) => {
            step::skip("BPF toolchain", found.compiler.name);
            step::skip("bpf-linker", &found.linker.display().to_string());
            return Ok(());
        }
        Err(why_not) => why_not,
    };
    if !(is_debian() && is_root()) {
        return Err(why_not);
    }
    if toolchain::debian().is_err() {
        let rivals = installed(&RIVALS);
        if !rivals.is_empty() {
            bail!(
                "rustc-web can't be installed beside the packages {rivals}, which stay: remove them \
                 yourself (apt-get remove {rivals}), or use a nightly: {why_not:#}",
                rivals = rivals.join(" ")
            );
        }
        apt.install(
            &["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned),
            "a compiler with the source of `core`, which the BPF target needs",
        )?;
    }
    let compiler =
        toolchain::debian().map_err(|why| anyhow::anyhow!("after installing it: {why}"))?;
    if toolchain::linker(&compiler).is_none() {
        let llvm = compiler.llvm;
        apt.install(
            &[
                format!("llvm-{llvm}-dev"),
                format!("libpolly-{llvm}-dev"),
                "libzstd-dev".to_owned(),
            ],
            "bpf-linker is built on the compiler's LLVM",
        )?;
        build_linker(llvm)?;
    }
    toolchain::find()
        .map(drop)
        .context("the toolchain was installed and is still not complete")
}

fn build_linker(llvm: u32) -> Result<()> {
    let cargo = path::find("cargo").context("cargo is not in PATH")?;
    let mut install = toolchain::bare(&cargo);
    install
        .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
            "--root",
        ])
        .arg(toolchain::linker_root(llvm))
        // Without it the build looks for another LLVM's libraries and fails at the link.
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    step::run(
        "bpf-linker",
        "links the kernel object; built once, kept in the cache",
        &mut install,
    )
    .map(drop)
}

/// Pins live on bpffs; containers and small images come without it.
fn mount_bpffs() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').skip(1).take(2).eq([BPFFS, "bpf"]))
    {
        step::skip("bpffs", BPFFS);
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .with_context(|| format!("mount bpffs on {BPFFS}, where pinned maps and links live"))?;
    step::skip("bpffs", "mounted on /sys/fs/bpf");
    Ok(())
}

/// Which of these packages are installed.
fn installed<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let is = |package: &str| {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat=${db:Status-Status}", package]);
        step::output(&mut query).is_some_and(|status| status == "installed")
    };
    packages
        .iter()
        .copied()
        .filter(|package| is(package))
        .collect()
}

/// apt, with its lists brought up to date once per run.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    fresh: bool,
}

impl Apt {
    /// Brings the package lists up to date, once.
    pub(crate) fn update(&mut self) -> Result<()> {
        if !self.fresh {
            let mut update = Command::new("apt-get");
            step::run("apt-get update", "package lists", update.arg("update"))?;
            self.fresh = true;
        }
        Ok(())
    }

    /// Installs packages, or says what a person must do.
    pub(crate) fn install(&mut self, packages: &[String], why: &str) -> Result<()> {
        let list = packages.join(" ");
        if !is_debian() {
            bail!("missing: {list} ({why}); this is no Debian, so install their like by hand");
        }
        if !is_root() {
            bail!("missing: {list} ({why}); as root: apt-get install {list}");
        }
        self.update()?;
        let mut install = Command::new("apt-get");
        install
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Nothing of the person's is removed for us; apt says then what stands in the way.
            .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
            .args(packages);
        step::run(&format!("apt-get install {list}"), why, &mut install).map(drop)
    }
}
