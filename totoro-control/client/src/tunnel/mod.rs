//! A tunnel: one frpc and its proxies, watched over by a task. Whoever holds a [`Tunnel`] sees its
//! state at any time and hears its events; dropping it ends it.

mod event;
mod machine;

mod run;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod watching;

use std::sync::Arc;

use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;
use totoro_api::frpc::Proxy;

pub use event::{Event, Left, Stats, Why};
pub(crate) use run::now;
pub use state::{Phase, ProxyState, Snapshot};

use crate::access::{Access, Source};
use crate::control::Control;
use crate::error::Error;
use crate::frpc::Frpc;
use crate::told::Told;

/// Events that wait for a slow listener; it is told how many more it missed.
const EVENTS: usize = 256;

/// What a tunnel is to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The control plane.
    pub control: Control,
    /// How one comes in.
    pub source: Source,
    /// What is exposed ([`crate::target::proxies`]).
    pub proxies: Vec<Proxy>,
    /// What runs it.
    pub frpc: Frpc,
}

/// A tunnel that runs, or has ended.
#[derive(Debug)]
pub struct Tunnel {
    state: watch::Receiver<Snapshot>,
    events: broadcast::Sender<Event>,
    ending: Arc<Notify>,
    task: Option<JoinHandle<Option<Told>>>,
}

impl Tunnel {
    /// Asks for a way in, and starts; the receiver hears everything from the beginning.
    ///
    /// # Errors
    /// The control plane refuses or can't be reached; there is no place for private files.
    pub async fn open(spec: Spec) -> Result<(Tunnel, broadcast::Receiver<Event>), Error> {
        let access = spec.source.access(&spec.control).await?;
        Tunnel::with_access(spec, access)
    }

    /// The same with a way in that was just asked for.
    ///
    /// # Errors
    /// There is no place for private files.
    pub fn with_access(
        spec: Spec,
        access: Access,
    ) -> Result<(Tunnel, broadcast::Receiver<Event>), Error> {
        let (events, heard) = broadcast::channel(EVENTS);
        let ending = Arc::new(Notify::new());
        let runner = run::Runner::new(spec, access, events.clone(), Arc::clone(&ending))?;
        let state = runner.state();
        let tunnel = Tunnel {
            state,
            events,
            ending,
            task: Some(tokio::spawn(runner.run())),
        };
        Ok((tunnel, heard))
    }

    /// How it stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.state.borrow().clone()
    }

    /// How it stands, and every change of that.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.state.clone()
    }

    /// What happens from here on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Ends it in order: frpc closes its session, and is gone when this returns.
    pub async fn stop(&mut self) {
        self.ending.notify_one();
        self.ended().await;
    }

    /// Waits until it is over; why, where it was not asked for.
    pub async fn ended(&mut self) -> Option<Told> {
        let task = self.task.as_mut()?;
        let told = task.await.ok().flatten();
        self.task = None;
        told
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // The task ends frpc in order; where the runtime ends first, frpc is killed with it.
        self.ending.notify_one();
    }
}
