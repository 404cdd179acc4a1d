//! A node as its operator sees it while it is at work: `inspect --watch` in a terminal and in a pipe, and
//! the daemon's log as JSON.

mod logs;
mod watch;

use anyhow::{Result, ensure};

use crate::hostile;
use crate::report::Report;

/// Plays it in a lab.
///
/// # Errors
/// Something is not to be seen, or the lab can't be had.
pub fn play() -> Result<()> {
    let mut world = hostile::world("seen", &[])?;
    let mut report = Report::new(false);
    report.item("inspect --watch");
    watch::play(&world, &mut report);
    report.item("run --log-json");
    logs::play(&mut world, &mut report);
    ensure!(report.finish(), "something is not to be seen");
    Ok(())
}
