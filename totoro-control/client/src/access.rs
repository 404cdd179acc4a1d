//! What lets a tunnel into a node: from a code, or as anyone. Checked, whoever sent it.

use std::fmt;

use totoro_api::Reason;
use totoro_api::code::InviteCode;
use totoro_api::frpc::host_port;
use totoro_api::limits::Effective;
use totoro_api::ticket::unix;
use totoro_api::wire::heartbeat::{Grade, TenantUsage};
use totoro_api::wire::invite::{PublicTicket, Resolved};

use crate::control::{Control, is_id};
use crate::error::Error;
use crate::told::clean;

/// The most addresses of one node.
const MAX_ADDRESSES: usize = 8;
/// The largest certificate of a node, bytes.
const MAX_CA: usize = 16 << 10;

/// How one comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// With an invite code.
    Invite(InviteCode),
    /// As anyone, to a public node with this name or id.
    Public(String),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Secret(text)
    }

    /// The text, for the file that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// All that frpc needs, and what holds.
#[derive(Clone, Debug)]
pub struct Access {
    /// frpc's `user`.
    pub user: String,
    /// frpc's OAuth client secret.
    pub secret: Secret,
    /// The invite's id; `None` for an anonymous visitor.
    pub invite: Option<String>,
    /// When the invite ends, Unix time; `None` where it ends when somebody ends it.
    pub ends: Option<i64>,
    /// The node's id.
    pub node: String,
    /// The node's name.
    pub node_name: String,
    /// Where frpc may connect, `host:port`; at least one.
    pub server_addr: Vec<String>,
    /// What holds.
    pub limits: Effective,
    /// What is in use; `None` for an anonymous visitor.
    pub usage: Option<TenantUsage>,
    /// The node's CA, PEM; empty where there is none.
    pub tls_ca: String,
    /// How limits are enforced.
    pub grade: Grade,
    /// Limits that this grade cannot hold.
    pub unenforced: Vec<String>,
}

impl Source {
    /// Asks the control plane.
    ///
    /// # Errors
    /// The refusal; no answer, or one that makes no sense.
    pub async fn access(&self, control: &Control) -> Result<Access, Error> {
        let access = match self {
            Source::Invite(code) => of_invite(control.resolve(code).await?, code),
            Source::Public(node) => of_public(control.public_ticket(node).await?),
        };
        check(access).map_err(|problem| Error::Nonsense {
            url: control.url().to_owned(),
            problem: problem.to_owned(),
        })
    }

    /// Whether it needs no code.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        matches!(self, Source::Public(_))
    }
}

fn of_invite(resolved: Resolved, code: &InviteCode) -> Access {
    Access {
        user: resolved.invite.clone(),
        secret: Secret(code.to_string()),
        invite: Some(resolved.invite),
        ends: resolved.invite_expires_at.as_deref().and_then(unix),
        node: resolved.node,
        node_name: resolved.node_name,
        server_addr: resolved.server_addr,
        limits: resolved.limits,
        usage: Some(resolved.usage),
        tls_ca: resolved.tls_ca,
        grade: resolved.grade,
        unenforced: resolved.unenforced,
    }
}

fn of_public(ticket: PublicTicket) -> Access {
    Access {
        // Proxy names are global to one frps, and begin with this.
        user: format!("public-{:08x}", fastrand::u32(..)),
        secret: Secret(format!("public:{}", ticket.node)),
        invite: None,
        ends: None,
        node: ticket.node,
        node_name: ticket.node_name,
        server_addr: ticket.server_addr,
        limits: ticket.limits,
        usage: None,
        tls_ca: ticket.tls_ca,
        grade: ticket.grade,
        unenforced: ticket.unenforced,
    }
}

/// Nothing but what can stand in frpc's file and on a screen.
fn check(mut access: Access) -> Result<Access, &'static str> {
    if !is_id(&access.user) || !is_id(&access.node) {
        return Err("an id is none");
    }
    access.node_name = clean(&access.node_name);
    access.server_addr.truncate(MAX_ADDRESSES);
    access.server_addr.retain(|addr| host_port(addr).is_some());
    if access.server_addr.is_empty() {
        return Err("the node has no address");
    }
    access.unenforced.truncate(MAX_ADDRESSES);
    access
        .unenforced
        .iter_mut()
        .for_each(|text| *text = clean(text));
    let ca = access.tls_ca.trim();
    let whole = ca.starts_with("-----BEGIN CERTIFICATE-----")
        && ca.ends_with("-----END CERTIFICATE-----")
        && ca.len() <= MAX_CA
        && ca.is_ascii();
    if !ca.is_empty() && !whole {
        return Err("the node's certificate is none");
    }
    Ok(access)
}

/// Whether a refusal ends a tunnel for good, even one that has run: nothing but somebody's act, which
/// the next step names, could make it run again.
#[must_use]
pub const fn is_final(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::InviteUnknown
            | R::InviteRevoked
            | R::InviteExpired
            | R::NodeUnknown
            | R::NodeDisabled
            | R::ClientBanned
            | R::TicketWrongNode
            | R::ProxyTypeDenied
            | R::PortOutsidePool
            | R::PortDenied
            | R::ProxyNameDenied
            | R::ProxyOptionDenied
            | R::RequestMalformed
            | R::RequestTooLarge
            | R::Unsupported
            | R::NotAuthorized
            | R::NotFound
    )
}

/// Whether it passes by itself within a minute or so, so that even a new tunnel waits for it.
#[must_use]
pub const fn is_brief(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::RateLimited | R::TicketKeyUnknown | R::TicketInUse | R::Internal | R::Conflict
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that is good.
    pub(crate) fn access() -> Access {
        Access {
            user: "inv-1".to_owned(),
            secret: Secret("s".to_owned()),
            invite: Some("inv-1".to_owned()),
            ends: Some(1_800_000_000),
            node: "n-1".to_owned(),
            node_name: "n1".to_owned(),
            server_addr: vec!["n1.example.org:7000".to_owned()],
            limits: Effective::fallback(),
            usage: None,
            tls_ca: String::new(),
            grade: Grade::Kernel,
            unenforced: Vec::new(),
        }
    }

    #[test]
    fn a_hostile_answer_is_cut_down_or_refused() {
        let good = check(Access {
            node_name: "<b>\u{1b}[2J".to_owned(),
            server_addr: vec!["x y:1".to_owned(), "n1.example.org:7000".to_owned()],
            ..access()
        });
        let good = good.unwrap();
        assert_eq!(good.node_name, "<b> [2J");
        assert_eq!(good.server_addr, ["n1.example.org:7000"]);
        assert_eq!(format!("{:?}", good.secret), "Secret(…)");
        let user = "a\"\n[[proxies]]".to_owned();
        assert!(check(Access { user, ..access() }).is_err());
        let server_addr = vec!["nowhere".to_owned()];
        assert!(
            check(Access {
                server_addr,
                ..access()
            })
            .is_err()
        );
        let tls_ca = "-----BEGIN PRIVATE KEY-----".to_owned();
        assert!(check(Access { tls_ca, ..access() }).is_err());
    }

    #[test]
    fn what_is_final_is_not_brief() {
        for &reason in Reason::ALL {
            assert!(!(is_final(reason) && is_brief(reason)), "{reason}");
        }
    }
}
