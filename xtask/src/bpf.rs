//! Building the kernel objects: Totoro's, and what benches measure it beside.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::toolchain::{self, Toolchain};
use crate::{root, step, target};

/// The package of Totoro's programs.
const OURS: &str = "totoro-ebpf";
/// The package of programs that do nothing.
const BASELINE: &str = "totoro-baseline";

/// Where the object lands.
pub(crate) fn object() -> PathBuf {
    object_of(OURS)
}

fn object_of(package: &str) -> PathBuf {
    target().join(format!("bpf/{package}.o"))
}

/// Options of `build-ebpf`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Have the programs log what they drop (aya-log), for people who change them.
    #[arg(long)]
    log: bool,
}

/// Builds the object as it is shipped.
pub(crate) fn build() -> Result<()> {
    build_with(&Args::default())
}

/// Builds `target/bpf/totoro-ebpf.o` with whichever toolchain is complete.
pub(crate) fn build_with(args: &Args) -> Result<()> {
    build_package(&root(), OURS, args, &target().join(BUILD), &object())
}

/// Builds the object of the sources that are checked out at `sources`, another commit's.
pub(crate) fn build_of(sources: &Path, object: &Path) -> Result<()> {
    let dir = sources.join("target").join(BUILD);
    build_package(sources, OURS, &Args::default(), &dir, object)
}

/// Builds `target/bpf/totoro-baseline.o`, for benches.
pub(crate) fn build_baseline() -> Result<()> {
    let (dir, object) = (target().join(BUILD), object_of(BASELINE));
    build_package(&root(), BASELINE, &Args::default(), &dir, &object)
}

/// A target directory of its own: the host's builds have another rustc and would otherwise wait for this one's
/// lock.
const BUILD: &str = "bpf-build";

/// Builds the object of a package, whose program has the package's name, in `dir`.
fn build_package(
    sources: &Path,
    package: &str,
    args: &Args,
    dir: &Path,
    object: &Path,
) -> Result<()> {
    let Toolchain { compiler, linker } = toolchain::find()?;
    // 0x1f separates, so that a path with spaces stays whole. `bpf_target_arch` selects the
    // register layout in aya-ebpf; cpu v3 has the atomics; BTF names what the maps hold.
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut cargo = toolchain::bare(&compiler.cargo);
    cargo
        .current_dir(sources)
        .args(["build", "--locked", "--package", package, "--bin", package])
        .args([
            "--profile",
            "bpf",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
        ])
        .arg("--target-dir")
        .arg(dir)
        .env("RUSTC", &compiler.rustc)
        // Debian's compiler is a stable one; build-std and the BPF intrinsics are not.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker);
    if args.log {
        cargo.args(["--features", "log"]);
    }
    let why = format!("{} on LLVM {}", compiler.name, compiler.llvm);
    step::run(&format!("kernel object of {package}"), &why, &mut cargo)?;

    let built = dir.join("bpfel-unknown-none/bpf").join(package);
    let parent = object.parent().context("the object has no directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    // By rename: a daemon that starts meanwhile reads the old object or the new one.
    let fresh = object.with_extension(format!("{}.new", std::process::id()));
    fs::copy(&built, &fresh).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("replace {}", object.display()))?;
    Ok(())
}
