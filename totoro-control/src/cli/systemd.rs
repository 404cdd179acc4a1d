//! What systemd is told: ready, alive, ending. Started without systemd, nothing is.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::app::App;

/// It serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It ends, and may take its time to do so in order.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says, while the store's writer answers, that it lives: a process that answers reads and can
/// write nothing is to be started again. Ends only where no watchdog is set, or with its task.
pub(super) async fn keep_alive(app: Arc<App>) {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Twice in its time, as sd_watchdog_enabled(3) asks for.
    let pause = (patience / 2).max(Duration::from_millis(1));
    loop {
        match app.writes().await {
            Ok(true) => tell(&[NotifyState::Watchdog]),
            _ => tracing::error!("the store does not write: systemd's watchdog is not told"),
        }
        tokio::time::sleep(pause).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
