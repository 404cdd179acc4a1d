//! Tickets: for the holder of a code, and for anyone on a public node.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use totoro_api::limits::Limits;
use totoro_api::ticket::{Claims, Grant, Revision, sign};
use totoro_api::wire::event::kind;
use totoro_api::wire::node::Visibility;
use totoro_api::{Reason, Refusal};

use super::holder::{Holder, PUBLIC, Refused, Visitor};
use super::{App, Failure};
use crate::keys::random_hex;
use crate::records::NodeRecord;

/// How long an anonymous session may live, seconds.
const ANONYMOUS_SESSION_S: i64 = 4 * 3600;

/// A ticket and its life.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The ticket's text.
    pub ticket: String,
    /// Its id.
    pub jti: String,
    /// Issued at, Unix seconds.
    pub issued_at: i64,
    /// Good until, Unix seconds.
    pub expires_at: i64,
}

impl Issued {
    /// The life that is left at issue, seconds.
    #[must_use]
    pub fn life_s(&self) -> u64 {
        u64::try_from(self.expires_at - self.issued_at).unwrap_or(0)
    }

    /// When to fetch the next one: at two thirds of its life, Unix seconds.
    #[must_use]
    pub fn renew_after(&self) -> i64 {
        self.issued_at + (self.expires_at - self.issued_at) * 2 / 3
    }
}

/// What a ticket is signed over, besides node and time.
struct Terms {
    revision: Revision,
    grant: Grant,
    subject: String,
    epoch: u32,
    limits: Limits,
    /// How long a session may live that only the ticket vouches for, seconds.
    session_s: i64,
    /// When the invite ends, Unix seconds.
    ends_at: Option<i64>,
}

impl App {
    /// A ticket for the holder of a code.
    pub(super) fn ticket_for_holder(
        &self,
        holder: &Holder,
        visitor: Visitor<'_>,
    ) -> Result<Issued, Failure> {
        let Holder {
            revision,
            invite,
            node,
        } = holder;
        let holds = invite.limits.over(&node.said.defaults);
        self.ticket(
            node,
            Terms {
                revision: *revision,
                grant: Grant::Invite(invite.id.clone()),
                subject: subject(visitor.address),
                epoch: invite.epoch,
                limits: invite.limits.clone(),
                session_s: i64::try_from(holds.session_max).unwrap_or(i64::MAX),
                ends_at: invite.expires_at,
            },
        )
    }

    /// A ticket for anyone, under the node's public limits.
    pub(super) fn public_ticket(
        &self,
        revision: Revision,
        node: &NodeRecord,
        visitor: Visitor<'_>,
    ) -> Result<Issued, Failure> {
        if node.said.visibility != Visibility::Public {
            // A private node's existence is nobody's business.
            return Err(Reason::NodeUnknown.into());
        }
        self.check_node(node, visitor)?;
        if node.draining {
            return Err(Reason::NodeDraining.into());
        }
        if self.reached(node)?.is_empty() {
            let detail = "the control plane has not reached this node's address yet";
            return Err(Failure::refused(Reason::NodeOffline, detail));
        }
        self.ticket(
            node,
            Terms {
                revision,
                grant: Grant::Public(true),
                subject: subject(visitor.address),
                epoch: 0,
                limits: node.said.public_limits.clone(),
                session_s: ANONYMOUS_SESSION_S,
                ends_at: None,
            },
        )
    }

    fn ticket(&self, node: &NodeRecord, terms: Terms) -> Result<Issued, Failure> {
        let now = self.now();
        let ring = self.ring();
        let signer = if node.callback {
            // Where no daemon is, the control plane itself verifies, and knows all its keys.
            let live = ring.published(now).into_iter();
            let known: Vec<String> = live.map(|key| key.kid).collect();
            ring.signer(&known, now)
        } else {
            let applied = self.applied_now(&node.id)?;
            applied.and_then(|applied| ring.signer(&applied.keys, now))
        };
        let Some(signer) = signer else {
            return Err(Failure::Refused(Refusal::with(
                Reason::NodeOffline,
                "the node has not confirmed a ticket key yet: its daemon has not run, or cannot \
                 reach the control plane (a stock frps without our daemon is enrolled with \
                 `totoro-control node enroll-callback`)",
            )));
        };
        let life = i64::try_from(self.config.ticket_ttl.secs()).unwrap_or(i64::MAX);
        let until = |at: i64| terms.ends_at.map_or(at, |ends_at| at.min(ends_at));
        let expires_at = until(now.saturating_add(life));
        let claims = Claims {
            jti: random_hex::<16>(),
            node: node.id.clone(),
            grant: terms.grant,
            subject: terms.subject,
            epoch: terms.epoch,
            limits: terms.limits,
            revision: terms.revision,
            iat: now,
            exp: expires_at,
            session_until: until(now.saturating_add(terms.session_s)),
        };
        let ticket = sign(signer, &claims);
        Ok(Issued {
            ticket,
            jti: claims.jti,
            issued_at: now,
            expires_at,
        })
    }

    /// Leaves the event of a ticket that was given out under this kind.
    pub(super) async fn record_issued(
        &self,
        visitor: Visitor<'_>,
        kind: &str,
        issued: &Issued,
        (node, invite): (&str, Option<&str>),
    ) -> Result<(), Failure> {
        let detail = serde_json::json!({
            "jti": issued.jti, "expires_at": totoro_api::ticket::rfc3339(issued.expires_at),
        });
        let event = visitor
            .author(invite)
            .event(kind)
            .node(node)
            .client(visitor.address);
        let event = match invite {
            Some(invite) => event.invite(invite),
            None => event,
        };
        self.record(event.detail(detail)).await?;
        self.metrics.ticket(invite.is_none());
        Ok(())
    }

    /// Leaves the event of a refusal, and gives the refusal back.
    pub(super) async fn record_refused(
        &self,
        visitor: Visitor<'_>,
        kind: &str,
        refused: Refused,
    ) -> Failure {
        let Refused {
            failure,
            node,
            invite,
        } = refused;
        let Some(refusal) = failure.refusal() else {
            return failure;
        };
        tracing::info!(
            node_id = node.as_deref().unwrap_or("-"),
            invite_id = invite.as_deref().unwrap_or("-"),
            reason = refusal.reason.code(),
            client = %visitor.address,
            request_id = visitor.request_id,
            "refused"
        );
        let mut event = visitor
            .author(invite.as_deref())
            .event(kind)
            .reason(refusal.reason);
        event = event.client(visitor.address);
        if let Some(node) = &node {
            event = event.node(node);
        }
        if let Some(invite) = &invite {
            event = event.invite(invite);
        }
        match self.record(event).await {
            Ok(()) => failure,
            Err(failed) => failed,
        }
    }

    /// The ticket in OAuth form: for a code, or for `public:NODE`.
    ///
    /// # Errors
    /// The refusal, whose line frpc prints.
    pub async fn oauth_ticket(
        &self,
        secret: &str,
        visitor: Visitor<'_>,
    ) -> Result<Issued, Failure> {
        if let Some(node) = secret.strip_prefix(PUBLIC) {
            return self
                .anonymous(node, visitor)
                .await
                .map(|(issued, _)| issued);
        }
        let issued = self.holder(secret, visitor).and_then(|holder| {
            match self.ticket_for_holder(&holder, visitor) {
                Ok(issued) => Ok((issued, holder)),
                Err(failure) => Err(Refused {
                    failure,
                    node: Some(holder.node.id.clone()),
                    invite: Some(holder.invite.id.clone()),
                }),
            }
        });
        match issued {
            Ok((issued, holder)) => {
                let about = (holder.node.id.as_str(), Some(holder.invite.id.as_str()));
                self.record_issued(visitor, kind::TICKET_ISSUED, &issued, about)
                    .await?;
                Ok(issued)
            }
            Err(refused) => Err(self
                .record_refused(visitor, kind::TICKET_REFUSED, refused)
                .await),
        }
    }

    /// An anonymous ticket for a public node, by id or name.
    ///
    /// # Errors
    /// The refusal.
    pub async fn anonymous(
        &self,
        name: &str,
        visitor: Visitor<'_>,
    ) -> Result<(Issued, NodeRecord), Failure> {
        let issued = self
            .node_named(name)
            .map_err(Refused::from)
            .and_then(|node| {
                let id = node.value.id;
                // Read again after the revision, which must not be newer than what it vouches for.
                let revision = self.policy_revision(&id).map_err(Failure::from)?;
                let node = self.node_record(&id)?.value;
                match self.public_ticket(revision, &node, visitor) {
                    Ok(issued) => Ok((issued, node)),
                    Err(failure) => Err(Refused {
                        failure,
                        node: Some(node.id),
                        invite: None,
                    }),
                }
            });
        match issued {
            Ok((issued, node)) => {
                let about = (node.id.as_str(), None);
                self.record_issued(visitor, kind::TICKET_ISSUED, &issued, about)
                    .await?;
                Ok((issued, node))
            }
            Err(refused) => Err(self
                .record_refused(visitor, kind::TICKET_REFUSED, refused)
                .await),
        }
    }
}

/// Whom a ticket was given to, for rate limits only: the IPv4 address, or the IPv6 /64.
fn subject(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => Ipv6Net::new(v6, 64)
            .map_or_else(|_| v6.to_string(), |net| IpNet::V6(net.trunc()).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let subject = |text: &str| subject(text.parse().unwrap());
        assert_eq!(subject("192.0.2.7"), "192.0.2.7");
        assert_eq!(subject("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(subject("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }
}
