//! Which compilers build the kernel object.
//!
//! `core` has to be built for the BPF target, so a rustc with its library's source is needed, and
//! a bpf-linker on an LLVM that reads that rustc's bitcode. Two set-ups have both: Debian's
//! rustc-web with rust-web-src, and a rustup nightly with the rust-src component.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{cache, path, step};

/// The release of bpf-linker that the kernel object is linked with.
pub(crate) const BPF_LINKER: &str = "0.13.0";
/// The oldest rustc whose `core` and LLVM the programs are known to pass the verifier with.
const OLDEST: (u32, u32) = (1, 95);

/// A rustc that can build `core`, with its cargo.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// What to call it in messages.
    pub(crate) name: &'static str,
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// Its cargo.
    pub(crate) cargo: PathBuf,
    /// Its LLVM's major version.
    pub(crate) llvm: u32,
    /// Whether the bpf-linker of PATH may be meant for it.
    takes_any_linker: bool,
}

/// Everything that building the kernel object takes.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

/// The complete toolchain of this machine.
///
/// # Errors
/// When there is none: what each set-up lacks, and how to get it.
pub(crate) fn find() -> Result<Toolchain> {
    let mut missing = Vec::new();
    for candidate in [debian(), rustup()] {
        let compiler = match candidate {
            Ok(compiler) => compiler,
            Err(why) => {
                missing.push(why);
                continue;
            }
        };
        match linker(&compiler) {
            Some(linker) => return Ok(Toolchain { compiler, linker }),
            None => missing.push(format!(
                "{} is complete, but there is no bpf-linker for its LLVM {}: {}",
                compiler.name,
                compiler.llvm,
                linker_hint(&compiler)
            )),
        }
    }
    bail!(
        "no toolchain on this machine builds the kernel object (`cargo xtask setup` as root on Debian 12 \
         installs one):\n    - {}",
        missing.join("\n    - ")
    )
}

/// Debian's rustc-web with its source.
pub(crate) fn debian() -> Result<Compiler, String> {
    let name = "Debian's rustc-web";
    // Debian 12 itself has an older one.
    let how = "apt-get install rustc-web cargo-web rust-web-src from the suite bookworm-security \
               (deb http://security.debian.org/debian-security bookworm-security main)";
    let (rustc, cargo) = (
        PathBuf::from("/usr/bin/rustc"),
        PathBuf::from("/usr/bin/cargo"),
    );
    if !rustc.exists() || !cargo.exists() {
        return Err(format!("{name} is not installed: {how}"));
    }
    let compiler = complete(name, rustc, cargo, how)?;
    Ok(Compiler {
        takes_any_linker: false,
        ..compiler
    })
}

/// A rustup nightly with rust-src.
pub(crate) fn rustup() -> Result<Compiler, String> {
    let name = "rustup's nightly";
    let how = "rustup toolchain install nightly --component rust-src";
    let which = |tool: &str| {
        step::output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool]))
            .map(PathBuf::from)
    };
    match (which("rustc"), which("cargo")) {
        (Some(rustc), Some(cargo)) => complete(name, rustc, cargo, how),
        _ => Err(format!("{name} is not installed: {how}")),
    }
}

fn complete(
    name: &'static str,
    rustc: PathBuf,
    cargo: PathBuf,
    how: &str,
) -> Result<Compiler, String> {
    let verbose = step::output(bare(&rustc).arg("-vV"))
        .ok_or_else(|| format!("{name} does not run ({} -vV)", rustc.display()))?;
    let (version, llvm) = versions(&verbose).ok_or_else(|| {
        format!(
            "{name} tells no versions that can be read ({} -vV)",
            rustc.display()
        )
    })?;
    if version < OLDEST {
        let ((major, minor), (least, oldest)) = (version, OLDEST);
        return Err(format!(
            "{name} is {major}.{minor}, older than {least}.{oldest}: {how}"
        ));
    }
    let sysroot = step::output(bare(&rustc).args(["--print", "sysroot"])).unwrap_or_default();
    if !Path::new(&sysroot)
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        return Err(format!("{name} lacks the source of its library: {how}"));
    }
    Ok(Compiler {
        name,
        rustc,
        cargo,
        llvm,
        takes_any_linker: true,
    })
}

/// rustc's (major, minor) and its LLVM's major version, from `rustc -vV`.
pub(crate) fn versions(verbose: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split(['.', '-']);
    let version = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((version, llvm))
}

/// Where [`crate::setup`] puts the bpf-linker for an LLVM.
pub(crate) fn linker_root(llvm: u32) -> PathBuf {
    cache().join(format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}"))
}

/// A bpf-linker for a compiler: the one that is named, or the one that set-up built for its LLVM. A
/// linker can't be asked for its LLVM, so PATH's is taken for a nightly only, whose newest LLVM is
/// what people build it on; a wrong one says so at the link.
pub(crate) fn linker(compiler: &Compiler) -> Option<PathBuf> {
    let named = std::env::var_os("TOTORO_BPF_LINKER").map(PathBuf::from);
    let ours = linker_root(compiler.llvm).join("bin/bpf-linker");
    let any = compiler.takes_any_linker.then(|| path::find("bpf-linker"));
    named
        .into_iter()
        .chain([ours])
        .chain(any.flatten())
        .find(|path| step::output(bare(path).arg("--version")).is_some())
}

/// How a person gets one.
fn linker_hint(compiler: &Compiler) -> String {
    let llvm = compiler.llvm;
    if compiler.takes_any_linker {
        return format!(
            "with llvm-{llvm}-dev installed, LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install \
             bpf-linker --locked --version {BPF_LINKER} --no-default-features --features \
             llvm-{llvm}; or cargo binstall bpf-linker@{BPF_LINKER}"
        );
    }
    "`cargo xtask setup` as root on Debian builds one; TOTORO_BPF_LINKER names another".to_owned()
}

/// `program` without what the cargo that runs us left in the environment: another toolchain's
/// compiler, flags and libraries would be picked up.
pub(crate) fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // Registry, network and proxy settings of the person stay.
        let keep = text == "CARGO_HOME"
            || (text.starts_with("RUSTUP_") && text != "RUSTUP_TOOLCHAIN")
            || [
                "CARGO_HTTP_",
                "CARGO_NET_",
                "CARGO_REGISTR",
                "CARGO_SOURCE_",
                "CARGO_TERM_",
            ]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        let cargos = text == "CARGO"
            || text == "LD_LIBRARY_PATH"
            || ["CARGO_", "RUST", "OUT_DIR"]
                .iter()
                .any(|prefix| text.starts_with(prefix));
        if cargos && !keep {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::versions;

    #[test]
    fn reads_the_versions_of_stable_nightly_and_debian() {
        let text = |release: &str, llvm: &str| {
            format!("rustc {release}\nbinary: rustc\nrelease: {release}\nLLVM version: {llvm}")
        };
        assert_eq!(versions(&text("1.96.0", "22.1.8")), Some(((1, 96), 22)));
        assert_eq!(
            versions(&text("1.99.0-nightly", "23.0")),
            Some(((1, 99), 23))
        );
        assert_eq!(versions("rustc 1.63.0"), None);
    }
}
