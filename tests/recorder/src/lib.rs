//! Preloaded into a process (`LD_PRELOAD`), records in which order it writes, names and syncs the
//! files below `TOTORO_RECORD_DIR`, as records in the file `TOTORO_RECORD_TO`.
//!
//! A call is recorded after it is done, a sync before as well: all that is recorded before a sync
//! has begun is what it made durable once it has ended. Several threads append to the trace by one
//! `O_APPEND` write each, so that the trace is one order and its length is a clock.
//!
//! It can make calls fail, and syncs slow, too: see `fail` and `slow`.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("the recorder knows the system calls of 64-bit Linux");

mod fail;
mod format;
pub mod hooks;
mod slow;
mod trace;
