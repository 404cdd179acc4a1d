//! What the page's template is given.

use askama::Template;
use totoro_api::Refusal;
use totoro_api::limits::Effective;
use totoro_api::ticket::unix;
use totoro_api::wire::heartbeat::TenantUsage;
use totoro_api::wire::invite::{PublicTicket, Resolved};
use totoro_web::{Frame, Lang};

use super::list::List;

/// The page.
#[derive(Template)]
#[template(path = "home.html")]
pub(super) struct Home {
    pub(super) page: Frame,
    pub(super) access: Option<Box<Access>>,
    pub(super) refused: Option<Refused>,
    /// Absent where it cannot be had now.
    pub(super) list: Option<List>,
}

/// A refusal in the page's language.
pub(super) struct Refused {
    code: &'static str,
    what: String,
    next: &'static str,
}

impl Refused {
    pub(super) fn new(lang: Lang, refusal: &Refusal) -> Self {
        let reason = refusal.reason;
        Refused {
            code: reason.code(),
            // Details are English alone; each reason's own line is in both.
            what: match lang {
                Lang::En => refusal.what().to_owned(),
                Lang::Zh => reason.what(lang).to_owned(),
            },
            next: reason.next(lang),
        }
    }
}

/// What a code or a public node gives, and how to begin.
pub(super) struct Access {
    node: String,
    /// Absent for anonymous visitors.
    usage: Option<TenantUsage>,
    server_addr: Vec<String>,
    limits: Effective,
    /// When the invite ends, Unix time.
    ends: Option<i64>,
    unenforced: Vec<String>,
    /// With our client.
    command: String,
    /// With a stock frpc.
    frpc_toml: String,
    tls_ca: String,
}

impl Access {
    pub(super) fn of_invite(resolved: Resolved, url: &str) -> Self {
        Access {
            node: resolved.node_name,
            usage: Some(resolved.usage),
            server_addr: resolved.server_addr,
            limits: resolved.limits,
            ends: resolved.invite_expires_at.as_deref().and_then(unix),
            unenforced: resolved.unenforced,
            // The code is asked for: it stands in no command.
            command: format!("totoro --control {url} tcp 8080"),
            frpc_toml: resolved.frpc_toml,
            tls_ca: resolved.tls_ca,
        }
    }

    pub(super) fn of_node(ticket: PublicTicket, url: &str) -> Self {
        Access {
            command: format!(
                "totoro --control {url} tcp 8080 --node {}",
                ticket.node_name
            ),
            node: ticket.node_name,
            usage: None,
            server_addr: ticket.server_addr,
            limits: ticket.limits,
            ends: None,
            unenforced: ticket.unenforced,
            frpc_toml: ticket.frpc_toml,
            tls_ca: ticket.tls_ca,
        }
    }
}
