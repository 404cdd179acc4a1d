//! `frps-config`: what a stock frps needs to run under this node.

use anyhow::{Context, Result};
use serde::Serialize;
use totoro_api::ports::{Pool, PortRange, PortSet, Protocol};

use crate::config::Config;
use crate::{secret, tls};

/// frps's configuration file, as far as Totoro sets it (frp 0.70.1, `pkg/config/v1/server.go`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Frps {
    bind_port: u16,
    user_conn_timeout: u32,
    auth: Auth,
    allow_ports: Vec<Allowed>,
    transport: Transport,
    web_server: WebServer,
    log: Log,
    http_plugins: Vec<Plugin>,
}

#[derive(Debug, Serialize)]
struct Auth {
    method: &'static str,
    token: &'static str,
}

#[derive(Debug, Serialize)]
struct Allowed {
    start: u16,
    end: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Transport {
    tcp_mux: bool,
    tls: Tls,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tls {
    force: bool,
    cert_file: String,
    key_file: String,
}

#[derive(Debug, Serialize)]
struct WebServer {
    addr: String,
    port: u16,
    user: &'static str,
    password: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    to: &'static str,
    level: &'static str,
    disable_print_color: bool,
}

#[derive(Debug, Serialize)]
struct Plugin {
    name: &'static str,
    addr: String,
    path: &'static str,
    ops: [&'static str; 3],
}

/// The file's text. It has secrets in it.
pub(super) fn text(config: &Config, pool: &Pool) -> Result<String> {
    let both: PortSet = Protocol::ALL
        .iter()
        .flat_map(|protocol| pool.of(*protocol).ranges().iter().copied())
        .collect();
    let secret = secret::read(&config.plugin_secret_file)?;
    let file = |name| config.tls_dir.join(name).display().to_string();
    let frps = Frps {
        bind_port: config.frps_bind_port,
        user_conn_timeout: 10,
        // The plugin judges every Login. The token must stay empty: it is also the key of the
        // control connection's cipher.
        auth: Auth {
            method: "token",
            token: "",
        },
        allow_ports: both.ranges().iter().map(|&range| allowed(range)).collect(),
        transport: Transport {
            tcp_mux: config.frps_tcp_mux,
            tls: Tls {
                force: true,
                cert_file: file(tls::CERT),
                key_file: file(tls::KEY),
            },
        },
        web_server: WebServer {
            addr: config.frps_admin.ip().to_string(),
            port: config.frps_admin.port(),
            user: "totoro",
            password: secret::read(&config.frps_password_file)?,
        },
        log: Log {
            to: "console",
            level: "info",
            disable_print_color: true,
        },
        // These three only: with Ping, NewWorkConn or NewUserConn a dead daemon would end every
        // session and every new user connection.
        http_plugins: vec![Plugin {
            name: "totoro",
            addr: format!("http://totoro:{secret}@{}", config.plugin_listen),
            path: "/frps",
            ops: ["Login", "NewProxy", "CloseProxy"],
        }],
    };
    let body = toml::to_string(&frps).context("write frps's configuration")?;
    Ok(format!(
        "# Made by `totoro-node frps-config`. It has secrets in it: mode 0600.\n\
         # Run frps with the environment GODEBUG=multipathtcp=0: MPTCP escapes the counts.\n{body}"
    ))
}

const fn allowed(range: PortRange) -> Allowed {
    Allowed {
        start: range.first(),
        end: range.last(),
    }
}
