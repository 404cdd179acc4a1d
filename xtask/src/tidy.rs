//! `tidy`: the rules of the code that a machine can check.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{root, step};

/// The longest source file, lines.
const LONGEST: usize = 420;

/// Checks every file that git knows.
pub(crate) fn run() -> Result<()> {
    let listed = files()?;
    let mut found = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let Ok(text) = fs::read_to_string(root().join(name)) else {
            continue;
        };
        found.extend(
            file(name, &text)
                .into_iter()
                .map(|problem| format!("{name}: {problem}")),
        );
    }
    found.extend(dependencies()?);
    if found.is_empty() {
        return Ok(());
    }
    bail!("{} found:\n  {}", found.len(), found.join("\n  "))
}

/// The files that git knows, each ended by a NUL.
fn files() -> Result<String> {
    // Under sudo the checkout is somebody else's, which git would not read.
    let safe = format!("safe.directory={}", root().display());
    let mut git = Command::new("git");
    git.current_dir(root())
        .args(["-c", &safe, "ls-files", "-z", "--cached"]);
    let output = git
        .output()
        .context("start git: tidy looks at what git knows")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git ls-files: {}", said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with one file.
fn file(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if name.ends_with(".rs") && lines > LONGEST {
        found.push(format!(
            "{lines} lines, more than {LONGEST}: split it by what it does"
        ));
    }
    for (number, line) in (1..).zip(text.lines()) {
        if name.ends_with(".md") && has_placeholder(line) {
            found.push(format!(
                "line {number}: a placeholder that nobody filled in"
            ));
        }
        // Spelled in two parts, so that this file passes its own rule.
        for home in [
            concat!("/ho", "me/"),
            concat!("/ro", "ot/"),
            concat!("/wo", "rk/"),
        ] {
            let path = line.find(home).map(|at| &line[..at]);
            // A relative path or a URL that merely contains the word is fine.
            if path.is_some_and(|before| {
                !before.ends_with(|c: char| c.is_alphanumeric() || "._~-$}".contains(c))
            }) {
                found.push(format!("line {number}: a path of one machine"));
            }
        }
        let exception = ["#[allow(", "#![allow(", "#[expect(", "#![expect("]
            .iter()
            .any(|lint| line.trim_start().starts_with(lint));
        if name.ends_with(".rs") && exception {
            let rest: String = text.lines().skip(number - 1).take(6).collect();
            let end = rest.find(")]").unwrap_or(rest.len());
            if !rest[..end].contains("reason") {
                found.push(format!("line {number}: a lint exception without a reason"));
            }
        }
    }
    found
}

/// Whether a line has something like `@FIGURES@`, which is to be replaced by what was measured.
fn has_placeholder(line: &str) -> bool {
    let mut parts = line.split('@').skip(1).peekable();
    while let Some(part) = parts.next() {
        let shouted = part.len() > 2 && part.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if shouted && parts.peek().is_some() {
            return true;
        }
    }
    false
}

/// Dependencies that the architecture forbids.
fn dependencies() -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"]);
    let text = step::output(&mut metadata).context("cargo metadata")?;
    let read: serde_json::Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let mut found = Vec::new();
    for (package, forbidden) in [
        ("totoro-control", ["totoro-ebpf", "aya"].as_slice()),
        ("totoro-api", &["totoro-ebpf", "tokio", "hyper", "reqwest"]),
        ("totoro-node", &["totoro-control", "warp", "sled", "utoipa"]),
        ("totoro-ebpf", &["totoro-control", "totoro-node", "tokio"]),
        (
            "totoro-client",
            &[
                "totoro-control",
                "totoro-node",
                "totoro-ebpf",
                "warp",
                "sled",
                "aya",
            ],
        ),
    ] {
        let packages = read["packages"].as_array().into_iter().flatten();
        for dependency in packages
            .filter(|found| found["name"] == package)
            .flat_map(|found| found["dependencies"].as_array().into_iter().flatten())
            .filter_map(|dependency| dependency["name"].as_str())
        {
            if forbidden.contains(&dependency) {
                found.push(format!("{package} must not depend on {dependency}"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, file};

    #[test]
    fn finds_what_it_looks_for_and_nothing_else() {
        assert_eq!(
            file("a.rs", "#[expect(dead_code, reason = \"why\")]\n"),
            Vec::<String>::new()
        );
        assert_eq!(file("a.rs", "#[expect(dead_code)]\n").len(), 1);
        assert_eq!(
            file(
                "a.rs",
                "#[expect(\n    dead_code,\n    reason = \"why\"\n)]\n"
            )
            .len(),
            0
        );
        assert_eq!(file("a.rs", &"\n".repeat(LONGEST)).len(), 0);
        assert_eq!(file("a.rs", &"\n".repeat(LONGEST + 1)).len(), 1);
        assert_eq!(file("a.md", "took @TIME@ s").len(), 1);
        assert_eq!(file("a.md", "me@example.invalid, bpf-linker@0.13").len(), 0);
        assert_eq!(file("a.md", concat!("see /ho", "me/me/x")).len(), 1);
        assert_eq!(
            file("a.md", concat!("https://example.invalid/ho", "me/x")).len(),
            0
        );
    }
}
