//! A wall clock for some of a lab's processes. The machine's own stays as it is: it is everybody's, and no
//! namespace has another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Off by as much as it was stepped, for all who were started with it.
#[derive(Debug)]
pub struct WallClock {
    file: PathBuf,
    preloaded: PathBuf,
}

impl WallClock {
    /// One that is right, kept in a file.
    ///
    /// # Errors
    /// The file can't be written, or what is preloaded was not built.
    pub fn new(file: PathBuf) -> Result<WallClock> {
        let program = std::env::current_exe().context("our own path")?;
        let beside = program.parent().context("our own directory")?;
        let deps = match beside.ends_with("deps") {
            true => beside.to_owned(),
            false => beside.join("deps"),
        };
        let preloaded = deps.join("libtotoro_clock.so");
        ensure!(preloaded.is_file(), "{} is not there", preloaded.display());
        let clock = WallClock { file, preloaded };
        fs::write(&clock.file, 0i64.to_ne_bytes()).context("make a clock")?;
        Ok(clock)
    }

    /// Has a command go by it.
    pub fn give(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.preloaded)
            .env("TOTORO_CLOCK_FILE", &self.file);
    }

    /// Sets it so many seconds off what is right: ahead, or behind.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn set(&self, off_s: i64) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file: &Path = &self.file;
        // In one write: who goes by it reads it meanwhile.
        let file = fs::File::options().write(true).open(file);
        let off = (off_s * 1_000).to_ne_bytes();
        file.and_then(|file| file.write_all_at(&off, 0))
            .context("set a clock")
    }
}
