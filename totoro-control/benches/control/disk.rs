//! A slower disk than the machine has, for all that is measured alike.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use totoro_power::recorder;

/// What the recorder takes it from.
const SYNC: &str = "TOTORO_RECORD_SYNC_US";

/// Starts this program anew with the recorder before it and before all that it starts, which lets each
/// sync take so many microseconds at least; nothing where that is done already.
pub(crate) fn slow_down(micros: u64) {
    if std::env::var_os(SYNC).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("a program has a path");
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(SYNC, micros.to_string())
        .env("LD_PRELOAD", recorder())
        .exec();
    panic!("cannot start anew: {error}");
}
