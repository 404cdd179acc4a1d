//! Which word counts: the ticket's or the applied policy's, and what it says.

use serde::{Deserialize, Serialize};

use crate::limits::{Effective, Limits};
use crate::ticket::{Claims, Grant, Revision};
use crate::wire::push::{DesiredInvite, DesiredNode, InviteState};
use crate::{Reason, Refusal};

/// What a ticket vouches for, kept with the session that it opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Voucher {
    /// Whom it admits.
    pub grant: Grant,
    /// The invite's epoch at issue.
    pub epoch: u32,
    /// The limits at issue.
    pub limits: Limits,
    /// The node's (gen, rev) at issue.
    pub revision: Revision,
    /// How long a session may live that only the ticket vouches for, Unix seconds.
    pub session_until: i64,
}

impl From<&Claims> for Voucher {
    fn from(claims: &Claims) -> Self {
        Voucher {
            grant: claims.grant.clone(),
            epoch: claims.epoch,
            limits: claims.limits.clone(),
            revision: claims.revision,
            session_until: claims.session_until,
        }
    }
}

/// What is applied, as far as one tenant is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// Where the applied policy stands.
    pub revision: Revision,
    /// The node's own part of it.
    pub node: &'a DesiredNode,
    /// The invite's part of it.
    pub invite: Option<&'a DesiredInvite>,
    /// The invite's epoch when this node saw it revoked, as long as that is remembered: a store
    /// restored from before the revocation must not bring it back.
    pub revoked_at: Option<u32>,
}

/// What holds for a tenant now.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its limits.
    pub limits: Effective,
    /// Its epoch.
    pub epoch: u32,
    /// Why nothing new is taken; what lives goes on.
    pub held: Option<Reason>,
    /// When all of the tenant is cut, Unix seconds.
    pub expires_at: Option<i64>,
    /// The longest life of one session, seconds, where somebody said one.
    pub session_max: Option<u64>,
    /// Until when a session may live by its ticket's word, where that binds, Unix seconds.
    pub session_until: Option<i64>,
}

impl Standing {
    /// When a session that began at `begun` (Unix seconds) must end, if ever.
    #[must_use]
    pub fn session_end(&self, begun: i64) -> Option<i64> {
        let longest = self
            .session_max
            .map(|s| begun.saturating_add(i64::try_from(s).unwrap_or(i64::MAX)));
        [longest, self.session_until, self.expires_at]
            .into_iter()
            .flatten()
            .min()
    }
}

/// What holds for whoever brings (or brought) this ticket, at `now` (Unix seconds).
///
/// # Errors
/// The tenant has no standing at all: nothing is admitted and what lives is cut.
pub fn standing(voucher: &Voucher, applied: &Applied<'_>, now: i64) -> Result<Standing, Refusal> {
    let node = applied.node;
    if node.disabled {
        return Err(Reason::NodeDisabled.into());
    }
    let standing = match &voucher.grant {
        Grant::Public(true) => public(voucher, node)?,
        Grant::Public(false) => return Err(Reason::TicketMalformed.into()),
        Grant::Invite(_) => invited(voucher, applied, now)?,
    };
    Ok(if node.draining {
        Standing {
            held: Some(Reason::NodeDraining),
            ..standing
        }
    } else {
        standing
    })
}

fn public(voucher: &Voucher, node: &DesiredNode) -> Result<Standing, Refusal> {
    if !node.public {
        let detail = "this node takes no anonymous visitors";
        return Err(Refusal::with(Reason::NodeDisabled, detail));
    }
    known(&node.public_limits)?;
    known(&node.defaults)?;
    Ok(Standing {
        limits: node.public_limits.over(&node.defaults),
        epoch: 0,
        held: None,
        expires_at: None,
        session_max: node.public_limits.session_max,
        session_until: Some(voucher.session_until),
    })
}

fn invited(voucher: &Voucher, applied: &Applied<'_>, now: i64) -> Result<Standing, Refusal> {
    if applied.revoked_at.is_some_and(|at| voucher.epoch <= at) {
        return Err(Reason::InviteRevoked.into());
    }
    known(&applied.node.defaults)?;
    if applied.revision < voucher.revision {
        // The ticket is newer than what this node has heard.
        known(&voucher.limits)?;
        return Ok(Standing {
            limits: voucher.limits.over(&applied.node.defaults),
            epoch: voucher.epoch,
            held: None,
            expires_at: None,
            session_max: voucher
                .limits
                .session_max
                .or(applied.node.defaults.session_max),
            session_until: Some(voucher.session_until),
        });
    }
    let Some(invite) = applied.invite else {
        return Err(Reason::InviteUnknown.into());
    };
    let held = match invite.state {
        InviteState::Revoked => return Err(Reason::InviteRevoked.into()),
        InviteState::Expired => return Err(Reason::InviteExpired.into()),
        InviteState::Unknown => {
            let detail = "this node does not know the state of the invite";
            return Err(Refusal::with(Reason::Unsupported, detail));
        }
        InviteState::Paused => Some(Reason::InvitePaused),
        InviteState::Active => None,
    };
    if invite.expires_at.is_some_and(|at| at <= now) {
        return Err(Reason::InviteExpired.into());
    }
    if voucher.epoch < invite.epoch {
        let detail = "the invite has a new code or a new life since this ticket was issued";
        return Err(Refusal::with(Reason::TicketExpired, detail));
    }
    known(&invite.limits)?;
    Ok(Standing {
        limits: invite.limits.over(&applied.node.defaults),
        epoch: invite.epoch,
        held,
        expires_at: invite.expires_at,
        session_max: invite
            .limits
            .session_max
            .or(applied.node.defaults.session_max),
        session_until: None,
    })
}

/// A limit that this version does not know must not be admitted as if it were none.
fn known(limits: &Limits) -> Result<(), Refusal> {
    limits.unknown.keys().next().map_or(Ok(()), |name| {
        let name: String = name.chars().take(40).collect();
        let detail = format!("this node cannot enforce the limit {name:?}");
        Err(Refusal::with(Reason::Unsupported, detail))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn at(rev: u64) -> Revision {
        Revision { generation: 1, rev }
    }

    fn voucher(rev: u64) -> Voucher {
        Voucher {
            grant: Grant::Invite("inv_a".to_owned()),
            epoch: 3,
            limits: Limits {
                max_conns: Some(9),
                ..Limits::default()
            },
            revision: at(rev),
            session_until: NOW + 50,
        }
    }

    fn invite(state: InviteState) -> DesiredInvite {
        DesiredInvite {
            id: "inv_a".to_owned(),
            state,
            epoch: 3,
            limits: Limits {
                max_conns: Some(5),
                ..Limits::default()
            },
            expires_at: Some(NOW + 100),
        }
    }

    fn ask(
        voucher: &Voucher,
        rev: u64,
        invite: Option<&DesiredInvite>,
        revoked_at: Option<u32>,
        node: &DesiredNode,
    ) -> Result<Standing, Reason> {
        let applied = Applied {
            revision: at(rev),
            node,
            invite,
            revoked_at,
        };
        standing(voucher, &applied, NOW).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn applied_policy_decides_once_it_is_as_new_as_the_ticket() {
        let node = DesiredNode::default();
        let active = invite(InviteState::Active);
        let holds = ask(&voucher(7), 7, Some(&active), None, &node).unwrap();
        assert_eq!((holds.limits.max_conns, holds.session_until), (5, None));
        assert_eq!(holds.session_end(NOW), Some(NOW + 100));
        assert_eq!(
            ask(&voucher(7), 7, None, None, &node),
            Err(Reason::InviteUnknown)
        );

        // The ticket is newer: it decides, and its own end binds.
        for known in [None, Some(&active)] {
            let holds = ask(&voucher(8), 7, known, None, &node).unwrap();
            assert_eq!(
                (holds.limits.max_conns, holds.session_until),
                (9, Some(NOW + 50))
            );
        }
    }

    #[test]
    fn each_state_has_its_word() {
        let node = DesiredNode::default();
        for (state, word) in [
            (InviteState::Revoked, Reason::InviteRevoked),
            (InviteState::Expired, Reason::InviteExpired),
            (InviteState::Unknown, Reason::Unsupported),
        ] {
            assert_eq!(
                ask(&voucher(1), 2, Some(&invite(state)), None, &node),
                Err(word)
            );
        }
        let paused = ask(
            &voucher(1),
            2,
            Some(&invite(InviteState::Paused)),
            None,
            &node,
        )
        .unwrap();
        assert_eq!(paused.held, Some(Reason::InvitePaused));

        let over = DesiredInvite {
            expires_at: Some(NOW),
            ..invite(InviteState::Active)
        };
        assert_eq!(
            ask(&voucher(1), 2, Some(&over), None, &node),
            Err(Reason::InviteExpired)
        );
        let rotated = DesiredInvite {
            epoch: 4,
            ..invite(InviteState::Active)
        };
        assert_eq!(
            ask(&voucher(1), 2, Some(&rotated), None, &node),
            Err(Reason::TicketExpired)
        );
        let strange = DesiredInvite {
            limits: serde_json::from_str(r#"{"max_moons": 1}"#).unwrap(),
            ..invite(InviteState::Active)
        };
        assert_eq!(
            ask(&voucher(1), 2, Some(&strange), None, &node),
            Err(Reason::Unsupported)
        );
    }

    #[test]
    fn an_unknown_limit_among_the_defaults_is_not_admitted_as_none() {
        let strange: Limits = serde_json::from_str(r#"{"max_moons": 1}"#).unwrap();
        let node = DesiredNode {
            public: true,
            defaults: strange,
            ..DesiredNode::default()
        };
        let active = invite(InviteState::Active);
        let anonymous = Voucher {
            grant: Grant::Public(true),
            ..voucher(1)
        };
        let refused = Err(Reason::Unsupported);
        assert_eq!(ask(&voucher(1), 2, Some(&active), None, &node), refused);
        assert_eq!(ask(&voucher(3), 2, Some(&active), None, &node), refused);
        assert_eq!(ask(&anonymous, 2, None, None, &node), refused);
    }

    #[test]
    fn a_restored_store_does_not_bring_a_revoked_invite_back() {
        let node = DesiredNode::default();
        let active = invite(InviteState::Active);
        let newer = Voucher {
            revision: Revision {
                generation: 2,
                rev: 1,
            },
            ..voucher(0)
        };
        assert_eq!(
            ask(&newer, 9, Some(&active), Some(3), &node),
            Err(Reason::InviteRevoked)
        );
        assert!(ask(&newer, 9, Some(&active), Some(2), &node).is_ok());
    }

    #[test]
    fn the_node_itself_may_refuse() {
        let active = invite(InviteState::Active);
        let draining = DesiredNode {
            draining: true,
            ..DesiredNode::default()
        };
        let holds = ask(&voucher(1), 2, Some(&active), None, &draining).unwrap();
        assert_eq!(holds.held, Some(Reason::NodeDraining));
        let disabled = DesiredNode {
            disabled: true,
            ..DesiredNode::default()
        };
        assert_eq!(
            ask(&voucher(1), 2, Some(&active), None, &disabled),
            Err(Reason::NodeDisabled)
        );

        let anonymous = Voucher {
            grant: Grant::Public(true),
            ..voucher(1)
        };
        assert_eq!(
            ask(&anonymous, 2, None, None, &DesiredNode::default()),
            Err(Reason::NodeDisabled)
        );
        let public = DesiredNode {
            public: true,
            ..DesiredNode::default()
        };
        let holds = ask(&anonymous, 2, None, None, &public).unwrap();
        assert_eq!(
            holds.session_end(NOW),
            Some(NOW + 50),
            "the ticket's word always binds"
        );
    }
}
