//! Code → node, limits, usage, ticket and a ready `frpc.toml`.

use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::event::kind;
use totoro_api::wire::invite::Resolved;

use super::frpc::{Client, command};
use super::holder::{Holder, Refused, Visitor};
use super::issue::Issued;
use super::node::unenforced;
use super::{App, Failure};

impl App {
    /// Everything that the holder of a code needs.
    ///
    /// # Errors
    /// The refusal.
    pub async fn resolve(&self, code: &str, visitor: Visitor<'_>) -> Result<Resolved, Failure> {
        let held = self.holder(code, visitor).and_then(|holder| {
            let issued = match holder.node.draining {
                // A person who asks is about to begin something new.
                true => Err(Reason::NodeDraining.into()),
                false => self.ticket_for_holder(&holder, visitor),
            };
            match issued {
                Ok(issued) => Ok((holder, issued)),
                Err(failure) => Err(Refused {
                    failure,
                    node: Some(holder.node.id.clone()),
                    invite: Some(holder.invite.id.clone()),
                }),
            }
        });
        let (holder, issued) = match held {
            Ok(held) => held,
            Err(refused) => {
                let kind = kind::INVITE_RESOLVE_REFUSED;
                return Err(self.record_refused(visitor, kind, refused).await);
            }
        };
        let about = (holder.node.id.as_str(), Some(holder.invite.id.as_str()));
        self.record_issued(visitor, kind::INVITE_RESOLVED, &issued, about)
            .await?;
        self.resolved(code, holder, issued)
    }

    fn resolved(&self, code: &str, holder: Holder, issued: Issued) -> Result<Resolved, Failure> {
        let Holder { invite, node, .. } = holder;
        let limits = invite.limits.over(&node.said.defaults);
        let grade = self.grade_of(&node);
        let tls_ca = self.tls_ca(&node.id);
        // Read back as the code is shown, so that a sloppily typed one is tidy in the file.
        let code = code
            .parse::<totoro_api::code::InviteCode>()
            .map(|code| code.to_string());
        let code = code.map_err(|_| Failure::from(Reason::Internal))?;
        let frpc_toml = Client {
            server_addr: node.said.server_addr.first().map_or("", String::as_str),
            user: &invite.id,
            secret: &code,
            public_url: &self.config.public_url,
            limits: &limits,
            pool: &node.said.pool,
            has_ca: !tls_ca.is_empty(),
            ping_s: self.ping_for(&node),
        }
        .toml()
        .map_err(|_| Failure::from(Reason::Internal))?;
        Ok(Resolved {
            usage: self.tenant_usage(&node, &invite.id)?.1,
            invite: invite.id.clone(),
            invite_expires_at: invite.expires_at.map(rfc3339),
            node: node.id.clone(),
            node_name: node.said.name.clone(),
            server_addr: node.said.server_addr.clone(),
            limits,
            ticket_expires_at: rfc3339(issued.expires_at),
            renew_after: rfc3339(issued.renew_after()),
            ticket: issued.ticket,
            command: command(&frpc_toml),
            frpc_toml,
            tls_ca,
            unenforced: unenforced(grade),
            grade,
        })
    }

    /// frps's CA as the node last reported it.
    pub(super) fn tls_ca(&self, node: &str) -> String {
        self.live
            .last(node)
            .map(|seen| seen.heartbeat.tls_ca.clone())
            .unwrap_or_default()
    }
}
