//! Tenants of a hostile lab: an invite, and a stock frpc that uses it.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::{NODE_CLIENT_V4, NODE_USER_V4, Process};
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::{CONTROL, FRPS_PORT, Tenant, World};

/// Where users come.
pub const USERS_DOOR: &str = NODE_USER_V4;

/// How frpc reaches frps.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// frps's address.
    pub server: &'static str,
    /// frpc's `transport.protocol`.
    pub protocol: &'static str,
    /// frps's port for it.
    pub port: u16,
    /// `transport.tcpMux`.
    pub mux: bool,
}

impl Way {
    /// As frpc does without being told.
    pub const PLAIN: Way = Way {
        server: NODE_CLIENT_V4,
        protocol: "tcp",
        port: FRPS_PORT,
        mux: true,
    };
    /// By `transport.protocol = "websocket"`, with TLS inside it.
    pub const WEBSOCKET: Way = Way {
        protocol: "websocket",
        ..Way::PLAIN
    };
}

/// An invite and its frpc.
#[derive(Debug)]
pub struct Client {
    /// The invite.
    pub invite: String,
    /// Its running frpc.
    pub frpc: Process,
    /// frpc's run_id.
    pub run_id: String,
}

impl Client {
    /// Makes an invite with these limits, and starts its frpc; its proxies run when this returns.
    ///
    /// # Errors
    /// The invite is refused, or a proxy does not run in time.
    pub fn start(
        world: &World,
        name: &str,
        limits: Value,
        way: Way,
        proxies: &[Proxy],
    ) -> Result<Client> {
        let tenant = world.invite(name, limits).context("make an invite")?;
        Client::of(world, name, &tenant, way, proxies)
    }

    /// Starts the frpc of an invite that there is.
    ///
    /// # Errors
    /// A proxy does not run in time.
    pub fn of(
        world: &World,
        name: &str,
        tenant: &Tenant,
        way: Way,
        proxies: &[Proxy],
    ) -> Result<Client> {
        let text = text(tenant, way, proxies)?;
        let mut frpc = frpc::up(world, name, &text, proxies)?;
        let line = frpc.wait_line("get run id [", PATIENCE)?;
        let run_id = super::handmade::run_id(&line)?;
        Ok(Client {
            invite: tenant.invite.id.clone(),
            frpc,
            run_id,
        })
    }

    /// Revokes the invite.
    ///
    /// # Errors
    /// The control plane does not answer, or refuses.
    pub fn revoke(&self, world: &World) -> Result<()> {
        let lender = world.lender()?;
        lender.delete(&format!("/nodes/invites/{}", self.invite))
    }
}

/// An invite's id, and frpc's file for it.
pub(crate) fn file(
    world: &World,
    label: &str,
    limits: Value,
    way: Way,
    proxies: &[Proxy],
) -> Result<(String, String)> {
    let tenant = world.invite(label, limits).context("make an invite")?;
    let text = text(&tenant, way, proxies)?;
    Ok((tenant.invite.id, text))
}

/// frpc's file for an invite.
fn text(tenant: &Tenant, way: Way, proxies: &[Proxy]) -> Result<String> {
    let mut head = format!(
        "serverAddr = \"{}\"\nserverPort = {}\nuser = \"{}\"\nauth.method = \"oidc\"\n\
         auth.oidc.clientID = \"totoro\"\nauth.oidc.clientSecret = \"{}\"\n\
         auth.oidc.tokenEndpointURL = \"{CONTROL}/api/v1/oauth/token\"\n",
        way.server, way.port, tenant.invite.id, tenant.code
    );
    write!(
        head,
        "transport.protocol = \"{}\"\ntransport.tcpMux = {}\n",
        way.protocol, way.mux
    )?;
    Ok(frpc::with_proxies(&head, proxies))
}

/// Limits that are in nobody's way.
#[must_use]
pub fn ample() -> Value {
    json!({ "max_conns": 2000, "max_flows": 2000, "max_conns_per_source": 2000, "max_proxies": 4 })
}
