//! `sessions`, `kick`: by the local socket, so they work with the control plane away.

use anyhow::Result;
use totoro_cli::{Table, out, print_json};

use crate::config::Config;
use crate::local::{Ask, ask};
use crate::session::SessionLine;

/// `sessions`.
pub(super) async fn sessions(config: &Config, as_json: bool) -> Result<()> {
    let all: Vec<SessionLine> = ask(&config.local_socket(), &Ask::Sessions).await?;
    if as_json {
        return Ok(print_json(&all)?);
    }
    let mut table = Table::new([
        "SESSION", "TENANT", "CLIENT", "SINCE", "STATE", "FRPC", "PROXIES",
    ]);
    for session in all {
        table.row([
            session.id,
            session.tenant,
            session.client,
            session.since,
            if session.connected {
                "connected"
            } else {
                "lost"
            }
            .to_owned(),
            session.frpc_version,
            session.proxies.join(", "),
        ]);
    }
    Ok(table.print()?)
}

/// `kick`.
pub(super) async fn kick(config: &Config, session: String, as_json: bool) -> Result<()> {
    let kicked = serde_json::json!({ "session": session, "kicked": true });
    ask::<()>(&config.local_socket(), &Ask::Kick { session }).await?;
    if as_json {
        return Ok(print_json(&kicked)?);
    }
    out::line("the session is ended; who has the code can come back (ban keeps an address out)")?;
    Ok(())
}
