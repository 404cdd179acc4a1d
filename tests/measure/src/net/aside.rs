//! What runs beside a measurement, on a thread and a runtime of its own.

use anyhow::{Context, Result};
use tokio::sync::watch;

/// A thread with a runtime; both end, with all tasks, when this is dropped.
pub(crate) struct Aside {
    ended: watch::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Aside {
    /// Starts it with this work.
    ///
    /// # Errors
    /// No runtime or thread can be had.
    pub(crate) fn start<F: Future<Output = ()>>(
        name: &str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Aside> {
        let (ended, mut end) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a runtime")?;
        let both = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = end.changed() => {}
                    () = work() => {}
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(both)
            .context("a thread")?;
        Ok(Aside {
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.ended.send_replace(());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
