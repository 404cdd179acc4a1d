//! The applied policy: what the control plane pushed, merged and checked. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use totoro_api::decide::{Applied, Standing, Voucher, standing};
use totoro_api::limits::MAX_SESSION_S;
use totoro_api::ports::{Pool, Protocol};
use totoro_api::ticket::{Grant, Keys, Revision};
use totoro_api::wire::push::{Ban, DesiredInvite, DesiredNode, DesiredState, InviteState};
use totoro_api::{Refusal, limits::Effective};
use totoro_ebpf::abi;
use totoro_ebpf::logic::bucket;

use super::invites::Invites;
use super::model::ALL_PUBLIC;

/// The least time for which a revocation is remembered, seconds.
const REVOKED_FOR_S: i64 = 86_400;

/// A revocation that this node saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The invite's epoch then.
    pub epoch: u32,
    /// Until when it is remembered, Unix seconds.
    pub until: i64,
}

/// What holds on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Where it stands.
    pub revision: Revision,
    /// The node's own part.
    pub node: DesiredNode,
    /// Invites by id. The store has each as a record of its own.
    #[serde(default)]
    pub invites: Invites,
    /// Banned sources.
    pub bans: Vec<Ban>,
    /// Keys that tickets may be signed with.
    pub keys: Keys,
    /// Revocations, by invite.
    pub revoked: BTreeMap<String, Tombstone>,
}

impl Policy {
    /// What holds before anything was ever pushed: nobody is admitted.
    #[must_use]
    pub fn initial(pool: Pool) -> Self {
        Policy {
            node: DesiredNode {
                pool,
                ..DesiredNode::default()
            },
            ..Policy::default()
        }
    }

    /// What holds once this snapshot is taken: of what was before, revocations. `now` is Unix seconds.
    ///
    /// # Errors
    /// In a line: what was pushed cannot hold here.
    pub fn replaced(&self, pushed: DesiredState, own: &[u16], now: i64) -> Result<Policy, String> {
        if pushed.node.is_none() {
            return Err("a snapshot without the node's own part".to_owned());
        }
        let mut next = Policy {
            revision: pushed.revision,
            revoked: self.revoked.clone(),
            ..Policy::default()
        };
        next.change(pushed, own, now)?;
        Ok(next)
    }

    /// Takes changes on top. `now` is Unix seconds.
    ///
    /// # Errors
    /// In a line: what was pushed cannot hold here, or does not follow on this policy, which stays as it
    /// is.
    pub fn change(&mut self, pushed: DesiredState, own: &[u16], now: i64) -> Result<(), String> {
        if pushed.revision.generation != self.revision.generation {
            return Err("changes of another generation; a snapshot is needed".to_owned());
        }
        if pushed.revision < self.revision {
            return Err("changes older than what is applied".to_owned());
        }
        let node = pushed.node.as_ref().unwrap_or(&self.node);
        apart(&node.pool, own)?;
        // From here on nothing fails.
        self.revision = pushed.revision;
        if let Some(node) = pushed.node {
            self.node = node;
        }
        if let Some(bans) = pushed.bans {
            self.bans = bans;
        }
        if let Some(keys) = pushed.keys {
            self.keys = keys.into();
        }
        for id in pushed.gone {
            self.invites.remove(&id);
        }
        for invite in pushed.invites {
            if invite.state == InviteState::Revoked {
                let stone = tombstone(&invite, &self.node, now);
                self.revoked.insert(invite.id.clone(), stone);
            }
            self.invites.insert(invite.id.clone(), invite);
        }
        self.revoked.retain(|_, stone| stone.until > now);
        Ok(())
    }

    /// What holds for who brought this, at `now` (Unix seconds).
    ///
    /// # Errors
    /// See [`standing`].
    pub fn standing(&self, voucher: &Voucher, now: i64) -> Result<Standing, Refusal> {
        let id = match &voucher.grant {
            Grant::Invite(id) => Some(id),
            Grant::Public(_) => None,
        };
        let applied = Applied {
            revision: self.revision,
            node: &self.node,
            invite: id.and_then(|id| self.invites.get(id)),
            revoked_at: id
                .and_then(|id| self.revoked.get(id))
                .map(|stone| stone.epoch),
        };
        standing(voucher, &applied, now)
    }

    /// Whether an address may not come here at all.
    #[must_use]
    pub fn banned(&self, ip: IpAddr, now: i64) -> bool {
        let ip = ip.to_canonical();
        self.bans
            .iter()
            .any(|ban| ban.prefix.contains(&ip) && ban.until.is_none_or(|until| until > now))
    }
}

fn tombstone(invite: &DesiredInvite, node: &DesiredNode, now: i64) -> Tombstone {
    let Effective { session_max, .. } = invite.limits.over(&node.defaults);
    let longest = i64::try_from(session_max.min(MAX_SESSION_S)).unwrap_or(REVOKED_FOR_S);
    Tombstone {
        epoch: invite.epoch,
        until: now + longest.max(REVOKED_FOR_S),
    }
}

/// A tenant as the kernel has it. `expires_ns` is boot time; 0 = never.
#[must_use]
pub fn kernel_tenant(standing: &Standing, public: bool, expires_ns: u64) -> abi::Tenant {
    let limits = &standing.limits;
    let (conn_interval_ns, conn_burst_ns) = bucket::rate(limits.conn_rate, limits.conn_rate);
    abi::Tenant {
        state: if standing.held.is_some() {
            abi::HELD
        } else {
            abi::ACTIVE
        },
        reason: standing.held.map_or(0, totoro_api::Reason::number),
        max_conns: limits.max_conns,
        max_flows: limits.max_flows,
        max_conns_per_source: limits.max_conns_per_source,
        epoch: standing.epoch,
        parent: if public { ALL_PUBLIC } else { 0 },
        pad: 0,
        conn_interval_ns,
        conn_burst_ns,
        expires_ns,
    }
}

/// All anonymous tenants together, as the kernel has them.
#[must_use]
pub fn kernel_public(node: &DesiredNode) -> abi::Tenant {
    abi::Tenant {
        state: abi::ACTIVE,
        max_conns: node.public_max.conns,
        max_flows: node.public_max.conns,
        max_conns_per_source: abi::UNLIMITED,
        ..abi::Tenant::default()
    }
}

/// Whether a pool leaves the node's own TCP ports alone.
///
/// # Errors
/// It has one of them: frps, its plugin, its admin API or the metrics could then not be reached.
pub fn apart(pool: &Pool, own: &[u16]) -> Result<(), String> {
    let tcp = pool.of(Protocol::Tcp);
    match own.iter().find(|port| tcp.contains(**port)) {
        Some(port) => Err(format!(
            "the pool contains TCP port {port}, which frps, its plugin, its admin API or metrics_listen is on"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use totoro_api::Reason;
    use totoro_api::limits::Limits;

    const NOW: i64 = 1_700_000_000;

    fn at(generation: u64, rev: u64) -> Revision {
        Revision { generation, rev }
    }

    fn invite(id: &str, state: InviteState) -> DesiredInvite {
        DesiredInvite {
            id: id.to_owned(),
            state,
            epoch: 1,
            limits: Limits::default(),
            expires_at: None,
        }
    }

    fn snapshot(revision: Revision, invites: Vec<DesiredInvite>) -> DesiredState {
        DesiredState {
            revision,
            snapshot: true,
            node: Some(DesiredNode {
                pool: Pool {
                    tcp: "20000-20009".parse().unwrap(),
                    ..Pool::default()
                },
                ..DesiredNode::default()
            }),
            invites,
            ..DesiredState::default()
        }
    }

    fn voucher(id: &str, revision: Revision) -> Voucher {
        Voucher {
            grant: Grant::Invite(id.to_owned()),
            epoch: 1,
            limits: Limits::default(),
            revision,
            session_until: NOW + 100,
        }
    }

    impl Policy {
        /// As the desk takes it; what can't be taken must leave all as it was.
        fn merged(&self, pushed: DesiredState, own: &[u16], now: i64) -> Result<Policy, String> {
            if pushed.snapshot {
                return self.replaced(pushed, own, now);
            }
            let mut next = self.clone();
            let changed = next.change(pushed, own, now);
            assert!(changed.is_ok() || next == *self);
            changed.map(|()| next)
        }
    }

    #[test]
    fn a_snapshot_is_everything_and_changes_go_on_top() {
        let first = Policy::default()
            .merged(
                snapshot(at(1, 5), vec![invite("a", InviteState::Active)]),
                &[7000],
                NOW,
            )
            .unwrap();
        let change = DesiredState {
            revision: at(1, 6),
            invites: vec![invite("b", InviteState::Paused)],
            gone: vec!["a".to_owned()],
            ..DesiredState::default()
        };
        let second = first.merged(change.clone(), &[7000], NOW).unwrap();
        assert_eq!(second.invites.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(second.node, first.node, "what is absent stays");
        assert_eq!(second.revision, at(1, 6));

        let other = DesiredState {
            revision: at(2, 9),
            ..change.clone()
        };
        assert!(
            second
                .merged(other, &[7000], NOW)
                .unwrap_err()
                .contains("snapshot")
        );
        let older = DesiredState {
            revision: at(1, 4),
            ..change
        };
        assert!(second.merged(older, &[7000], NOW).is_err());
        let restored = second
            .merged(snapshot(at(2, 1), vec![]), &[7000], NOW)
            .unwrap();
        assert!(
            restored.invites.is_empty(),
            "any revision of a new generation is taken"
        );
    }

    #[test]
    fn a_pool_with_frpss_own_port_is_refused() {
        let error = Policy::default()
            .merged(snapshot(at(1, 1), vec![]), &[7000, 20_005], NOW)
            .unwrap_err();
        assert!(error.contains("20005"), "{error}");
    }

    #[test]
    fn revocations_outlive_a_restored_store_for_a_while() {
        let revoked = Policy::default()
            .merged(
                snapshot(at(1, 5), vec![invite("a", InviteState::Revoked)]),
                &[7000],
                NOW,
            )
            .unwrap();
        let active = vec![invite("a", InviteState::Active)];
        let restored = revoked
            .merged(snapshot(at(2, 1), active.clone()), &[7000], NOW)
            .unwrap();
        let refused = restored.standing(&voucher("a", at(2, 1)), NOW).unwrap_err();
        assert_eq!(refused.reason, Reason::InviteRevoked);
        let later = NOW + REVOKED_FOR_S + 1;
        let restored = revoked
            .merged(snapshot(at(2, 1), active), &[7000], later)
            .unwrap();
        assert!(restored.standing(&voucher("a", at(2, 1)), later).is_ok());
    }

    #[test]
    fn bans_end_and_cover_mapped_addresses() {
        let mut policy = Policy::default();
        policy.bans.push(Ban {
            id: "b".to_owned(),
            prefix: "192.0.2.0/24".parse().unwrap(),
            until: Some(NOW + 10),
        });
        assert!(policy.banned("::ffff:192.0.2.9".parse().unwrap(), NOW));
        assert!(!policy.banned("192.0.3.9".parse().unwrap(), NOW));
        assert!(!policy.banned("192.0.2.9".parse().unwrap(), NOW + 10));
    }

    #[test]
    fn the_kernel_is_told_of_holds_and_rates() {
        let policy = Policy::default()
            .merged(
                snapshot(at(1, 5), vec![invite("a", InviteState::Paused)]),
                &[7000],
                NOW,
            )
            .unwrap();
        let standing = policy.standing(&voucher("a", at(1, 1)), NOW).unwrap();
        let tenant = kernel_tenant(&standing, false, 9);
        assert_eq!(
            (tenant.state, tenant.reason),
            (abi::HELD, Reason::InvitePaused.number())
        );
        assert_eq!(
            tenant.conn_burst_ns / tenant.conn_interval_ns,
            200,
            "a second's worth"
        );
        assert_eq!((tenant.parent, tenant.expires_ns), (0, 9));
    }
}
