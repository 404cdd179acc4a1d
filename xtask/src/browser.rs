//! What tests of pages need: Debian's Chromium with its driver, a font with Chinese in it, and axe-core,
//! whose script a package of Python's brings, of exactly the version in `tests/browser/axe.txt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, path, root, schemathesis, soak, step};

/// Programs, and Debian's packages of them.
const TOOLS: [(&str, &str); 2] = [
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];
/// Debian's package of the font, and where it has it.
const FONT: (&str, &str) = (
    "fonts-noto-cjk",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
);

/// Packages that apt could install and that are not here.
pub(crate) fn missing() -> Vec<String> {
    let tools = TOOLS.iter().filter(|(tool, _)| path::find(tool).is_none());
    let mut missing: Vec<String> = tools.map(|(_, package)| (*package).to_owned()).collect();
    // Elsewhere fonts lie elsewhere, and pages work with any.
    if !Path::new(FONT.1).exists() && crate::machine::is_debian() {
        missing.push(FONT.0.to_owned());
    }
    missing
}

/// axe-core's script, where all is installed as it is asked for.
pub(crate) fn find() -> Option<PathBuf> {
    let at = place();
    // Written last, so what has it is whole.
    let installed = fs::read(at.join(INSTALLED)).ok()?;
    let wanted = fs::read(requirements()).ok()?;
    let script = at.join("axe_playwright_python/axe.min.js");
    (installed == wanted && missing().is_empty() && script.exists()).then_some(script)
}

/// Installs axe-core, where it is not; apt has done the rest.
pub(crate) fn install() -> Result<()> {
    if let Some(found) = find() {
        step::skip("axe-core", &found.display().to_string());
        return Ok(());
    }
    let at = place();
    if at.exists() {
        fs::remove_dir_all(&at).with_context(|| format!("remove {}", at.display()))?;
    }
    let mut install = Command::new(schemathesis::python());
    install
        .args(["-m", "pip", "install", "--only-binary", ":all:"])
        // Its script alone is wanted, not what would run it from Python.
        .args([
            "--no-deps",
            "--require-hashes",
            "--disable-pip-version-check",
        ])
        .arg("--target")
        .arg(&at)
        .arg("--requirement")
        .arg(requirements());
    step::run(
        "axe-core",
        "looks pages over for what keeps people out",
        &mut install,
    )?;
    let marker = at.join(INSTALLED);
    fs::copy(requirements(), &marker).with_context(|| format!("write {}", marker.display()))?;
    Ok(())
}

/// Runs the stories of the control plane's page; where kernel and root are, that of the client's, too,
/// with a real node, frps and frpc.
pub(crate) fn run(lab: bool) -> Result<()> {
    let Some(script) = find() else {
        bail!("there is no browser, or no axe-core: cargo xtask setup");
    };
    let axe = ("TOTORO_AXE", script.display().to_string());
    // A browser has several processes: more at once only wait for each other.
    let words = ["--ignored", "--test-threads=2"];
    soak::control("pages::browser", &words, std::slice::from_ref(&axe))?;
    if !lab {
        return Ok(());
    }
    let env = [axe, ("TOTORO_REQUIRE_KERNEL", "1".to_owned())];
    soak::run_test(soak::Of::Binary("client"), "the_page", &["--ignored"], &env)
}

/// What is installed, in its own words.
const INSTALLED: &str = "installed.txt";

fn place() -> PathBuf {
    cache().join("axe")
}

fn requirements() -> PathBuf {
    root().join("tests/browser/axe.txt")
}
