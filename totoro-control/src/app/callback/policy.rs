//! What holds for a tenant of a node at grade `callback`: the control plane's own word.

use std::sync::Arc;

use totoro_api::decide::{Applied, Standing, Voucher, invite_of, standing};
use totoro_api::ticket::Revision;
use totoro_api::wire::push::DesiredNode;
use totoro_api::{Reason, Refusal};

use super::book::Session;
use crate::app::{App, Failure};
use crate::push;
use crate::store::Tx;

/// What holds, and under which node settings.
pub(super) struct Holding {
    pub(super) node: Arc<DesiredNode>,
    pub(super) standing: Standing,
}

impl App {
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
            Some(id) => self.invite_held(tx, &id)?,
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
        if end_of(session, &holding.standing).is_some_and(|end| end <= self.now()) {
            return Err(Reason::SessionExpired.into());
        }
        if self.is_banned(node, session.client.ip())? {
            return Err(Reason::ClientBanned.into());
        }
        Ok(holding)
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
