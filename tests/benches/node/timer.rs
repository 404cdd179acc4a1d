//! A timer of the kernel's: tokio's wakes up a millisecond late, which is as much as an answer takes.

use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

pub(crate) struct Timer(AsyncFd<Descriptor>);

struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    pub(crate) fn new() -> Self {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Descriptor(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).unwrap());
        // SAFETY: the descriptor is the timer's own, which is open as long as it lives and is never another.
        let timer = unsafe { AsyncFd::register(timer) };
        Timer(timer.unwrap())
    }

    /// Waits until then.
    pub(crate) async fn until(&self, turn: Instant) {
        // Of nothing it would be switched off.
        let left = turn.saturating_duration_since(Instant::now());
        let once = Expiration::OneShot(TimeSpec::from(left.max(Duration::from_nanos(1))));
        let timer = &self.0.get_ref().0;
        timer.set(once, TimerSetTimeFlags::empty()).unwrap();
        loop {
            let mut ready = self.0.readable().await.unwrap();
            if let Ok(expired) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                return expired.unwrap();
            }
        }
    }
}
