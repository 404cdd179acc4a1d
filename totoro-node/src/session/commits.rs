//! How decisions become durable: decided and shown to the kernel under the desk's lock, made durable
//! together without it, and answered after that.
//!
//! A decision may build on others that are not durable yet: it comes behind them, so once it is
//! durable they are. When the disk fails, all that was decided since fails with it. What has happened
//! (a connection ended, a policy holds) stays in memory and is tried again; what only was to be
//! granted is taken back, before anybody decides anything else.

use std::sync::Arc;

use parking_lot::MutexGuard;
use tokio::sync::Notify;
use totoro_api::{Reason, Refusal};

use super::desk::{Desk, Inner};
use super::model::{Session, Ticket};
use super::ports::{PortId, Waiting, port_key, record_key};
use crate::store::{Changes, Failed, HELD, LEASES, Place, SESSIONS, Store, TICKETS};

/// What becomes durable in one go.
pub(super) struct Entry {
    changes: Changes,
    /// How it is taken back; `None` = it has happened, and can't be.
    undo: Option<Undo>,
}

/// What was there before something was granted.
pub(super) enum Undo {
    Login(Box<UndoneLogin>),
    Lease(UndoneLease),
}

pub(super) struct UndoneLogin {
    pub(super) run_id: String,
    /// Of the session as it was granted.
    pub(super) nonce: String,
    pub(super) session: Option<Session>,
    /// The ticket's.
    pub(super) hash: String,
    pub(super) ticket: Option<Ticket>,
    /// Ports that moved with the session.
    pub(super) moved: Vec<(PortId, Waiting)>,
}

pub(super) struct UndoneLease {
    pub(super) port: PortId,
    /// Of the lease as it was granted.
    pub(super) number: u64,
    pub(super) waiting: Option<Waiting>,
}

/// What was decided, and is on its way to the disk: see [`Desk::decided`].
#[must_use = "it is to be answered once it is durable"]
pub(super) struct Decided(Place);

/// Writes batches to a store, and wakes the delivery when there is something to deliver.
pub(super) fn writer(
    store: Arc<Store>,
    wake: Arc<Notify>,
) -> impl FnMut(&[Entry]) -> anyhow::Result<()> {
    move |batch| {
        let changes = batch.iter().map(|entry| &entry.changes);
        store.commit_all(changes).inspect_err(|error| {
            tracing::error!(
                error = format!("{error:#}"),
                "state can't be made durable; what happened is kept in memory and tried again, \
                 what was to be granted is refused"
            );
        })?;
        if batch.iter().any(|entry| entry.changes.tells()) {
            wake.notify_one();
        }
        Ok(())
    }
}

impl Decided {
    /// Waits until all that was decided up to then is durable. Whoever gives up waiting changes nothing:
    /// it was decided.
    ///
    /// # Errors
    /// `internal`: it is not, and is taken back before anybody decides anything else.
    pub(super) async fn settled(self) -> Result<(), Refusal> {
        self.0.settled().await.map_err(refused)
    }
}

fn refused(_: Failed) -> Refusal {
    Refusal::new(Reason::Internal)
}

impl Desk {
    /// Puts what has happened behind all that was decided, to become durable with the next batch.
    pub(super) fn flush(&self, inner: &mut Inner, changes: Changes) {
        inner.pending.append(changes);
        if inner.pending.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut inner.pending);
        let place = self.commits.put(Entry {
            changes,
            undo: None,
        });
        inner.spent.put_in(&place);
        inner.policy_place.get_or_insert(place);
    }

    /// Has what was delivered be forgotten on the disk, with the next batch and what else is in it.
    ///
    /// # Errors
    /// The disk.
    pub async fn forget_delivered(&self) -> anyhow::Result<()> {
        let place = self.commits.put(Entry {
            changes: Changes::default(),
            undo: None,
        });
        self.commits.write();
        let settled = place.settled().await;
        settled.map_err(|_| anyhow::anyhow!("what was delivered can't be forgotten on the disk"))
    }

    /// Puts what is granted behind all that was decided. It is to be answered once it is
    /// settled ([`Desk::decided`]).
    pub(super) fn grant(&self, inner: &mut Inner, changes: Changes, undo: Undo) {
        // What waits for the disk goes first: written later, it would undo this.
        self.flush(inner, Changes::default());
        let undo = Some(undo);
        self.commits.put(Entry { changes, undo });
    }

    /// Gives the desk back, and has all that was decided up to now be written.
    pub(super) fn decided(&self, inner: MutexGuard<'_, Inner>) -> Decided {
        let place = self.commits.last();
        drop(inner);
        self.commits.write();
        Decided(place)
    }

    /// Gives the desk back, and waits on this thread until all that was decided up to now is durable.
    ///
    /// # Errors
    /// `internal`: it is not, and was taken back.
    pub(super) fn settled(&self, inner: MutexGuard<'_, Inner>) -> Result<(), Refusal> {
        let Decided(place) = self.decided(inner);
        let settled = place.wait();
        if settled.is_err() {
            // Taking the lock makes up for what failed.
            drop(self.lock());
        }
        settled.map_err(refused)
    }

    /// After a failure of the disk: memory becomes what it would be without the grants that failed,
    /// and their records are written as they are then, for later ones may have built on them. What ended
    /// since has begun, too, and is told of.
    pub(super) fn make_up(&self, inner: &mut Inner, failed: Vec<Entry>) {
        inner.spent.make_up();
        inner.policy_place.take_if(|place| place.has_failed());
        let (mut stay, mut undone) = (Vec::new(), Changes::default());
        for Entry { changes, undo } in failed.into_iter().rev() {
            let is_undone = match undo {
                None => false,
                Some(Undo::Login(login)) => Desk::undo_login(inner, *login, &mut undone),
                Some(Undo::Lease(lease)) => self.undo_lease(inner, lease, &mut undone),
            };
            if !is_undone {
                stay.push(changes);
            }
        }
        for changes in stay.into_iter().rev() {
            inner.pending.append(changes);
        }
        inner.pending.append(undone);
    }

    /// Takes a login back; whether there was a session to take back, which nobody has ended since.
    fn undo_login(inner: &mut Inner, undone: UndoneLogin, changes: &mut Changes) -> bool {
        let UndoneLogin {
            run_id,
            nonce,
            session,
            hash,
            ticket,
            moved,
        } = undone;
        // Whoever ended the session meanwhile had reason to.
        let now = inner.sessions.get(&run_id);
        let is_there = now.is_some_and(|now| now.nonce == nonce);
        if is_there {
            inner.sessions.remove(&run_id);
            match session {
                Some(session) => {
                    inner.sessions.insert(run_id.clone(), session);
                    inner.ends.unknown(&run_id);
                }
                None => inner.ends.forget(&run_id),
            }
        }
        let ended = inner.tickets.get(&hash).is_some_and(|ticket| ticket.ended);
        match ticket {
            Some(ticket) => inner.tickets.insert(
                hash.clone(),
                Ticket {
                    ended: ticket.ended || ended,
                    ..ticket
                },
            ),
            None if !ended => inner.tickets.remove(&hash),
            None => None,
        };
        for (port, waiting) in moved {
            if inner.ports.waiting().contains_key(&port) {
                changes.put(HELD, record_key(port), &waiting);
                inner.ports.wait(port, waiting);
            }
        }
        match inner.sessions.get(&run_id) {
            Some(session) => changes.put(SESSIONS, run_id, session),
            None => changes.remove(SESSIONS, run_id),
        }
        match inner.tickets.get(&hash) {
            Some(ticket) => changes.put(TICKETS, hash, ticket),
            None => changes.remove(TICKETS, hash),
        }
        is_there
    }

    /// Takes a lease back; whether it was there still.
    fn undo_lease(&self, inner: &mut Inner, undone: UndoneLease, changes: &mut Changes) -> bool {
        let UndoneLease {
            port,
            number,
            waiting,
        } = undone;
        // Whatever became of the lease: the kernel knows its number, and events tell of it.
        Desk::put_numbers(changes, inner.numbers);
        let Some(lease) = inner.ports.leases().get(&port) else {
            return false; // It has ended since, and what that left is kept.
        };
        if lease.number != number {
            return false;
        }
        let (key, tenant) = (port_key(port), inner.tenants.get(&*lease.tenant));
        let tenant = tenant.map(|tenant| tenant.number);
        let removed = self.kernel.remove_lease(key);
        let forgotten =
            removed.and_then(|_| tenant.map_or(Ok(()), |of| self.kernel.forget_lease(of, key)));
        if let Err(error) = forgotten {
            // The next alignment closes what nobody knows of.
            inner.untidy = Some(error.whole());
        }
        inner.late.remove(&port);
        inner.unseen.remove(&port);
        inner.ports.take_back(port, waiting.clone());
        changes.remove(LEASES, record_key(port));
        match waiting {
            Some(waiting) => changes.put(HELD, record_key(port), &waiting),
            None => changes.remove(HELD, record_key(port)),
        }
        true
    }
}
