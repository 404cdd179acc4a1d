//! Tenants of a hostile lab: an invite, and a stock frpc that uses it.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::{NODE_CLIENT_V4, NODE_USER_V4, Process};
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::{CONTROL, FRPS_PORT, World};

/// Where users come.
pub(crate) const USERS_DOOR: &str = NODE_USER_V4;

/// How frpc reaches frps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// frps's address.
    pub(crate) server: &'static str,
    /// frpc's `transport.protocol`.
    pub(crate) protocol: &'static str,
    /// frps's port for it.
    pub(crate) port: u16,
    /// `transport.tcpMux`.
    pub(crate) mux: bool,
}

impl Way {
    /// As frpc does without being told.
    pub(crate) const PLAIN: Way = Way {
        server: NODE_CLIENT_V4,
        protocol: "tcp",
        port: FRPS_PORT,
        mux: true,
    };
    /// By `transport.protocol = "websocket"`, with TLS inside it.
    pub(crate) const WEBSOCKET: Way = Way {
        protocol: "websocket",
        ..Way::PLAIN
    };
}

/// An invite and its frpc.
pub(crate) struct Client {
    /// The invite.
    pub(crate) invite: String,
    /// Its running frpc.
    pub(crate) frpc: Process,
    /// frpc's run_id.
    pub(crate) run_id: String,
}

impl Client {
    /// Makes an invite with these limits, and starts its frpc; its proxies run when this returns.
    pub(crate) fn start(
        world: &World,
        name: &str,
        limits: Value,
        way: Way,
        proxies: &[Proxy],
    ) -> Result<Client> {
        let (invite, text) = file(world, name, limits, way, proxies)?;
        let mut frpc = frpc::up(world, name, &text, proxies)?;
        let line = frpc.wait_line("get run id [", PATIENCE)?;
        let run_id = super::handmade::run_id(&line)?;
        Ok(Client {
            invite,
            frpc,
            run_id,
        })
    }

    /// Revokes the invite.
    pub(crate) fn revoke(&self, world: &World) -> Result<()> {
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
    Ok((tenant.invite.id, frpc::with_proxies(&head, proxies)))
}

/// Limits that are in nobody's way.
pub(crate) fn ample() -> Value {
    json!({ "max_conns": 2000, "max_flows": 2000, "max_conns_per_source": 2000, "max_proxies": 4 })
}
