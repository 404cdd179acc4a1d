//! What becomes of a login, by the ticket and the run_id that it brings.

use crate::{Reason, Refusal};

/// Whose session the run_id in a login names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No run_id was sent.
    Nobody,
    /// No session that is known.
    Unknown,
    /// The session that this very ticket is bound to, whether it lives or is only remembered.
    Own,
    /// Another live session of the same tenant.
    Sibling,
    /// A session of another tenant.
    Stranger,
}

/// What the login's ticket is to the node. Its signature (or, for one that was seen, its hash) has
/// been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// Never seen.
    Fresh {
        /// Past `exp`.
        expired: bool,
    },
    /// Bound to a session already.
    Seen {
        /// Past `exp`.
        expired: bool,
        /// The session was ended for good (kicked, or its time is over).
        ended: bool,
        /// The session's control connection lives.
        connected: bool,
        /// The login comes from the address that the session comes from.
        same_address: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a new session, with a run_id of ours.
    Open,
    /// Go on with the session that the ticket is bound to, under its run_id.
    Resume,
    /// As [`Action::Resume`], for a frpc that was started again; its old connection goes first.
    TakeOver,
    /// Go on with the session that the run_id names, and bind the newer ticket to it.
    Extend,
}

/// The contract's table of logins.
///
/// # Errors
/// `ticket_in_use`, `ticket_expired` or `session_expired`.
pub fn login(brought: Brought, owner: Owner) -> Result<Action, Refusal> {
    judge(brought, owner).map_err(|reason| match reason {
        Reason::SessionExpired => {
            let detail = "this session was ended here, by its operator or at its longest life";
            Refusal::with(reason, detail)
        }
        reason => reason.into(),
    })
}

const fn judge(brought: Brought, owner: Owner) -> Result<Action, Reason> {
    match (brought, owner) {
        (_, Owner::Stranger) => Err(Reason::TicketInUse),
        (Brought::Fresh { expired: true }, _) => Err(Reason::TicketExpired),
        (Brought::Fresh { .. }, Owner::Sibling) => Ok(Action::Extend),
        // A fresh ticket is bound to nothing, so nothing is its own.
        (Brought::Fresh { .. }, Owner::Nobody | Owner::Unknown | Owner::Own) => Ok(Action::Open),
        (Brought::Seen { .. }, Owner::Sibling) => Err(Reason::TicketInUse),
        (Brought::Seen { ended: true, .. }, Owner::Own) => Err(Reason::SessionExpired),
        (Brought::Seen { .. }, Owner::Own) => Ok(Action::Resume),
        (Brought::Seen { expired: true, .. }, Owner::Nobody | Owner::Unknown) => {
            Err(Reason::TicketExpired)
        }
        (Brought::Seen { ended: true, .. }, Owner::Nobody | Owner::Unknown) => {
            Err(Reason::SessionExpired)
        }
        (
            Brought::Seen {
                connected: true,
                same_address: false,
                ..
            },
            Owner::Nobody | Owner::Unknown,
        ) => Err(Reason::TicketInUse),
        (Brought::Seen { .. }, Owner::Nobody | Owner::Unknown) => Ok(Action::TakeOver),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seen(expired: bool, connected: bool, same_address: bool) -> Brought {
        Brought::Seen {
            expired,
            ended: false,
            connected,
            same_address,
        }
    }

    #[test]
    fn the_contracts_table() {
        use Owner::{Nobody, Own, Sibling, Stranger, Unknown};
        const FRESH: Brought = Brought::Fresh { expired: false };
        let rows = [
            ("valid, unseen; no run_id", FRESH, Nobody, Ok(Action::Open)),
            (
                "valid, unseen; unknown run_id",
                FRESH,
                Unknown,
                Ok(Action::Open),
            ),
            (
                "seen; its own",
                seen(false, true, true),
                Own,
                Ok(Action::Resume),
            ),
            (
                "seen; its own, from elsewhere",
                seen(false, true, false),
                Own,
                Ok(Action::Resume),
            ),
            (
                "seen; its own, past exp",
                seen(true, false, false),
                Own,
                Ok(Action::Resume),
            ),
            (
                "newer; a session of the invite",
                FRESH,
                Sibling,
                Ok(Action::Extend),
            ),
            (
                "seen; none, same address",
                seen(false, true, true),
                Nobody,
                Ok(Action::TakeOver),
            ),
            (
                "seen; none, other address, alive",
                seen(false, true, false),
                Nobody,
                Err(Reason::TicketInUse),
            ),
            (
                "seen; none, other address, dead",
                seen(false, false, false),
                Nobody,
                Ok(Action::TakeOver),
            ),
            (
                "seen; none, past exp",
                seen(true, true, true),
                Nobody,
                Err(Reason::TicketExpired),
            ),
            (
                "fresh; another tenant's",
                FRESH,
                Stranger,
                Err(Reason::TicketInUse),
            ),
            (
                "seen; another tenant's",
                seen(false, true, true),
                Stranger,
                Err(Reason::TicketInUse),
            ),
            (
                "expired, unseen",
                Brought::Fresh { expired: true },
                Nobody,
                Err(Reason::TicketExpired),
            ),
            (
                "expired, unseen; a session of the invite",
                Brought::Fresh { expired: true },
                Sibling,
                Err(Reason::TicketExpired),
            ),
            (
                "seen; another session of the invite",
                seen(false, true, true),
                Sibling,
                Err(Reason::TicketInUse),
            ),
        ];
        for (row, brought, owner, outcome) in rows {
            assert_eq!(judge(brought, owner), outcome, "{row}");
        }
    }

    #[test]
    fn an_ended_session_never_comes_back() {
        for owner in [Owner::Nobody, Owner::Unknown, Owner::Own] {
            for (connected, same_address) in [(true, true), (false, true), (false, false)] {
                let brought = Brought::Seen {
                    expired: false,
                    ended: true,
                    connected,
                    same_address,
                };
                assert_eq!(judge(brought, owner), Err(Reason::SessionExpired));
            }
        }
    }
}
