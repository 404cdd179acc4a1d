//! `dist`: what an operator installs. Release builds with the kernel object in the daemon, a `.deb` of
//! each daemon and of the client by cargo-deb (its metadata is in their Cargo.toml, its scripts in
//! `deploy/debian`), a tarball of the same files, and checksums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{bpf, path, root, step, target, tool};

/// The release of cargo-deb that packages are made with.
const CARGO_DEB: &str = "3.8.0";
/// What runs as a service.
pub(crate) const DAEMONS: [&str; 2] = ["totoro-node", "totoro-control"];
/// What people run.
pub(crate) const CLIENT: &str = "totoro-client";

/// Options of `dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The packages' revision, for a new package of the same version.
    #[arg(long, default_value_t = 1)]
    pub(crate) revision: u32,
    /// Builds without optimisation: quick, to try packages, not to install them.
    #[arg(long)]
    pub(crate) dev: bool,
}

impl Args {
    /// cargo's profile, and its directory below `target`.
    const fn profile(&self) -> [&'static str; 2] {
        if self.dev {
            ["dev", "debug"]
        } else {
            ["release", "release"]
        }
    }
}

/// Where it lands.
pub(crate) fn dir() -> PathBuf {
    target().join("dist")
}

/// Makes all of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    build(args, &[CLIENT, "totoro-pages"])?;
    pages(args)?;
    let cargo_deb = cargo_deb()?;
    for old in fs::read_dir(dir())?.flatten() {
        // Only what a run like this made before: packages of other revisions are a way back.
        if old.path().extension().is_some_and(|kind| kind == "gz") {
            fs::remove_file(old.path()).context("remove an older tarball")?;
        }
    }
    let mut debs = Vec::new();
    for package in DAEMONS.into_iter().chain([CLIENT]) {
        debs.push(deb(&cargo_deb, package, args)?);
    }
    if !args.dev {
        lint(&debs)?;
    }
    let tarball = tarball(&debs)?;
    sums(&debs, &tarball)?;
    for made in debs.iter().chain([&tarball]) {
        let size = fs::metadata(made).context("look at what was made")?.len();
        println!(
            "{} ({:.1} MiB)",
            made.display(),
            size as f64 / f64::from(1 << 20)
        );
    }
    println!("{}", dir().join("SHA256SUMS").display());
    Ok(())
}

/// The date of what is packaged: the same source gives the same files.
fn epoch() -> String {
    let safe = format!("safe.directory={}", root().display());
    let mut git = Command::new("git");
    git.current_dir(root())
        .args(["-c", &safe, "log", "-1", "--format=%ct"]);
    step::output(&mut git).unwrap_or_else(|| "0".to_owned())
}

/// Release builds of the daemons, with the kernel object in the one that loads it.
pub(crate) fn daemons(args: &Args) -> Result<()> {
    build(args, &[])
}

/// The same, and more.
pub(crate) fn build(args: &Args, more: &[&str]) -> Result<()> {
    bpf::build()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(root())
        .args([
            "build",
            "--profile",
            args.profile()[0],
            "--locked",
            "--bins",
        ])
        .args(
            DAEMONS
                .iter()
                .chain(more)
                .flat_map(|name| ["--package", name]),
        )
        .env("CARGO_TARGET_DIR", target())
        .env("TOTORO_EMBED_OBJECT", bpf::object());
    step::run(
        "daemons",
        "the kernel object goes into the daemon",
        &mut build,
    )
    .map(drop)
}

/// Man pages and completions, compressed as Debian has them.
fn pages(args: &Args) -> Result<()> {
    let pages = dir().join("pages");
    fs::remove_dir_all(&pages).ok();
    fs::create_dir_all(&pages).with_context(|| format!("create {}", pages.display()))?;
    let mut make = Command::new(target().join(args.profile()[1]).join("totoro-pages"));
    step::run("pages", "man pages and completions", make.arg(&pages)).map(drop)
}

/// cargo-deb of the pinned release, built once and kept in the cache.
fn cargo_deb() -> Result<PathBuf> {
    ensure!(
        path::find("dpkg-deb").is_some(),
        "packages are made on Debian or its like (dpkg is not in PATH)"
    );
    let why = "makes the packages; built once, kept in the cache";
    tool::install("cargo-deb", CARGO_DEB, why)
}

fn deb(cargo_deb: &Path, package: &str, args: &Args) -> Result<PathBuf> {
    let made = dir().join(format!(
        "{package}_{}-{}_{}.deb",
        env!("CARGO_PKG_VERSION"),
        args.revision,
        arch()?
    ));
    let mut make = Command::new(cargo_deb);
    make.current_dir(root())
        .args(["--no-build", "--package", package])
        .args(["--profile", args.profile()[0]])
        .args(["--deb-revision", &args.revision.to_string(), "--output"])
        .arg(&made)
        .args(args.dev.then_some("--fast"))
        .env("CARGO_TARGET_DIR", target())
        .env("SOURCE_DATE_EPOCH", epoch());
    step::run(&format!("{package}.deb"), "a package for Debian", &mut make)?;
    Ok(made)
}

/// Debian's name of this machine's architecture.
pub(crate) fn arch() -> Result<String> {
    step::output(Command::new("dpkg").arg("--print-architecture"))
        .context("dpkg does not tell this machine's architecture")
}

/// Debian's own checker, where it is installed.
fn lint(debs: &[PathBuf]) -> Result<()> {
    if path::find("lintian").is_none() {
        step::skip(
            "lintian",
            "not installed (apt-get install lintian): packages were not checked",
        );
        return Ok(());
    }
    let mut lint = Command::new("lintian");
    lint.args(["--allow-root", "--fail-on", "error,warning"])
        .args(debs);
    step::run("lintian", "what Debian says of the packages", &mut lint).map(drop)
}

/// The packages' files in one tree, to be unpacked on `/` where there is no dpkg.
fn tarball(debs: &[PathBuf]) -> Result<PathBuf> {
    let name = format!(
        "totoro-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let tree = dir().join(&name);
    fs::remove_dir_all(&tree).ok();
    for deb in debs {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(deb).arg(&tree);
        ensure!(
            unpack.status().context("start dpkg-deb")?.success(),
            "dpkg-deb -x failed"
        );
    }
    let made = dir().join(format!("{name}.tar.gz"));
    let mut pack = Command::new("tar");
    pack.current_dir(dir())
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", epoch()))
        .arg("-czf")
        .args([&made, Path::new(&name)]);
    step::run(
        "tarball",
        "the same files, for machines without dpkg",
        &mut pack,
    )?;
    fs::remove_dir_all(&tree).context("remove the tarball's tree")?;
    Ok(made)
}

/// `sha256sum -c SHA256SUMS` beside them checks them.
fn sums(debs: &[PathBuf], tarball: &Path) -> Result<()> {
    let names = debs.iter().map(PathBuf::as_path).chain([tarball]);
    let mut sum = Command::new("sha256sum");
    sum.current_dir(dir())
        .args(names.filter_map(Path::file_name));
    let Some(text) = step::output(&mut sum) else {
        bail!("sha256sum failed");
    };
    fs::write(dir().join("SHA256SUMS"), text + "\n").context("write SHA256SUMS")
}
