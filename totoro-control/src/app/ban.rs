//! Bans: on one node by its lender, on all of them by an admin.

use ipnet::IpNet;
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::ban::{BanEntry, BanPage, NewBan, bannable, parse};
use totoro_api::wire::event::kind;

use super::idempotency::{Idempotency, KEPT_S, Seen, WHOLE};
use super::{App, Caller, Failure, Reach, checked_id, fields, node};
use crate::audit;
use crate::keys::new_id;
use crate::push::{self, holds};
use crate::records::{BanRecord, Change, key};
use crate::store::{StoreError, Tx, names, read};

/// Bans of one node, and of all nodes together, at most.
const MAX_BANS: usize = 10_000;

impl App {
    /// Bans a prefix.
    ///
    /// # Errors
    /// Malformed fields; `node_unknown`; `conflict` when there are too many.
    pub async fn add_ban(
        &self,
        caller: &Caller,
        new: &NewBan,
        request: Option<Idempotency<'_>>,
    ) -> Result<BanEntry, Failure> {
        Self::checked_key(request)?;
        let (node, prefix_key) = self.ban_scope(caller, new.node.as_deref())?;
        let prefix = read_prefix(&new.prefix)?;
        let until = fields::when("until", new.until.as_deref().unwrap_or(""))?;
        fields::text("note", &new.note, 200)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let scope = node.as_deref().unwrap_or(WHOLE);
        let record = BanRecord {
            id: new_id("ban"),
            prefix,
            until,
            note: new.note.clone(),
            created_at: now,
        };
        let (record, revision) = self
            .transact(|tx| {
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, scope, request, now)?
                {
                    return Ok(BanRecord {
                        id: before.made,
                        created_at: before.expires_at - KEPT_S,
                        ..record.clone()
                    });
                }
                if tx.names(&prefix_key)?.len() >= MAX_BANS {
                    let detail = format!("there are {MAX_BANS} bans already");
                    return Err(Failure::refused(Reason::Conflict, detail));
                }
                let at = format!("{prefix_key}{}", record.id);
                tx.put(&at, &record)?;
                if let Some(until) = until {
                    tx.put(key::ban_end(until, &at), &())?;
                }
                touch(tx, node.as_deref())?;
                if let Some(request) = request {
                    self.remember(tx, scope, request, (&record.id, 0), now)?;
                }
                let detail = serde_json::json!({
                    "ban": record.id, "prefix": prefix, "until": record.until.map(rfc3339),
                });
                let mut event = caller.author.event(kind::BAN_ADDED).detail(detail);
                if let Some(node) = &node {
                    event = event.node(node);
                }
                audit::record(tx, event, now_ms)?;
                Ok(record.clone())
            })
            .await?;
        if node.is_none() && revision != 0 {
            self.tell_bans().await?;
        }
        Ok(view(record, node))
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// `not_found`; `conflict`.
    pub async fn lift_ban(
        &self,
        caller: &Caller,
        node: Option<&str>,
        id: &str,
        request: Option<Idempotency<'_>>,
    ) -> Result<(), Failure> {
        Self::checked_key(request)?;
        let (node, prefix_key) = self.ban_scope(caller, node)?;
        let at = format!("{prefix_key}{}", checked_id(id)?);
        let (now, now_ms) = (self.now(), self.now_ms());
        let scope = node.as_deref().unwrap_or(WHOLE);
        let lifting = self.transact(|tx| {
            let found = tx.get::<BanRecord>(&at)?;
            if self.repeated(tx, scope, request, id, now)? {
                return Ok(());
            }
            let record = found.ok_or(Reason::NotFound)?.value;
            tx.delete(&at);
            if let Some(until) = record.until {
                tx.delete(key::ban_end(until, &at));
            }
            touch(tx, node.as_deref())?;
            let detail = serde_json::json!({ "ban": record.id, "prefix": record.prefix });
            let mut event = caller.author.event(kind::BAN_LIFTED).detail(detail);
            if let Some(node) = &node {
                event = event.node(node);
            }
            Ok(audit::record(tx, event, now_ms)?)
        });
        let ((), revision) = lifting.await?;
        if node.is_none() && revision != 0 {
            self.tell_bans().await?;
        }
        Ok(())
    }

    /// Forgets bans whose time is over; their nodes were told the time.
    pub(super) async fn forget_bans(&self) -> Result<(), Failure> {
        let now = self.now();
        self.forget_due(key::BAN_ENDS, |tx, ban| {
            let found = tx.get::<BanRecord>(ban)?;
            if found.is_some_and(|found| !holds(&found.value, now)) {
                tx.delete(ban);
            }
            Ok(())
        })
        .await
    }

    /// A page of bans that hold.
    ///
    /// # Errors
    /// `node_unknown`, or when the store fails.
    pub fn bans(
        &self,
        caller: &Caller,
        node: Option<&str>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<BanPage, Failure> {
        let (node, prefix_key) = self.ban_scope(caller, node)?;
        let now = self.now();
        let mut items = Vec::new();
        for id in names(&*self.store, &prefix_key)? {
            if cursor.is_some_and(|cursor| id.as_str() <= cursor) {
                continue;
            }
            let record = read::<BanRecord>(&*self.store, &format!("{prefix_key}{id}"))?;
            items.extend(
                record
                    .map(|record| record.value)
                    .filter(|ban| holds(ban, now))
                    .map(|ban| view(ban, node.clone())),
            );
            if items.len() > limit {
                break;
            }
        }
        let next = node::cut(&mut items, limit, |ban: &BanEntry| ban.id.clone());
        Ok(BanPage { items, next })
    }

    /// Which node's bans, and where they stand; `None` is those of all nodes.
    fn ban_scope(
        &self,
        caller: &Caller,
        node: Option<&str>,
    ) -> Result<(Option<String>, String), Failure> {
        if caller.reach == Reach::All && node.is_none() {
            return Ok((None, key::GLOBAL_BANS.to_owned()));
        }
        let node = self.node_named(caller.node(node)?)?.value.id;
        let prefix = key::bans_of(&node);
        Ok((Some(node), prefix))
    }
}

/// Tells the node that its bans changed; where they are all nodes', notes that they are to be told.
fn touch(tx: &mut Tx<'_>, node: Option<&str>) -> Result<(), StoreError> {
    match node {
        Some(node) => push::touch(tx, node, &Change::Bans),
        None => tx.put(key::BANS_UNTOLD, &()),
    }
}

fn view(record: BanRecord, node: Option<String>) -> BanEntry {
    let BanRecord {
        id,
        prefix,
        until,
        note,
        created_at,
    } = record;
    let (until, created_at) = (until.map(rfc3339), rfc3339(created_at));
    BanEntry {
        id,
        node,
        prefix,
        until,
        note,
        created_at,
    }
}

/// An address or a prefix to ban.
fn read_prefix(text: &str) -> Result<IpNet, Failure> {
    let net = parse(text).map_err(|why| Failure::malformed(format!("prefix: {why}")))?;
    bannable(net).map_err(|why| Failure::malformed(format!("prefix: it {why}")))
}
