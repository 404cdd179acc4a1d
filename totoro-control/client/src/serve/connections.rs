//! The tunnels that this program holds, and those that it remembers from before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use super::saved::{Asked, Saved};
use crate::access::Access;
use crate::control::Control;
use crate::error::Error;
use crate::frpc::Frpc;
use crate::lang::{Lang, say};
use crate::running::{self, Shown};
use crate::target::{machine, proxies};
use crate::tunnel::{Phase, Snapshot, Spec, Tunnel};

/// The most tunnels at once: each is an frpc.
const MOST: usize = 32;
/// How long all of them may take to end.
const ENDING: Duration = Duration::from_secs(8);

/// A tunnel, for whoever looks. No secret.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// Its id, for as long as this program runs.
    pub id: String,
    /// How it stands.
    #[serde(flatten)]
    pub tunnel: Snapshot,
}

/// One that is held.
struct Held {
    id: String,
    number: u32,
    tunnel: Tunnel,
    asked: Option<Asked>,
    _shown: Option<Shown>,
}

/// All of them.
pub struct Connections {
    frpc: Frpc,
    saved: Option<Saved>,
    held: tokio::sync::Mutex<BTreeMap<String, Held>>,
    /// Remembered, and not running: the person is asked first.
    before: Mutex<Vec<Asked>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Connections {
    /// None yet; what is remembered waits to be asked for.
    ///
    /// # Errors
    /// The file of what is remembered can't be used.
    pub fn new(frpc: Frpc, saved: Option<Saved>) -> Result<Self, Error> {
        let before = saved.as_ref().map(Saved::load).transpose()?;
        Ok(Connections {
            frpc,
            saved,
            held: tokio::sync::Mutex::default(),
            before: Mutex::new(before.unwrap_or_default()),
            changes: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Every change of anything, however many at once.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All, the oldest first.
    pub async fn all(&self) -> Vec<Connection> {
        let held = self.held.lock().await;
        let mut all: Vec<&Held> = held.values().collect();
        all.sort_by_key(|held| held.number);
        all.into_iter().map(Held::view).collect()
    }

    /// One.
    pub async fn one(&self, id: &str) -> Option<Connection> {
        self.held.lock().await.get(id).map(Held::view)
    }

    /// Opens one; its id. With `access` where a way in was just asked for.
    ///
    /// # Errors
    /// What is asked for makes no sense, or it is refused.
    pub async fn open(
        &self,
        asked: Asked,
        access: Option<Access>,
        remember: bool,
        lang: Lang,
    ) -> Result<String, Error> {
        let proxies = proxies(&asked.proxies, &machine(), lang)?;
        let spec = Spec {
            control: Control::new(&asked.control, asked.insecure_http)?,
            source: asked.source()?,
            proxies,
            frpc: self.frpc.clone(),
        };
        let full = || {
            Error::Usage(say!(
                lang,
                "{MOST} tunnels run already: stop one first",
                "已有 {MOST} 条隧道在运行：请先停止一条"
            ))
        };
        if self.held.lock().await.len() >= MOST {
            return Err(full());
        }
        let (tunnel, _) = match access {
            Some(access) => Tunnel::with_access(spec, access)?,
            None => Tunnel::open(spec).await?,
        };
        tokio::spawn(pass_on(tunnel.watch(), Arc::clone(&self.changes)));
        let mut held = self.held.lock().await;
        if held.len() >= MOST {
            return Err(full());
        }
        let number = held.values().map(|held| held.number + 1).max().unwrap_or(1);
        let id = format!("c-{:08x}", fastrand::u32(..));
        let new = Held {
            id: id.clone(),
            number,
            // That nobody else sees it is no reason not to run.
            _shown: running::show(tunnel.watch()).ok(),
            tunnel,
            asked: remember.then_some(asked),
        };
        held.insert(new.id.clone(), new);
        self.keep(&held)?;
        drop(held);
        self.changed();
        Ok(id)
    }

    /// Waits until it is clear what became of one, or for so long.
    pub async fn settled(&self, id: &str, most: Duration) {
        let state = self
            .held
            .lock()
            .await
            .get(id)
            .map(|held| held.tunnel.watch());
        let Some(mut state) = state else { return };
        let settled = state.wait_for(|state| {
            let proxies = &state.proxies;
            state.phase == Phase::Stopped
                || state.phase == Phase::Running
                    && proxies
                        .iter()
                        .all(|one| one.address.is_some() || one.refused.is_some())
        });
        let _ = timeout(most, settled).await;
    }

    /// Ends one and forgets it; whether there was one.
    ///
    /// # Errors
    /// What is remembered can't be written.
    pub async fn stop(&self, id: &str) -> Result<bool, Error> {
        let mut all = self.held.lock().await;
        let Some(mut held) = all.remove(id) else {
            return Ok(false);
        };
        let kept = self.keep(&all);
        drop(all);
        held.tunnel.stop().await;
        self.changed();
        kept.map(|()| true)
    }

    /// Ends all; they stay remembered.
    pub async fn end(&self) {
        let mut held = std::mem::take(&mut *self.held.lock().await);
        let all = held.values_mut().map(|held| held.tunnel.stop());
        let _ = timeout(ENDING, join_all(all)).await;
    }

    /// What was remembered and does not run.
    pub fn before(&self) -> Vec<Asked> {
        self.lock_before().clone()
    }

    /// Opens what was remembered; what could not be stays, with why.
    pub async fn restore(&self, lang: Lang) -> Vec<(Asked, Error)> {
        let before = std::mem::take(&mut *self.lock_before());
        let mut failed = Vec::new();
        for asked in before {
            if let Err(error) = self.open(asked.clone(), None, true, lang).await {
                failed.push((asked, error));
            }
        }
        let left = failed.iter().map(|(asked, _)| asked.clone());
        self.lock_before().extend(left);
        self.keep(&*self.held.lock().await).ok();
        self.changed();
        failed
    }

    /// Forgets what was remembered and does not run.
    ///
    /// # Errors
    /// The file can't be written.
    pub async fn forget(&self) -> Result<(), Error> {
        self.lock_before().clear();
        let kept = self.keep(&*self.held.lock().await);
        self.changed();
        kept
    }

    /// Writes what is to be remembered: what runs, and what did before.
    fn keep(&self, held: &BTreeMap<String, Held>) -> Result<(), Error> {
        let Some(saved) = &self.saved else {
            return Ok(());
        };
        let mut running: Vec<&Held> = held.values().collect();
        running.sort_by_key(|held| held.number);
        let running = running.into_iter().filter_map(|held| held.asked.clone());
        saved.keep(self.before().into_iter().chain(running).collect())
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    /// Locked for look-ups only, never across an await.
    fn lock_before(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn view(&self) -> Connection {
        Connection {
            id: self.id.clone(),
            tunnel: self.tunnel.snapshot(),
        }
    }
}

/// Says of every change of a tunnel that there was one.
async fn pass_on(mut state: watch::Receiver<Snapshot>, changes: Arc<watch::Sender<u64>>) {
    while state.changed().await.is_ok() {
        changes.send_modify(|number| *number += 1);
    }
}
