//! The control plane's side: policies that are pushed or lost, and events that it takes.

use totoro_api::wire::push::{DesiredInvite, DesiredState, InviteState};

use super::Change;
use super::desk::{Pair, limits};
use super::model::{Invite, State, TENANTS};
use crate::spool::Spool;

impl Pair {
    pub(super) fn change(&mut self, what: Change, lost: bool) {
        let now = self.model.now_ms / 1000;
        let control = &mut self.model.control;
        let of = match what {
            Change::State(of, _) | Change::Most(of, _) | Change::Anew(of) | Change::Ends(of, _) => {
                Some(of)
            }
            Change::Drain(_) | Change::Key | Change::Nothing => None,
        };
        if let Some(of) = of
            && control.invites[of].state == State::Revoked
        {
            // For ever.
            return;
        }
        match what {
            Change::State(of, state) => control.invites[of].state = state,
            Change::Most(of, most) => control.invites[of].most = most,
            Change::Anew(of) => {
                control.invites[of].epoch += 1;
                control.invites[of].expires_at = None;
            }
            Change::Ends(of, ends) => {
                control.invites[of].expires_at = ends.map(|after| now + after)
            }
            Change::Drain(draining) => control.draining = draining,
            Change::Key => control.key += 1,
            Change::Nothing => {}
        }
        let control = control.clone();
        let world = self.world();
        world.node.draining = control.draining;
        if matches!(what, Change::Key) {
            world.rotate_key();
        }
        let mut pushed = world.snapshot(&[]);
        for key in pushed.keys.iter_mut().flatten() {
            (key.not_before, key.expires) = (0, i64::MAX);
        }
        let all = (0..2).map(|of| desired(TENANTS[of], &control.invites[of]));
        pushed.invites = all.collect();
        self.model.control.rev = pushed.revision.rev;
        if lost {
            self.stale = true;
            return;
        }
        let whole = self.stale || matches!(what, Change::Nothing);
        self.stale = false;
        let pushed = if whole {
            pushed
        } else {
            only(what, of, pushed)
        };
        let applied = self.world().desk.apply(pushed).expect("it can hold");
        assert_eq!(
            (applied.revision.rev, applied.error),
            (self.model.control.rev, None)
        );
        let came: Vec<usize> = if whole {
            vec![0, 1]
        } else {
            of.into_iter().collect()
        };
        self.model.apply(&came);
        // A change looks at whom it concerns; whose time is up goes with the next tick, if not by it.
        self.tick();
    }

    /// The control plane takes what it does not have yet, and forgets nothing.
    pub(super) fn deliver(&mut self, heard: bool) {
        let waiting = self.world().told();
        for event in waiting {
            let last = self.had.last().map_or(0, |event| event.seq);
            if event.seq > last {
                assert_eq!(event.seq, last + 1, "no event is missing");
                self.had.push(event);
            }
        }
        let last = self.had.last().map_or(0, |event| event.seq);
        if heard {
            let store = std::sync::Arc::clone(&self.world().store);
            Spool::of(store).accepted(last).expect("it is forgotten");
        }
    }
}

fn desired(id: &str, invite: &Invite) -> DesiredInvite {
    DesiredInvite {
        id: id.to_owned(),
        state: match invite.state {
            State::Active => InviteState::Active,
            State::Paused => InviteState::Paused,
            State::Revoked => InviteState::Revoked,
        },
        epoch: invite.epoch,
        limits: limits(invite.most),
        expires_at: invite.expires_at,
    }
}

/// Of everything what a change has changed.
fn only(what: Change, of: Option<usize>, all: DesiredState) -> DesiredState {
    let named = |invite: &DesiredInvite| of.is_some_and(|of| invite.id == TENANTS[of]);
    DesiredState {
        revision: all.revision,
        invites: all.invites.into_iter().filter(named).collect(),
        node: all.node.filter(|_| matches!(what, Change::Drain(_))),
        keys: all.keys.filter(|_| matches!(what, Change::Key)),
        ..DesiredState::default()
    }
}
