//! Users who come, say a word, hear it back and go, one after the other, in the background.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::lab::Netns;
use crate::net::user;

/// So many at once.
const AT_ONCE: usize = 3;
/// A user's pause.
const PAUSE: Duration = Duration::from_millis(15);

/// Running until they are stopped or dropped.
pub(super) struct Users {
    ended: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failures: Receiver<anyhow::Error>,
    threads: Vec<JoinHandle<()>>,
}

impl Users {
    pub(super) fn start(ns: &Netns, to: SocketAddr) -> Result<Users> {
        let (ended, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (tell, failures) = channel();
        let threads = (0..AT_ONCE).map(|_| {
            let (ended, served, tell) = (Arc::clone(&ended), Arc::clone(&served), tell.clone());
            let work = move || {
                while !ended.load(Ordering::SeqCst) {
                    let met = user::connect_here(to)
                        .and_then(|mut stream| user::exchange(&mut stream, b"good day"));
                    match met {
                        Ok(_) => served.fetch_add(1, Ordering::SeqCst),
                        Err(error) => {
                            tell.send(error).ok();
                            return;
                        }
                    };
                    std::thread::sleep(PAUSE);
                }
            };
            // A thread stays in the namespace in which it was made.
            ns.run(|| Ok(std::thread::spawn(work)))
        });
        Ok(Users {
            threads: threads.collect::<Result<_>>()?,
            ended,
            served,
            failures,
        })
    }

    /// How many there were.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    /// Whether every one was served.
    pub(super) fn well(&self) -> Result<()> {
        match self.failures.try_recv() {
            Ok(error) => Err(error).context(format!("a user, after {}", self.served())),
            Err(_) => Ok(()),
        }
    }

    /// Ends them; how many there were.
    pub(super) fn stop(&mut self) -> Result<u64> {
        self.ended.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a user panicked"))?;
        }
        self.well()?;
        Ok(self.served())
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}
