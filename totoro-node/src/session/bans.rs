//! Bans: those of the applied policy, and those that the operator made on this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use totoro_api::ticket::rfc3339;
use totoro_api::wire::ban::{bannable, canonical};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::{Reason, Refusal};

use super::desk::{Desk, Inner, LocalBan};
use super::failures::Failures;
use super::policy::Policy;
use crate::store::{BANS, Changes};

/// One ban as the local socket shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanLine {
    /// The banned prefix.
    pub prefix: IpNet,
    /// RFC 3339; empty = until lifted.
    pub until: String,
    /// `node` (made here) or `control`.
    pub by: String,
}

/// Tells a person that what they asked for holds, but would not after a crash.
pub(super) fn kept(settled: Result<(), Refusal>) -> Result<()> {
    settled.map_err(|_| {
        anyhow!(
            "it holds, but can't be made durable: the daemon tries again, and the end of this machine \
             before that would undo it; look at the disk of the state's directory and at the log"
        )
    })
}

impl Desk {
    /// Writes the bans that hold, pushed and local, and lifts what else the kernel has.
    pub(super) fn write_bans(
        &self,
        inner: &Inner,
        policy: &Policy,
        now_ms: i64,
        failures: &mut Failures,
    ) {
        let mut wanted = BTreeMap::<IpNet, Option<i64>>::new();
        let pushed = policy
            .bans
            .iter()
            .map(|ban| (ban.prefix.trunc(), ban.until));
        let local = inner
            .local_bans
            .iter()
            .map(|(prefix, ban)| (prefix.trunc(), ban.until));
        for (prefix, until) in pushed.chain(local) {
            if until.is_some_and(|until| until <= now_ms / 1000) {
                continue;
            }
            // Of two bans of one prefix the longer holds.
            let longer = match wanted.get(&prefix) {
                Some(Some(other)) => until.map(|until| until.max(*other)),
                Some(None) => None,
                None => until,
            };
            wanted.insert(prefix, longer);
        }
        let wanted = wanted
            .into_iter()
            .map(|(prefix, until)| {
                let until = until.map_or(0, |at| self.clock.to_boot_ns(at.saturating_mul(1000)));
                (prefix, until)
            })
            .collect();
        failures.note(self.kernel.set_bans(&wanted));
    }

    /// Bans a prefix on this node for so many seconds, or until lifted.
    ///
    /// # Errors
    /// The prefix is too wide. Or the kernel, or the disk: the ban stands, and both are tried again.
    pub fn ban(&self, prefix: IpNet, for_s: Option<i64>) -> Result<()> {
        let now_ms = self.clock.now_ms();
        let until = for_s.map(|s| (now_ms / 1000).saturating_add(s));
        let malformed = |why| anyhow!("{}: {prefix} {why}", Reason::RequestMalformed);
        let prefix = bannable(prefix).map_err(malformed)?;
        let mut desk = self.lock();
        let inner = &mut *desk;
        inner.local_bans.insert(prefix, LocalBan { until });
        let mut changes = Changes::default();
        changes.put(BANS, prefix.to_string(), &LocalBan { until });
        changes.tell(now_ms, &ban_event(kind::BAN_ADDED, prefix, until));
        let failures = self.bans_changed(inner, &mut changes, now_ms);
        self.flush(inner, changes);
        let settled = self.settled(desk);
        failures.into_result()?;
        kept(settled)
    }

    /// Lifts a ban that was made on this node.
    ///
    /// # Errors
    /// There is none; or the kernel or the disk failed, and are tried again.
    pub fn unban(&self, prefix: IpNet) -> Result<()> {
        let now_ms = self.clock.now_ms();
        let prefix = canonical(prefix).unwrap_or(prefix);
        let mut desk = self.lock();
        let inner = &mut *desk;
        if inner.local_bans.remove(&prefix).is_none() {
            bail!(
                "{}: no ban of {prefix} was made on this node",
                Reason::NotFound
            );
        }
        let mut changes = Changes::default();
        changes.remove(BANS, prefix.to_string());
        changes.tell(now_ms, &ban_event(kind::BAN_LIFTED, prefix, None));
        let failures = self.bans_changed(inner, &mut changes, now_ms);
        self.flush(inner, changes);
        let settled = self.settled(desk);
        failures.into_result()?;
        kept(settled)
    }

    fn bans_changed(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) -> Failures {
        let policy = Arc::clone(&inner.policy);
        let mut failures = Failures::default();
        self.write_bans(inner, &policy, now_ms, &mut failures);
        self.enforce(inner, &policy, None, changes, now_ms, &mut failures);
        if failures.any() {
            inner.untidy = failures.first();
        }
        failures
    }

    /// The bans that hold here.
    #[must_use]
    pub fn bans(&self) -> Vec<BanLine> {
        let now = self.clock.now_ms() / 1000;
        let holds = |until: Option<i64>| until.is_none_or(|until| until > now);
        let inner = self.lock();
        let line = |prefix: IpNet, until: Option<i64>, by: &str| BanLine {
            prefix,
            until: until.map(rfc3339).unwrap_or_default(),
            by: by.to_owned(),
        };
        let local = inner
            .local_bans
            .iter()
            .filter(|(_, ban)| holds(ban.until))
            .map(|(prefix, ban)| line(*prefix, ban.until, "node"));
        let pushed = inner
            .policy
            .bans
            .iter()
            .filter(|ban| holds(ban.until))
            .map(|ban| line(ban.prefix, ban.until, "control"));
        local.chain(pushed).collect()
    }
}

impl Inner {
    /// Whether an address is banned, by the control plane or here.
    pub(super) fn is_banned(&self, ip: std::net::IpAddr, now: i64) -> bool {
        self.policy.banned(ip, now) || self.banned_here(ip, now)
    }

    /// Whether the operator banned an address on this node.
    pub(super) fn banned_here(&self, ip: std::net::IpAddr, now: i64) -> bool {
        let ip = ip.to_canonical();
        self.local_bans
            .iter()
            .any(|(prefix, ban)| prefix.contains(&ip) && ban.until.is_none_or(|until| until > now))
    }
}

fn ban_event(kind: &str, prefix: IpNet, until: Option<i64>) -> Subject {
    Subject {
        kind: kind.to_owned(),
        detail: serde_json::json!({
            "prefix": prefix,
            "until": until.map(rfc3339),
            "by": "node",
        }),
        ..Subject::default()
    }
}
