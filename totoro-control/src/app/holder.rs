//! Who holds a code: its invite, its node, and whether they admit.

use std::net::IpAddr;
use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use totoro_api::Reason;
use totoro_api::code::{BadCode, InviteCode};
use totoro_api::ticket::Revision;
use totoro_api::wire::push::InviteState;

use super::{App, Failure};
use crate::audit::Author;
use crate::records::{InviteRecord, NodeRecord, key};
use crate::store::StoreError;

/// What stands in for a code before a public node's name.
pub(super) const PUBLIC: &str = "public:";

/// Where a request of a code holder, or of anyone, comes from.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The client's address.
    pub address: IpAddr,
    /// The request's id.
    pub request_id: &'a str,
}

impl Visitor<'_> {
    /// Who its events are by.
    pub(super) fn author(&self, invite: Option<&str>) -> Author {
        let kind = if invite.is_some() { "invite" } else { "anyone" };
        Author::remote(kind, invite.unwrap_or(""), self.address, self.request_id)
    }
}

/// An invite that admits, and its node.
pub(super) struct Holder {
    /// The node's policy when the two were read, or a little older.
    pub(super) revision: Revision,
    pub(super) invite: Arc<InviteRecord>,
    pub(super) node: Arc<NodeRecord>,
}

/// A refusal and what it is about, for its event.
pub(super) struct Refused {
    pub(super) failure: Failure,
    pub(super) node: Option<String>,
    pub(super) invite: Option<String>,
}

impl<F: Into<Failure>> From<F> for Refused {
    fn from(failure: F) -> Self {
        Refused {
            failure: failure.into(),
            node: None,
            invite: None,
        }
    }
}

impl App {
    /// Whether an invite has, or had, this code; `public:NODE` is nobody's secret.
    ///
    /// # Errors
    /// When the store fails.
    pub fn knows_code(&self, text: &str) -> Result<bool, StoreError> {
        if text.starts_with(PUBLIC) {
            return Ok(true);
        }
        let Ok(code) = text.parse::<InviteCode>() else {
            return Ok(false);
        };
        let at = key::code(&self.code_hash(&code));
        Ok(self.store.revision(at.as_bytes())?.is_some())
    }

    /// The invite of this code, whatever its state, and its node.
    pub(super) fn invite_by_code(&self, text: &str) -> Result<Holder, Refused> {
        let code: InviteCode = text
            .parse()
            .map_err(|bad: BadCode| Failure::refused(Reason::InviteUnknown, bad.to_string()))?;
        let hash = self.code_hash(&code);
        let ids = &self.decoded.ids;
        let id = ids
            .read(&*self.store, &key::code(&hash))
            .map_err(Failure::from)?;
        let id = id.ok_or(Reason::InviteUnknown)?.value;
        let at = key::invite(&id);
        let read_invite = || self.invite_now(&id);
        // The revision comes before what it vouches for: a ticket may claim an older revision than
        // the limits it carries, never a newer one. Which node's it is never changes.
        let before = read_invite().map_err(Failure::from)?;
        let before = before.ok_or(Reason::InviteUnknown)?;
        let revision = self.policy_revision(&before.value.node);
        let revision = revision.map_err(Failure::from)?;
        let stands = self.store.revision(at.as_bytes()).map_err(Failure::from)?;
        let invite = match stands == Some(before.revision) {
            true => Some(before),
            false => read_invite().map_err(Failure::from)?,
        };
        let invite = invite
            .map(|record| record.value)
            .filter(|invite| bool::from(invite.code.as_bytes().ct_eq(hash.as_bytes())))
            .ok_or(Reason::InviteUnknown)?;
        let node = self.node_there(&invite.node)?;
        Ok(Holder {
            revision,
            invite,
            node,
        })
    }

    /// The invite of this code, if it admits this visitor.
    pub(super) fn holder(&self, text: &str, visitor: Visitor<'_>) -> Result<Holder, Refused> {
        let holder = self.invite_by_code(text)?;
        let admitted = match holder.invite.state_at(self.now()) {
            InviteState::Revoked => Err(Reason::InviteRevoked.into()),
            InviteState::Expired => Err(Reason::InviteExpired.into()),
            InviteState::Paused => Err(Reason::InvitePaused.into()),
            InviteState::Unknown => Err(Reason::Unsupported.into()),
            InviteState::Active => self.check_node(&holder.node, visitor),
        };
        match admitted {
            Ok(()) => Ok(holder),
            Err(failure) => Err(Refused {
                failure,
                node: Some(holder.node.id.clone()),
                invite: Some(holder.invite.id.clone()),
            }),
        }
    }

    /// Whether a node takes this visitor at all. A draining one does: whoever lives there may come
    /// back, and the node itself refuses what is new.
    pub(super) fn check_node(
        &self,
        node: &NodeRecord,
        visitor: Visitor<'_>,
    ) -> Result<(), Failure> {
        if node.disabled {
            return Err(Reason::NodeDisabled.into());
        }
        if self.is_banned(&node.id, visitor.address)? {
            return Err(Reason::ClientBanned.into());
        }
        Ok(())
    }
}
