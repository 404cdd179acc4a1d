//! The workspace's commands: `cargo xtask setup|build-ebpf|demo|test|check|tidy|deny|soak|bench|
//! dist|deploy`.

mod bench;
mod bpf;
mod browser;
mod demo;
mod deny;
mod deploy;

mod dist;
mod fresh;

mod frp;
mod fuzz;
mod install;

mod leftovers;
mod machine;
mod older;
mod owner;
mod path;
mod probe;
mod schemathesis;
mod setup;
mod signals;
mod soak;
mod step;
mod suite;
mod tidy;
mod tool;
mod toolchain;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, demo, test.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    version,
    after_help = "\
Examples:
  cargo xtask demo                 the whole story on this machine, in network namespaces
  cargo xtask test                 every test; needs root and a kernel with BPF
  cargo xtask test --quick         what needs no root
  cargo xtask test --no-setup expiry   only the tests whose name has `expiry`
  cargo xtask dist                 packages for Debian and a tarball, in target/dist
  cargo xtask deploy --dry-run n1.example.org   would that machine take it?"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs or builds what is missing: the BPF toolchain, bpf-linker, frps and frpc, schemathesis,
    /// a browser, bpffs.
    Setup,
    /// Builds the kernel object, target/bpf/totoro-ebpf.o.
    BuildEbpf(bpf::Args),
    /// Sets up, builds, and plays the story with real frps and frpc in network namespaces.
    Demo(demo::Args),
    /// Sets up, and runs every test.
    Test(suite::Args),
    /// rustfmt, clippy and tidy: what a commit must pass; needs no root.
    Check,
    /// The rules of the code that a machine can check.
    Tidy,
    /// Licences, advisories and sources of the dependencies, by cargo-deny.
    Deny,
    /// What is longer than CI should be.
    #[command(subcommand)]
    Soak(soak::Soak),
    /// How fast it is, in a release build.
    Bench(bench::Args),
    /// Release builds as packages (.deb) and as a tarball, with their checksums, in target/dist.
    Dist(dist::Args),
    /// Installs a package of target/dist on machines, over ssh; rolls back where it is not well then.
    Deploy(deploy::Args),
}

fn main() -> ExitCode {
    path::complete();
    let done = match Cli::parse().command {
        Command::Setup => setup::run().map(|()| 0),
        Command::BuildEbpf(args) => bpf::build_with(&args).map(|()| 0),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => suite::run(&args),
        Command::Check => suite::check().map(|()| 0),
        Command::Tidy => tidy::run().map(|()| 0),
        Command::Deny => deny::all().map(|()| 0),
        Command::Bench(args) => bench::run(&args),
        Command::Dist(args) => dist::run(&args).map(|()| 0),
        Command::Deploy(args) => deploy::run(&args).map(|()| 0),
        Command::Soak(which) => soak::run(&which),
    };
    owner::hand_back();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root.
fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the built-in path serves a binary run by hand.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// Where what is built lands. Fixed, so that the daemons and the lab find each other.
fn target() -> PathBuf {
    root().join("target")
}

/// Where what is dear to build is kept between clones.
fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home)
        .unwrap_or_else(|| target().join("cache"))
        .join("totoro")
}
