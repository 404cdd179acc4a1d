//! What holds for a tenant of a node at grade `callback`: the control plane's own word.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use totoro_api::decide::{Applied, Standing, Voucher, invite_of, standing};
use totoro_api::ticket::Revision;
use totoro_api::wire::push::DesiredNode;
use totoro_api::{Reason, Refusal};

use super::book::Session;
use super::lock;
use crate::app::{App, Failure};
use crate::push;
use crate::records::key;
use crate::store::{Expect, Stamp, Tx};

/// What holds, and under which node settings.
pub(super) struct Holding {
    pub(super) node: Arc<DesiredNode>,
    pub(super) standing: Standing,
}

/// A session that asks again and again, and what held for it when it last did.
pub(in crate::app) struct Asker {
    session: Arc<Session>,
    /// Its tenant, among those of all nodes.
    pub(super) of: String,
    holds: Mutex<Option<(Stamps, Arc<Holds>)>>,
}

/// Of a node and its invite: as long as they are the same, so is what holds.
#[derive(Clone, Copy)]
struct Stamps {
    node: Stamp,
    invite: Option<Stamp>,
}

/// What holds as long as node and invite stand as they did, until a time, Unix seconds.
pub(super) struct Holds {
    until: i64,
    holding: Holding,
    /// That they do, for a transaction.
    stand: Vec<(Vec<u8>, Expect)>,
}

impl Deref for Holds {
    type Target = Holding;

    fn deref(&self) -> &Holding {
        &self.holding
    }
}

impl Asker {
    pub(super) fn new(node: &str, session: Arc<Session>) -> Self {
        Asker {
            of: [node, "/", &session.tenant].concat(),
            session,
            holds: Mutex::default(),
        }
    }

    /// Whether this is the session that asked.
    pub(super) fn is_of(&self, session: &Arc<Session>) -> bool {
        Arc::ptr_eq(&self.session, session) || self.session == *session
    }
}

impl Deref for Asker {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl App {
    /// As [`App::holding_of`], for those who only look.
    ///
    /// # Errors
    /// As there.
    pub(super) fn holding_now(&self, node: &str, asker: &Asker) -> Result<Arc<Holds>, Failure> {
        let holds = match self.still_holds(asker) {
            Some(holds) => holds,
            None => self.look_what_holds(&mut Tx::new(&*self.store), node, asker)?,
        };
        self.check_session(node, asker, &holds.standing)?;
        Ok(holds)
    }

    /// As [`App::holding_of`], for the session of somebody who may have asked before.
    ///
    /// # Errors
    /// As there.
    pub(super) fn holding_held(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        asker: &Asker,
    ) -> Result<Arc<Holds>, Failure> {
        // Preconditions come first: a refusal stands on them, too.
        let holds = match self.still_holds(asker) {
            Some(holds) => {
                tx.expect_all(&holds.stand);
                holds
            }
            None => self.look_what_holds(tx, node, asker)?,
        };
        self.check_session(node, asker, &holds.standing)?;
        Ok(holds)
    }

    fn still_holds(&self, asker: &Asker) -> Option<Arc<Holds>> {
        let now = self.now();
        let is_still = |stamp: Stamp| self.store.is_still(stamp);
        lock(&asker.holds)
            .as_ref()
            .filter(|(stamps, holds)| now < holds.until && is_still(stamps.node))
            .filter(|(stamps, _)| stamps.invite.is_none_or(is_still))
            .map(|(_, holds)| Arc::clone(holds))
    }

    fn look_what_holds(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        asker: &Asker,
    ) -> Result<Arc<Holds>, Failure> {
        // Asked first: what is read behind them is no older.
        let stamp = |key: String| self.store.stamp(key.as_bytes());
        let invite = invite_of(&asker.voucher.grant).map(|id| stamp(key::invite(id)));
        let stamps = (stamp(key::node(node)), invite);
        let before = tx.expected().len();
        let holding = self.holding(tx, node, &asker.voucher)?;
        let holds = Arc::new(Holds {
            // The end of its invite is all that time alone brings.
            until: holding.standing.expires_at.unwrap_or(i64::MAX),
            holding,
            stand: tx.expected()[before..].to_vec(),
        });
        if let (Some(node), None | Some(Some(_))) = stamps {
            let invite = stamps.1.flatten();
            *lock(&asker.holds) = Some((Stamps { node, invite }, Arc::clone(&holds)));
        }
        Ok(holds)
    }

    /// What holds for whoever brings (or brought) a ticket. That it stays so becomes the
    /// transaction's precondition.
    ///
    /// # Errors
    /// The tenant has no standing; the store fails.
    pub(super) fn holding(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        voucher: &Voucher,
    ) -> Result<Holding, Failure> {
        let desired = self.desired_held(tx, node)?;
        let desired = desired.ok_or(Reason::NodeUnknown)?;
        let invite = match invite_of(&voucher.grant) {
            Some(id) => self.invite_held(tx, id)?,
            None => None,
        };
        let now = self.now();
        let invite = invite
            .filter(|invite| invite.node == node)
            .and_then(|invite| push::desired_invite(&invite, now));
        let applied = Applied {
            // There is nobody who could know better: no ticket is newer than what stands here.
            revision: Revision {
                generation: u64::MAX,
                rev: u64::MAX,
            },
            node: &desired,
            invite: invite.as_ref(),
            revoked_at: None,
        };
        let standing = standing(voucher, &applied, now)?;
        Ok(Holding {
            node: desired,
            standing,
        })
    }

    /// What holds for a session, which must not be over.
    ///
    /// # Errors
    /// It has no standing, or its time is over; the store fails.
    pub(super) fn holding_of(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        session: &Session,
    ) -> Result<Holding, Failure> {
        let holding = self.holding(tx, node, &session.voucher)?;
        self.check_session(node, session, &holding.standing)?;
        Ok(holding)
    }

    fn check_session(
        &self,
        node: &str,
        session: &Session,
        standing: &Standing,
    ) -> Result<(), Failure> {
        if end_of(session, standing).is_some_and(|end| end <= self.now()) {
            return Err(Reason::SessionExpired.into());
        }
        if self.is_banned(node, session.client.ip())? {
            return Err(Reason::ClientBanned.into());
        }
        Ok(())
    }
}

/// When a session must end, Unix seconds. Of one that never pinged nobody can tell whether it lives,
/// so its ticket's word binds it whatever its invite allows.
pub(super) fn end_of(session: &Session, standing: &Standing) -> Option<i64> {
    let silent = (!session.pinged).then_some(session.voucher.session_until);
    let end = standing.session_end(session.begun_ms / 1000);
    [end, silent].into_iter().flatten().min()
}

/// The refusal of a session that is not known, or not any more.
pub(super) fn over() -> Refusal {
    Refusal::with(Reason::SessionExpired, "this session is over")
}
