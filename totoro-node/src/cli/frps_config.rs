//! `frps-config`: what a stock frps needs to run under this node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use totoro_api::ports::{Pool, PortRange, PortSet, Protocol};
use totoro_cli::{out, print_json};

use crate::config::Config;
use crate::{secret, tls};

/// Options of `frps-config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  totoro-node frps-config --out /etc/totoro/frps.toml
  totoro-node frps-config --json | jq .allowPorts

With --json the configuration itself is JSON, which frps reads as well. With --out too, the file
is TOML all the same, since `check` compares it, and what is printed says where it is, without a
secret.")]
pub(super) struct Args {
    /// Write it to this file (0600) instead.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Where the configuration was written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    written: &'a Path,
    pool: &'a Pool,
}

/// Prints the configuration for this pool, or writes it.
pub(super) fn run(config: &Config, pool: &Pool, args: &Args, as_json: bool) -> Result<()> {
    let Some(path) = &args.out else {
        if as_json {
            return Ok(print_json(&frps(config, pool)?)?);
        }
        return Ok(out::text(&text(config, pool)?)?);
    };
    secret::write(path, &text(config, pool)?)?;
    if as_json {
        let written = path.as_path();
        return Ok(print_json(&Written { written, pool })?);
    }
    out::line(format_args!(
        "written to {}; restart frps with it",
        path.display()
    ))?;
    Ok(())
}

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
    let body = toml::to_string(&frps(config, pool)?).context("write frps's configuration")?;
    Ok(format!(
        "# Made by `totoro-node frps-config`. It has secrets in it: mode 0600.\n\
         # Run frps with the environment GODEBUG=multipathtcp=0: MPTCP escapes the counts.\n{body}"
    ))
}

fn frps(config: &Config, pool: &Pool) -> Result<Frps> {
    let both: PortSet = Protocol::ALL
        .iter()
        .flat_map(|protocol| pool.of(*protocol).ranges().iter().copied())
        .collect();
    let secret = secret::read(&config.plugin_secret_file)?;
    let file = |name| config.tls_dir.join(name).display().to_string();
    Ok(Frps {
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
    })
}

const fn allowed(range: PortRange) -> Allowed {
    Allowed {
        start: range.first(),
        end: range.last(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn as_json_it_says_what_the_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Config::unenrolled(&dir.path().join("node.toml"), Settings::default()).unwrap();
        for path in [&config.plugin_secret_file, &config.frps_password_file] {
            secret::write(path, "hush").unwrap();
        }
        let pool = Pool {
            tcp: "20000-20009".parse().unwrap(),
            ..Pool::default()
        };
        let json = serde_json::to_value(frps(&config, &pool).unwrap()).unwrap();
        let file: serde_json::Value = toml::from_str(&text(&config, &pool).unwrap()).unwrap();
        assert_eq!(json, file);
        assert_eq!(json["allowPorts"][0]["start"], 20_000);
        let written = Written {
            written: dir.path(),
            pool: &pool,
        };
        let told = serde_json::to_string(&written).unwrap();
        assert!(
            told.contains("20000-20009") && !told.contains("hush"),
            "{told}"
        );
    }
}
