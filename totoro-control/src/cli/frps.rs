//! `node enroll-callback` and `node frps-config`: a stock frps without our daemon.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use totoro_api::wire::node::{Enroll, Enrolled, Node, NodeCreated};
use totoro_cli::{out, print_json};

use super::CliError;
use super::client::{Client, in_path};
use crate::app::callback::Door;
use crate::keys::{TokenKind, create_secret, random_hex, read_secret};

#[derive(Args)]
pub(super) struct EnrollCallback {
    /// Its id or name.
    node: String,
    /// Where to write the node's key, mode 0600; must not be there yet.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Take the node over from what lives there now: its key opens nothing from then on.
    #[arg(long)]
    replace: bool,
}

#[derive(Args)]
pub(super) struct FrpsConfig {
    /// Its id or name.
    node: String,
    /// The file with the node's key, mode 0600.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Where that frps reaches the control plane; without it, as this command does.
    #[arg(long, env = "TOTORO_CONTROL", value_name = "URL")]
    control: Option<String>,
}

/// What `enroll-callback --json` prints.
#[derive(Serialize)]
struct Made<'a> {
    node: &'a str,
    key_file: &'a Path,
}

impl EnrollCallback {
    /// Makes a key, and enrols the node with it by a token of its own.
    pub(super) async fn run(&self, client: &Client, as_json: bool) -> Result<(), CliError> {
        let node: Node = client
            .get(&format!("/admin/nodes/{}", in_path(&self.node)?))
            .await?;
        if node.live && !self.replace {
            return Err(CliError::Failed(taken(&node)));
        }
        let key = TokenKind::NodeKey.generate();
        // Kept before it is shown: an answer that is lost loses no key.
        create_secret(&self.key_file, format!("{key}\n").as_bytes())?;
        let enrolled = enrol(client, &node.id, &key).await;
        if let Err(CliError::Refused(_)) = enrolled {
            // It was certainly not taken.
            let _ = std::fs::remove_file(&self.key_file);
        }
        enrolled?;
        if as_json {
            return Ok(print_json(&Made {
                node: &node.id,
                key_file: &self.key_file,
            })?);
        }
        let file = self.key_file.display();
        out::line(format_args!("node    {} ({})", node.id, node.name))?;
        out::line(format_args!("key     in {file}, mode 0600: a secret"))?;
        out::line("next    add what this prints to frps's file, which it makes a secret:")?;
        out::line(format_args!(
            "        totoro-control node frps-config {} --key-file {file} --control https://…",
            node.name
        ))?;
        Ok(())
    }
}

/// Why a node that lives is left alone. A daemon's machine takes a node over by a token that somebody made
/// for it; here a name is all it takes, and a wrong one would lock another machine out.
fn taken(node: &Node) -> String {
    let Node { name, id, .. } = node;
    let heard = match node.seen_s {
        Some(seconds) => format!("was heard of {seconds} s ago"),
        None => "may live: the control plane has just started, and gives it time".to_owned(),
    };
    format!(
        "conflict: node {name} ({id}) {heard}; enrolled anew, its key would open nothing any more\n  \
         next: stop what runs there and try again when it has missed three reports, or take the node \
         over with --replace"
    )
}

async fn enrol(client: &Client, node: &str, key: &str) -> Result<Enrolled, CliError> {
    let path = format!("/admin/nodes/{node}/token");
    let made: NodeCreated = client.post(&path, &(), &[]).await?;
    let enroll = Enroll {
        key_hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        instance: random_hex::<16>(),
        callback: true,
    };
    client
        .with_token(made.token)
        .post("/nodes/enroll", &enroll, &[])
        .await
}

impl FrpsConfig {
    /// Prints the blocks. They hold the key, so they belong into a file of mode 0600.
    pub(super) async fn run(&self, client: &Client, api: &str) -> Result<(), CliError> {
        let node: Node = client
            .get(&format!("/admin/nodes/{}", in_path(&self.node)?))
            .await?;
        let key = String::from_utf8_lossy(&read_secret(&self.key_file)?)
            .trim()
            .to_owned();
        if !TokenKind::NodeKey.fits(&key) {
            let file = self.key_file.display();
            let problem = format!("{file} holds no node key: name the file of enroll-callback");
            return Err(CliError::Usage(problem));
        }
        let control = self.control.as_deref().unwrap_or(api);
        Ok(out::text(&blocks(&node, &key, control)?)?)
    }
}

/// One `[[httpPlugins]]` block (frp 0.70.1, `pkg/config/v1/server.go`).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    name: &'static str,
    addr: String,
    path: &'static str,
    ops: [&'static str; 3],
    tls_verify: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugins {
    http_plugins: [Plugin; 2],
}

/// The two blocks, and what the rest of the file must say.
fn blocks(node: &Node, key: &str, control: &str) -> Result<String, CliError> {
    let control = control.trim_end_matches('/');
    let Some((scheme @ ("https" | "http"), host)) = control.split_once("://") else {
        return Err(CliError::Usage(format!(
            "--control {control}: write https://HOST or http://HOST:PORT"
        )));
    };
    // frp appends `path` to `addr` as text, and takes the userinfo for a Basic header.
    let plugin = |name, path, door: Door| Plugin {
        name,
        addr: format!("{scheme}://{}:{key}@{host}", node.id),
        path,
        ops: door.ops(),
        tls_verify: scheme == "https",
    };
    let plugins = Plugins {
        http_plugins: [
            plugin(
                "totoro-handshake",
                "/api/v1/frps/auth/handshake",
                Door::Handshake,
            ),
            plugin("totoro-proxy", "/api/v1/frps/auth/proxy", Door::Proxy),
        ],
    };
    let failed = |error| CliError::Failed(format!("cannot write TOML: {error}"));
    let blocks = toml::to_string(&plugins).map_err(failed)?;
    let mut text = String::from(
        "# The key of this node is in here: keep the file at mode 0600.\n\
         # These belong at the end of frps's file, which must say above them:\n\
         #   auth.token = \"\"                      (the control plane judges every login)\n\
         #   transport.tls.force = true\n\
         #   transport.heartbeatTimeout = 90      (its clients ping)\n",
    );
    for (protocol, ports) in [("tcp", &node.pool.tcp), ("udp", &node.pool.udp)] {
        // Nothing is to be lent here that frps would refuse.
        let _ = writeln!(text, "#   allowPorts with all of {ports} ({protocol})");
    }
    if scheme == "http" {
        text.push_str("# Plain HTTP: whoever is on the way reads the key. Only for one machine.\n");
    }
    text.push('\n');
    text.push_str(&blocks);
    Ok(text)
}
