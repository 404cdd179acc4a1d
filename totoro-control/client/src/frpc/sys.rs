//! The crate's only unsafe code: frpc's life is tied to ours, also where we are killed.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tokio::process::Command;

/// Has the command's process get SIGTERM when the thread that starts it ends. That is one of the
/// runtime's workers, which live as long as the runtime.
pub(super) fn ends_with_us(command: &mut Command) {
    let tie = || set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from);
    // SAFETY: the closure runs after fork in the child of a process with threads, so it may only do
    // what is async-signal-safe: prctl is a plain system call, and its error a plain number.
    unsafe {
        command.pre_exec(tie);
    }
}
