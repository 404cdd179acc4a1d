//! Sessions with the indexes that they are looked up by: what is due, or is told of, is found without
//! looking at the rest.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use totoro_api::ticket::Revision;

use super::index::Owned;
use super::model::Session;

/// A session by something that it has.
type By<K> = BTreeSet<(K, Arc<str>)>;

/// Sessions by run_id; a tenant owns them. Read as what is owned.
#[derive(Debug)]
pub(super) struct Sessions {
    all: Owned<Session>,
    /// Those that have a connection, by its cookie.
    by_cookie: By<u64>,
    /// By the revision that their ticket speaks of.
    by_revision: By<Revision>,
    /// Those whose connection is gone, by when it went.
    by_loss: By<i64>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Sessions {
            all: Owned::new(|session| Arc::clone(&session.tenant)),
            by_cookie: By::new(),
            by_revision: By::new(),
            by_loss: By::new(),
        }
    }

    pub(super) fn insert(
        &mut self,
        run_id: impl Into<Arc<str>>,
        session: Session,
    ) -> Option<Session> {
        let run_id = run_id.into();
        let places = |of: &Session| (of.voucher.revision, of.lost_ms, of.cookie);
        let there = self.all.get(&run_id);
        if there.is_some_and(|there| places(there) == places(&session)) {
            return self.all.insert(run_id, session);
        }
        let before = self.remove(&run_id);
        let key = Arc::clone(&run_id);
        let revision = session.voucher.revision;
        self.by_revision.insert((revision, Arc::clone(&key)));
        match session.lost_ms {
            None => self.by_cookie.insert((session.cookie, key)),
            Some(lost_ms) => self.by_loss.insert((lost_ms, key)),
        };
        self.all.insert(run_id, session);
        before
    }

    pub(super) fn remove(&mut self, run_id: &str) -> Option<Session> {
        let key = self.all.key(run_id)?;
        let session = self.all.remove(run_id)?;
        let revision = session.voucher.revision;
        self.by_revision.remove(&(revision, Arc::clone(&key)));
        match session.lost_ms {
            None => self.by_cookie.remove(&(session.cookie, key)),
            Some(lost_ms) => self.by_loss.remove(&(lost_ms, key)),
        };
        Some(session)
    }

    /// A session, to change what it has counted.
    pub(super) fn get_mut(&mut self, run_id: &str) -> Option<&mut Session> {
        self.all.get_mut(run_id)
    }

    /// A session's connection is gone.
    pub(super) fn lose(&mut self, run_id: &str, now_ms: i64) -> Option<&Session> {
        let key = self.all.key(run_id)?;
        let session = self.all.get_mut(run_id)?;
        match session.lost_ms.replace(now_ms) {
            None => self.by_cookie.remove(&(session.cookie, Arc::clone(&key))),
            Some(before_ms) => self.by_loss.remove(&(before_ms, Arc::clone(&key))),
        };
        self.by_loss.insert((now_ms, key));
        Some(session)
    }

    /// None began, or lost its connection, in what is to come. Where nothing is known of when they `all` did, who has
    /// no connection lost it now. Those that it changed.
    pub(super) fn no_later(&mut self, now_ms: i64, all: bool) -> Vec<Arc<str>> {
        let is_wrong = |lost_ms: i64| all || lost_ms > now_ms;
        let mut changed = Vec::new();
        for (run_id, session) in self.all.iter_mut() {
            let lost_ms = session.lost_ms.filter(|lost_ms| is_wrong(*lost_ms));
            if lost_ms.is_none() && session.begun_ms <= now_ms {
                continue;
            }
            if let Some(lost_ms) = lost_ms {
                self.by_loss.remove(&(lost_ms, Arc::clone(run_id)));
                self.by_loss.insert((now_ms, Arc::clone(run_id)));
                session.lost_ms = Some(now_ms);
            }
            session.begun_ms = session.begun_ms.min(now_ms);
            changed.push(Arc::clone(run_id));
        }
        changed
    }

    /// Those whose connection is gone since then or longer, Unix ms.
    pub(super) fn lost_by(&self, when_ms: i64) -> impl Iterator<Item = &str> {
        let lost = self.by_loss.iter();
        lost.take_while(move |(lost_ms, _)| *lost_ms <= when_ms)
            .map(|(_, run_id)| &**run_id)
    }

    /// Those whose connection is gone.
    pub(super) fn lost(&self) -> impl Iterator<Item = &Session> {
        let lost = self.by_loss.iter();
        lost.filter_map(|(_, run_id)| self.get(run_id))
    }

    /// Those that have a connection: its cookie, and their run_id.
    pub(super) fn connected(&self) -> impl ExactSizeIterator<Item = (u64, &str)> {
        let connected = self.by_cookie.iter();
        connected.map(|(cookie, run_id)| (*cookie, &**run_id))
    }

    /// Those that are on a connection now.
    pub(super) fn on(&self, cookie: u64) -> impl Iterator<Item = &str> {
        let of = self.by_cookie.range((cookie, Arc::default())..);
        of.take_while(move |(of, _)| *of == cookie)
            .map(|(_, run_id)| &**run_id)
    }

    /// Those whose ticket is newer than that.
    pub(super) fn newer(&self, than: Revision) -> impl Iterator<Item = &Session> {
        let newer = self.by_revision.iter().rev();
        newer
            .take_while(move |(revision, _)| *revision > than)
            .filter_map(|(_, run_id)| self.get(run_id))
    }
}

impl Deref for Sessions {
    type Target = Owned<Session>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use totoro_api::decide::Voucher;
    use totoro_api::limits::Limits;
    use totoro_api::ticket::Grant;

    use super::*;

    fn session(cookie: u64, rev: u64, lost_ms: Option<i64>) -> Session {
        let revision = Revision { generation: 1, rev };
        Session {
            id: String::new(),
            tenant: format!("t{}", cookie % 3).into(),
            voucher: Arc::new(Voucher {
                grant: Grant::Public(true),
                epoch: 1,
                limits: Limits::default(),
                revision,
                session_until: 0,
            }),
            nonce: String::new(),
            user: String::new(),
            client: ([192, 0, 2, 1], 1).into(),
            local: ([192, 0, 2, 2], 1).into(),
            cookie,
            opened_ms: 0,
            begun_ms: 0,
            lost_ms,
            frpc_version: String::new(),
            bytes_in: 0,
            bytes_out: 0,
            conns: 0,
        }
    }

    /// A cookie, a revision, and when the connection was lost.
    type Put = (u64, u64, Option<i64>);

    /// What happens to which session: put, else lost, else removed.
    fn steps() -> impl Strategy<Value = Vec<(u8, Option<Put>, Option<i64>)>> {
        let put = prop::option::of((0..6u64, 0..6u64, prop::option::of(0..9i64)));
        prop::collection::vec((0..10u8, put, prop::option::of(0..9i64)), 0..100)
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_look_at_all_would_find(steps in steps(), at in 0..9i64) {
            let mut sessions = Sessions::new();
            let mut plain = BTreeMap::<String, Session>::new();
            for (which, put, lost) in steps {
                let run_id = format!("run-{which}");
                match (put, lost) {
                    (Some((cookie, rev, lost_ms)), _) => {
                        let put = session(cookie, rev, lost_ms);
                        let before = sessions.insert(run_id.clone(), put.clone());
                        prop_assert_eq!(before, plain.insert(run_id, put));
                    }
                    (None, Some(now_ms)) => {
                        sessions.lose(&run_id, now_ms);
                        if let Some(session) = plain.get_mut(&run_id) {
                            session.lost_ms = Some(now_ms);
                        }
                    }
                    (None, None) => {
                        prop_assert_eq!(sessions.remove(&run_id), plain.remove(&run_id));
                    }
                }
            }
            let all = |is: &dyn Fn(&Session) -> bool| -> BTreeSet<&str> {
                let those = plain.iter().filter(|(_, session)| is(session));
                those.map(|(run_id, _)| run_id.as_str()).collect()
            };
            for cookie in 0..6 {
                let is = |session: &Session| session.connected() && session.cookie == cookie;
                prop_assert_eq!(sessions.on(cookie).collect::<BTreeSet<_>>(), all(&is));
            }
            let connected = sessions.connected().map(|(_, run_id)| run_id);
            prop_assert_eq!(connected.collect::<BTreeSet<_>>(), all(&Session::connected));
            let is = |session: &Session| session.lost_ms.is_some_and(|lost_ms| lost_ms <= at);
            prop_assert_eq!(sessions.lost_by(at).collect::<BTreeSet<_>>(), all(&is));
            prop_assert_eq!(sessions.lost().count(), plain.len() - sessions.connected().len());
            let than = Revision { generation: 1, rev: at.unsigned_abs() };
            let is = |session: &Session| session.voucher.revision > than;
            prop_assert_eq!(sessions.newer(than).count(), all(&is).len());
            prop_assert!(sessions.newer(than).all(is));
        }
    }
}
