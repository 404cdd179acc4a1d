//! One change of a node's sessions and leases: read, decided, written in one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use totoro_api::decide::{LOGIN_META, Lease, LeaseTold, Patience, PortId, Ports, SeenTicket};
use totoro_api::wire::event::Subject;
use totoro_api::wire::plugin::User;

use super::Frps;
use super::book::{self, Head, Seat, Session};
use super::policy::Asker;
use super::table::Table;
use crate::app::{App, Failure};
use crate::audit::{self, Author};
use crate::store::{Record, StoreError, Tx};

/// What a change leaves behind.
pub(super) struct Left {
    table: Table,
    /// It is still to be committed.
    touched: bool,
    /// The sessions that were written.
    wrote: Vec<String>,
}

/// A transaction on one node's sessions and leases. Its first read is of a key that each of them
/// writes, so that all it sees still stands when it is committed.
pub(super) struct Desk<'a, 'tx> {
    pub(super) tx: &'a mut Tx<'tx>,
    pub(super) node: &'a str,
    pub(super) sessions: BTreeMap<String, Seat>,
    pub(super) ports: Ports,
    pub(super) now_ms: i64,
    /// Which commit wrote the node's head last.
    pub(super) revision: Option<u64>,
    author: &'a Author,
    patience: Patience,
    head: Head,
    /// Whether anything was changed.
    touched: bool,
    /// The sessions that were written.
    wrote: Vec<String>,
}

impl<'a, 'tx> Desk<'a, 'tx> {
    /// Everything that the node has.
    pub(super) fn open(
        app: &'a App,
        tx: &'a mut Tx<'tx>,
        node: &'a str,
        author: &'a Author,
    ) -> Result<Self, StoreError> {
        let Table {
            revision,
            head,
            sessions,
            ports,
        } = app.callback.tables.take(&*app.store, node)?;
        tx.expect(book::head(node), revision);
        Ok(Desk {
            sessions,
            ports,
            now_ms: app.now_ms(),
            patience: Patience {
                reserve_ms: millis(app.config.port_reserve.0),
                cool_ms: millis(app.config.port_cool.0),
            },
            revision,
            head,
            tx,
            node,
            author,
            touched: false,
            wrote: Vec::new(),
        })
    }

    /// Writes what all changes write, where anything was changed. What the node has then.
    pub(super) fn leave(self) -> Result<Left, StoreError> {
        if self.touched {
            self.tx.put(book::head(self.node), &self.head)?;
        }
        let table = Table {
            revision: self.revision,
            head: self.head,
            sessions: self.sessions,
            ports: self.ports,
        };
        Ok(Left {
            table,
            touched: self.touched,
            wrote: self.wrote,
        })
    }

    /// Unix seconds.
    pub(super) const fn now(&self) -> i64 {
        self.now_ms / 1000
    }

    /// Notes that something changes. Whatever writes sessions or leases calls it.
    pub(super) const fn touch(&mut self) {
        self.touched = true;
    }

    /// The number of a new lease.
    pub(super) const fn next_lease(&mut self) -> u64 {
        self.head.lease += 1;
        self.head.lease
    }

    /// Leaves an event.
    pub(super) fn tell(&mut self, subject: Subject) -> Result<(), StoreError> {
        let event = self.author.about(subject).node(self.node);
        audit::record(self.tx, event, self.now_ms)
    }

    /// Leaves an event about a lease.
    pub(super) fn tell_lease<Detail: Serialize>(
        &mut self,
        told: &LeaseTold<'_, Detail>,
    ) -> Result<(), StoreError> {
        audit::record_lease(self.tx, self.author, self.node, told, self.now_ms)
    }

    /// A ticket that was seen.
    pub(super) fn ticket(&self, hash: &str) -> Result<Option<SeenTicket>, StoreError> {
        let found = self.tx.peek(&book::ticket(self.node, hash))?;
        Ok(found.map(|found| found.value))
    }

    /// Writes a session. It stays idle if it is.
    pub(super) fn put_session(&mut self, run_id: &str, session: Session) -> Result<(), StoreError> {
        self.tx.put(book::session(self.node, run_id), &session)?;
        let before = self.sessions.get(run_id);
        let idle_ms = before.and_then(|before| before.idle_ms);
        // An earlier version wrote it there.
        let moves = before.is_some_and(|before| before.session.idle_ms.is_some());
        if let Some(idle_ms) = idle_ms.filter(|_| moves) {
            self.tx.put(book::idle(self.node, run_id), &idle_ms)?;
        }
        let session = Arc::new(Session {
            idle_ms: None,
            ..session
        });
        let seat = Seat { session, idle_ms };
        self.sessions.insert(run_id.to_owned(), seat);
        self.wrote.push(run_id.to_owned());
        self.touch();
        Ok(())
    }

    /// All proxies of a session are closed.
    pub(super) fn rest(&mut self, run_id: &str) -> Result<(), StoreError> {
        if let Some(seat) = self.sessions.get_mut(run_id) {
            seat.idle_ms = Some(self.now_ms);
            self.tx.put(book::idle(self.node, run_id), &self.now_ms)?;
            self.touch();
        }
        Ok(())
    }

    /// A session is idle no more, if it was.
    pub(super) fn wake(&mut self, run_id: &str) -> Result<(), StoreError> {
        let Some(seat) = self.sessions.get_mut(run_id) else {
            return Ok(());
        };
        if seat.idle_ms.take().is_none() {
            return Ok(());
        }
        // An earlier version wrote it there.
        let there = seat.session.idle_ms.is_some();
        let there = there.then(|| Session::clone(&seat.session));
        self.tx.delete(book::idle(self.node, run_id));
        self.touch();
        match there {
            Some(session) => self.put_session(run_id, session),
            None => Ok(()),
        }
    }

    /// The session that a request belongs to: by run_id, and by the nonce that its Login was given.
    pub(super) fn session_of(&self, user: &User) -> Option<&Seat> {
        let session = self.sessions.get(&user.run_id);
        session.filter(|session| is_its(session, user))
    }

    /// The tenants of the sessions that are on, but for this one.
    pub(super) fn connected_but(&self, run_id: &str) -> Vec<&str> {
        self.sessions
            .iter()
            .filter(|(other, session)| session.connected() && *other != run_id)
            .map(|(_, session)| session.tenant.as_str())
            .collect()
    }

    /// Leases a port.
    pub(super) fn open_lease(&mut self, port: PortId, lease: Lease) -> Result<(), StoreError> {
        // Another precondition beside the head: whatever happens, no port is leased twice.
        let at = book::lease(self.node, port);
        self.tx.expect(at.as_str(), None);
        // What waited there stays until the lease ends, which writes it anew: it says nothing as long
        // as there is a lease.
        self.tx.put(at, &lease)?;
        self.ports.open(port, lease);
        self.touch();
        Ok(())
    }

    /// The ports that wait for a session are its tenant's.
    pub(super) fn move_ports(&mut self, run_id: &str, tenant: &str) -> Result<(), StoreError> {
        for (port, waiting) in self.ports.moved(run_id, tenant) {
            self.tx.put(book::waiting(self.node, port), &waiting)?;
            self.ports.wait(port, waiting);
            self.touch();
        }
        Ok(())
    }

    /// Takes a lease away: its port waits for its proxy, then cools down.
    pub(super) fn close_lease(&mut self, port: PortId) -> Result<Option<Lease>, StoreError> {
        let closed = self.ports.close(port, self.now_ms, self.patience);
        let Some((lease, waiting)) = closed else {
            return Ok(None);
        };
        self.tx.delete(book::lease(self.node, port));
        self.tx.put(book::waiting(self.node, port), &waiting)?;
        self.touch();
        Ok(Some(lease))
    }
}

/// Whether a request is of a session's newest Login.
pub(super) fn is_its(session: &Session, user: &User) -> bool {
    let nonce = user.metas.as_ref().and_then(|metas| metas.get(LOGIN_META));
    nonce == Some(&session.nonce)
}

impl App {
    /// Changes a node's sessions and leases: `work` decides, and is run again when something that it
    /// read has changed before the commit. What it refuses it must refuse before it writes.
    ///
    /// # Errors
    /// What `work` refuses, and what the store fails with.
    pub(super) async fn at_desk<T>(
        &self,
        node: &str,
        author: &Author,
        mut work: impl FnMut(&mut Desk<'_, '_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // One after the other: at once they would only undo each other's work.
        let _turn = self.desk_turn(node).await;
        let mut left = None;
        let done = self
            .transact(|tx| {
                let mut desk = Desk::open(self, tx, node, author)?;
                let done = work(&mut desk);
                left = Some(desk.leave()?);
                done
            })
            .await;
        // What was changed in it and not committed is no state of the node.
        let table = match (left, &done) {
            (Some(left), Ok((_, revision))) if left.touched => {
                self.keep_sessions_of(node, &left, *revision);
                Some(Table {
                    revision: Some(*revision),
                    ..left.table
                })
            }
            (Some(left), Ok(_) | Err(Failure::Refused(_))) if !left.touched => Some(left.table),
            _ => None,
        };
        if let Some(table) = table {
            // All tests of this grade try it.
            #[cfg(debug_assertions)]
            table.assert_stands(&*self.store, node);
            self.callback.tables.give_back(node, table);
        }
        done.map(|(done, _)| done)
    }

    /// Keeps the sessions that a commit wrote: who asks next need not decode them.
    fn keep_sessions_of(&self, node: &str, left: &Left, revision: u64) {
        for run_id in &left.wrote {
            if let Some(seat) = left.table.sessions.get(run_id) {
                let value = Arc::new(Asker::new(node, Arc::clone(&seat.session)));
                let record = Record { revision, value };
                let at = book::session(node, run_id);
                self.decoded.sessions.wrote(at, record);
            }
        }
    }

    /// The turn in a node's queue, for changes of it that are part of others.
    pub(in crate::app) async fn desk_turn(&self, node: &str) -> tokio::sync::MutexGuard<'_, ()> {
        self.callback.desks.of(node.as_bytes()).await
    }

    /// The session that a request belongs to, read alone.
    pub(super) fn session_asking(
        &self,
        frps: &Frps<'_>,
        user: &User,
    ) -> Result<Option<Arc<Asker>>, StoreError> {
        if !book::is_run_id(&user.run_id) {
            return Ok(None);
        }
        let at = book::session(&frps.node.id, &user.run_id);
        let asker = |session| Asker::new(&frps.node.id, Arc::new(session));
        let sessions = &self.decoded.sessions;
        let found = sessions.read_as(&*self.store, &at, asker)?;
        Ok(found
            .map(|found| found.value)
            .filter(|session| is_its(session, user)))
    }
}

fn millis(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 4)
}
