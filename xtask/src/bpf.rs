//! Building the kernel object.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::toolchain::{self, Toolchain};
use crate::{root, step, target};

/// Where the object lands.
pub(crate) fn object() -> PathBuf {
    target().join("bpf/totoro-ebpf.o")
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
    let Toolchain { compiler, linker } = toolchain::find()?;
    // A target directory of its own: the host's builds have another rustc and would otherwise
    // wait for this one's lock.
    let dir = target().join("bpf-build");
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
        .current_dir(root())
        .args([
            "build",
            "--locked",
            "--package",
            "totoro-ebpf",
            "--bin",
            "totoro-ebpf",
        ])
        .args([
            "--profile",
            "bpf",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
        ])
        .arg("--target-dir")
        .arg(&dir)
        .env("RUSTC", &compiler.rustc)
        // Debian's compiler is a stable one; build-std and the BPF intrinsics are not.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker);
    if args.log {
        cargo.args(["--features", "log"]);
    }
    let why = format!("{} on LLVM {}", compiler.name, compiler.llvm);
    step::run("kernel object", &why, &mut cargo)?;

    let built = dir.join("bpfel-unknown-none/bpf/totoro-ebpf");
    let object = object();
    let parent = object.parent().context("the object has no directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    // By rename: a daemon that starts meanwhile reads the old object or the new one.
    let fresh = object.with_extension(format!("{}.new", std::process::id()));
    fs::copy(&built, &fresh).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(&fresh, &object).with_context(|| format!("replace {}", object.display()))?;
    Ok(())
}
