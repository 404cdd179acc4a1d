//! schemathesis: asks the control plane everything that the description of its API has, in right ways
//! and wrong ones. A virtual environment of Python's in the cache, of exactly the versions in
//! `tests/schemathesis/requirements.txt`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, root, soak, step};

/// Cases of each call and phase in `test`: they take less than a minute.
pub(crate) const CASES: u32 = 5;

/// Debian's package of what makes virtual environments.
pub(crate) const PACKAGE: &str = "python3-venv";

/// Whether this machine can make a virtual environment.
pub(crate) fn can_install() -> bool {
    step::output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some()
}

/// The program, where it is installed as it is asked for.
pub(crate) fn find() -> Option<PathBuf> {
    let venv = venv();
    // Written last, so what has it is whole.
    let installed = fs::read(venv.join(INSTALLED)).ok()?;
    let wanted = fs::read(requirements()).ok()?;
    (installed == wanted).then(|| venv.join("bin/schemathesis"))
}

/// The virtual environment's Python, once it is installed.
pub(crate) fn python() -> PathBuf {
    venv().join("bin/python")
}

/// Installs it, where it is not.
pub(crate) fn install() -> Result<()> {
    if let Some(found) = find() {
        step::skip("schemathesis", &found.display().to_string());
        return Ok(());
    }
    let (venv, why) = (venv(), "asks the control plane what its description says");
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("remove {}", venv.display()))?;
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    step::run("python3 -m venv", why, &mut make)?;
    let mut install = Command::new(venv.join("bin/python"));
    install
        .args(["-m", "pip", "install", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--requirement"])
        .arg(requirements());
    step::run("schemathesis", why, &mut install)?;
    let marker = venv.join(INSTALLED);
    fs::copy(requirements(), &marker).with_context(|| format!("write {}", marker.display()))?;
    Ok(())
}

/// Runs it against a control plane of its own, with so many cases of each call and phase.
pub(crate) fn run(cases: u32) -> Result<()> {
    let Some(program) = find() else {
        bail!("schemathesis is not installed: cargo xtask setup");
    };
    let test = "fuzzed::no_call_answers_what_is_not_documented";
    let env = [
        ("TOTORO_API_CASES", cases.to_string()),
        ("TOTORO_SCHEMATHESIS", program.display().to_string()),
    ];
    soak::control(test, &["--ignored"], &env)
}

/// What is installed, in its own words.
const INSTALLED: &str = "installed.txt";

fn venv() -> PathBuf {
    cache().join("schemathesis")
}

fn requirements() -> PathBuf {
    root().join("tests/schemathesis/requirements.txt")
}
