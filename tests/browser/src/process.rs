//! chromedriver and the Chromium that it starts, in a directory of their own.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Nothing of the person's, nothing from elsewhere, no window.
const ARGUMENTS: [&str; 11] = [
    "--headless",
    // Tests run as root, in containers too.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // The driver talks through a pipe: the browser ends with it, however it ends.
    "--remote-debugging-pipe",
    "--hide-scrollbars",
];

/// A driver; both it and its browser end when dropped.
pub(crate) struct Driver {
    child: Child,
    port: u16,
    home: TempDir,
}

impl Driver {
    pub(crate) fn start() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path())
            .env("XDG_CACHE_HOME", home.path())
            // Killed, it leaves directories behind.
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start chromedriver: cargo xtask setup installs it")?;
        let said = BufReader::new(child.stdout.take().context("its output")?);
        // Dropped half-way it ends too.
        let mut driver = Driver {
            child,
            port: 0,
            home,
        };
        for line in said.lines() {
            let line = line?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                driver.port = port.trim_end_matches('.').parse().context(line)?;
                return Ok(driver);
            }
        }
        bail!("chromedriver ended before it listened")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the browser is started with.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = String> {
        let profile = format!("--user-data-dir={}", self.profile().display());
        ARGUMENTS.map(str::to_owned).into_iter().chain([profile])
    }

    fn profile(&self) -> std::path::PathBuf {
        self.home.path().join("profile")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The driver puts the browser into a group of its own; it has our profile in its arguments.
        let browsers = with_argument(&self.profile());
        let _ = killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        for browser in browsers {
            let _ = kill(browser, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Processes that have a path in their arguments.
fn with_argument(path: &Path) -> Vec<Pid> {
    let wanted = path.display().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&wanted)
    })
    .map(Pid::from_raw)
    .collect()
}
