//! A slower disk than there is: where `TOTORO_RECORD_SYNC_US` is set, each sync takes so many
//! microseconds at least.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Waits until a sync that began then has taken its time.
pub(crate) fn wait_since(began: Instant) {
    static LEAST: OnceLock<Duration> = OnceLock::new();
    let least = LEAST.get_or_init(|| {
        let said = std::env::var("TOTORO_RECORD_SYNC_US").ok();
        let micros = said.and_then(|said| said.parse().ok());
        Duration::from_micros(micros.unwrap_or(0))
    });
    let left = least.saturating_sub(began.elapsed());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}
