//! Running other programs as steps: what and why in one line, progress while it runs, the end of
//! its log when it fails.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::target;

/// Says that a step has nothing to do.
pub(crate) fn skip(what: &str, found: &str) {
    eprintln!("✔ {what}: {found}");
}

/// Runs `command` as a step named `what`, wanted because of `why`. Its output goes to
/// `target/xtask/<what>.log`, under a name of its own until it is done, because another run may do
/// the same; the log's end is shown when it fails.
pub(crate) fn run(what: &str, why: &str, command: &mut Command) -> Result<Duration> {
    let slug: String = what
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let dir = target().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join(format!("{slug}-{}.log", std::process::id()));
    let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;

    eprintln!("▶ {what} ({why})");
    let begun = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("clone the log's handle")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {program}"))?;

    // A person sees a running clock; a log file gets a line every half minute.
    let live = std::io::stderr().is_terminal();
    let mut said = 0;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("wait for {program}"))?
        {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
        let seconds = begun.elapsed().as_secs();
        if live && seconds > said {
            said = seconds;
            eprint!("\r  {seconds} s  {}\x1b[K", last_line(&path));
            std::io::stderr().flush().ok();
        } else if !live && seconds >= said + 30 {
            said = seconds;
            eprintln!("  … {seconds} s");
        }
    };
    if live {
        eprint!("\r\x1b[K");
    }
    let took = begun.elapsed();
    if status.success() {
        fs::rename(&path, dir.join(format!("{slug}.log"))).ok();
        eprintln!("✔ {what}: {:.1} s", took.as_secs_f64());
        return Ok(took);
    }
    let text = fs::read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(80)..] {
        eprintln!("  | {line}");
    }
    bail!(
        "{what} failed ({status}); the whole log is in {}",
        path.display()
    );
}

fn last_line(path: &std::path::Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(400)..]).into_owned();
    text.lines()
        .next_back()
        .unwrap_or_default()
        .trim()
        .chars()
        .take(70)
        .collect()
}

/// What `command` prints, trimmed; `None` when it can't be run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
