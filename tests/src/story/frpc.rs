//! Stock frpc: its files, starting it, and what it says.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use totoro_api::Reason;

use super::world::{FRPS_PORT, World};
use crate::lab::{NODE_CLIENT_V4, Place, Process};

/// How long frpc may take to say something.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One `[[proxies]]` block.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its name.
    pub name: String,
    /// `tcp`, `udp`, …
    pub kind: &'static str,
    /// The service's port on the client's loopback.
    pub local: u16,
    /// The public port; 0 = the node chooses.
    pub remote: u16,
}

impl Proxy {
    /// A tunnel to a port of the client's loopback.
    #[must_use]
    pub fn new(name: &str, kind: &'static str, local: u16, remote: u16) -> Proxy {
        Proxy {
            name: name.to_owned(),
            kind,
            local,
            remote,
        }
    }
}

/// The generated file with these proxies in place of its example.
#[must_use]
pub fn with_proxies(generated: &str, proxies: &[Proxy]) -> String {
    let head = generated.split("[[proxies]]").next().unwrap_or_default();
    let mut text = format!("log.disablePrintColor = true\n{head}\n");
    for Proxy {
        name,
        kind,
        local,
        remote,
    } in proxies
    {
        write!(text, "[[proxies]]\nname = \"{name}\"\ntype = \"{kind}\"\n").ok();
        write!(text, "localIP = \"127.0.0.1\"\nlocalPort = {local}\n").ok();
        if matches!(*kind, "tcp" | "udp") {
            writeln!(text, "remotePort = {remote}").ok();
        } else {
            writeln!(text, "secretKey = \"s\"").ok();
        }
    }
    text
}

/// A file that carries a ticket by hand, as metadata.
pub(crate) fn with_ticket(user: &str, ticket: &str, more: &str, proxies: &[Proxy]) -> String {
    let head = format!(
        "serverAddr = \"{NODE_CLIENT_V4}\"\nserverPort = {FRPS_PORT}\nuser = \"{user}\"\n\
         auth.method = \"token\"\nmetadatas.totoro_ticket = \"{ticket}\"\n{more}\n"
    );
    with_proxies(&head, proxies)
}

/// Starts frpc on a file's text.
pub(crate) fn start(world: &World, name: &str, text: &str) -> Result<Process> {
    start_release(world, &world.lab.tools.frpc, name, text)
}

/// The same with one release of frpc.
pub(crate) fn start_release(world: &World, frpc: &Path, name: &str, text: &str) -> Result<Process> {
    let path = world.write_secret(&format!("{name}.toml"), text)?;
    let mut command = world.lab.command(frpc);
    command.arg("-c").arg(path);
    world.lab.start(Place::Client, name, command)
}

/// Starts frpc and waits until every proxy runs.
///
/// # Errors
/// It does not start, or a proxy does not run in time.
pub fn up(world: &World, name: &str, text: &str, proxies: &[Proxy]) -> Result<Process> {
    // The log outlives a restart of the same name, so only what is new counts.
    let mark = world
        .lab
        .file(&format!("{name}.log"))
        .metadata()
        .map_or(0, |meta| meta.len());
    let mut frpc = start(world, name, text)?;
    for proxy in proxies {
        frpc.wait_after(
            mark,
            &format!("{}] start proxy success", proxy.name),
            PATIENCE,
        )?;
    }
    Ok(frpc)
}

/// Starts frpc, whose login must be refused; what it says about that.
pub(crate) fn login_refused(
    world: &World,
    name: &str,
    text: &str,
    reason: Reason,
) -> Result<String> {
    let mut frpc = start(world, name, text)?;
    let line = frpc.wait_line("totoro[", PATIENCE)?;
    let said = said(&line, reason)?;
    let status = frpc.wait_exit(PATIENCE)?;
    ensure!(!status.success(), "frpc took the refusal for success");
    Ok(said)
}

/// Waits for one proxy's refusal in a running frpc's log; what it says.
pub(crate) fn proxy_refused(
    frpc: &mut Process,
    mark: u64,
    name: &str,
    reason: Reason,
) -> Result<String> {
    let line = frpc.wait_after(mark, &format!("{name}] start error"), PATIENCE)?;
    said(&line, reason)
}

/// The refusal in a line of frpc's log, which must be for this reason and name a next step.
pub(crate) fn said(line: &str, reason: Reason) -> Result<String> {
    let at = line
        .find("totoro[")
        .with_context(|| format!("no reason in {line:?}"))?;
    let said = &line[at..];
    if !said.starts_with(&format!("totoro[{reason}]")) {
        bail!("not {reason} but {said:?}");
    }
    ensure!(said.contains("; "), "no next step in {said:?}");
    // What frpc itself puts around it: an ending, and the quotes of its OAuth library.
    let ours = said.split(". With loginFailExit").next().unwrap_or(said);
    Ok(ours.trim_end_matches(['"', '\n']).to_owned())
}
