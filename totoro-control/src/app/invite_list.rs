//! Lists of invites, with filters.

use totoro_api::wire::invite::InvitePage;
use totoro_api::wire::push::InviteState;

use super::invite::view;
use super::{App, Caller, Failure, Reach, checked_id};
use crate::records::{InviteRecord, key};
use crate::store::{Range, prefix_end, read};

/// Invites that one request looks at: behind a filter that fits few there may be a million.
const MAX_LOOKED_AT: usize = 10_000;

/// Which invites to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In lower case: what their label has in it.
    label: Option<String>,
    /// Their state now.
    state: Option<InviteState>,
}

impl Filter {
    /// The filter of a query.
    ///
    /// # Errors
    /// A state that there is not.
    pub fn read(label: Option<String>, state: Option<&str>) -> Result<Self, Failure> {
        let state = match state {
            None => None,
            Some("active") => Some(InviteState::Active),
            Some("paused") => Some(InviteState::Paused),
            Some("revoked") => Some(InviteState::Revoked),
            Some("expired") => Some(InviteState::Expired),
            Some(_) => {
                let detail = "query: state is active, paused, revoked or expired";
                return Err(Failure::malformed(detail));
            }
        };
        let label = label.map(|label| label.to_lowercase());
        Ok(Filter { label, state })
    }

    fn fits(&self, invite: &InviteRecord, now: i64) -> bool {
        self.state.is_none_or(|state| invite.state_at(now) == state)
            && self
                .label
                .as_ref()
                .is_none_or(|part| invite.label.to_lowercase().contains(part))
    }
}

impl App {
    /// A page of invites within the caller's reach, in the order of their ids. With a filter a page
    /// may be short, even empty, and there may be more all the same: `next` says so.
    ///
    /// # Errors
    /// `node_unknown`, or when the store fails.
    pub fn invites(
        &self,
        caller: &Caller,
        node: Option<&str>,
        filter: &Filter,
        (cursor, limit): (Option<&str>, usize),
    ) -> Result<InvitePage, Failure> {
        let prefix = match (&caller.reach, node) {
            (Reach::All, None) => key::INVITES.to_owned(),
            _ => key::invites_of(&self.node_named(caller.node(node)?)?.value.id),
        };
        let cursor = cursor.map(checked_id).transpose()?;
        let to = prefix_end(prefix.as_bytes());
        let mut last = cursor.map(str::to_owned);
        let (mut items, mut looked_at, now) = (Vec::new(), 0, self.now());
        while items.len() < limit && looked_at < MAX_LOOKED_AT {
            let from = match &last {
                Some(last) => format!("{prefix}{last}\0"),
                None => prefix.clone(),
            };
            let some = self.store.range(Range {
                from: from.as_bytes(),
                to: &to,
                limit,
                reverse: false,
            })?;
            let is_end = some.len() < limit;
            for (at, _) in some {
                if items.len() == limit {
                    return Ok(InvitePage { items, next: last });
                }
                let id = String::from_utf8_lossy(&at[prefix.len()..]).into_owned();
                let record = read::<InviteRecord>(&*self.store, &key::invite(&id))?;
                let record = record.filter(|record| filter.fits(&record.value, now));
                items.extend(record.map(|record| view(record, now, None)));
                looked_at += 1;
                last = Some(id);
            }
            if is_end {
                return Ok(InvitePage { items, next: None });
            }
        }
        // Whether anything is behind the last one.
        let from = format!("{prefix}{}\0", last.as_deref().unwrap_or(""));
        let more = self.store.range(Range {
            from: from.as_bytes(),
            to: &to,
            limit: 1,
            reverse: false,
        })?;
        let next = last.filter(|_| !more.is_empty());
        Ok(InvitePage { items, next })
    }
}
