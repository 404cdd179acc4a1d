//! Anonymous visitors of the node, whose connections are counted under a ceiling of all of them together, too.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use totoro_tests::api::Api;
use totoro_tests::lab::{Place, Process};
use totoro_tests::story::World;
use totoro_tests::story::frpc::{self, Proxy};

/// What all anonymous visitors may have together, and what each may: less than two of that.
pub(super) const CEILING: u32 = 100;
pub(super) const VISITOR: u32 = 80;

/// Has the node take visitors, and no more connections of all of them together than the ceiling.
///
/// # Errors
/// The control plane does not answer, or refuses.
pub(super) fn open(world: &World, invited: &str, node: &str) -> Result<()> {
    let token = std::fs::read_to_string(world.lab.file("control/admin.token"))?;
    let endpoint = invited
        .lines()
        .find(|line| line.contains("tokenEndpointURL"));
    let endpoint = endpoint.and_then(|line| line.split('"').nth(1)?.split("/api/").next());
    let base = endpoint.context("frpc's file names no control plane")?;
    let admin = Api::new(world.lab.ns(Place::Client), base, Some(token.trim()))?;
    let limits = json!({ "max_conns": VISITOR, "max_conns_per_source": VISITOR, "conn_rate": 100_000,
        "max_proxies": 1, "max_clients": 1 });
    let change = json!({ "public_limits": limits, "public_max": { "conns": CEILING } });
    admin.patch::<Value>(&format!("/admin/nodes/{node}"), &change)?;
    Ok(())
}

/// Starts a visitor's frpc from an address of its machine: an invite's file without the invite.
///
/// # Errors
/// Its proxy does not run in time.
pub(super) fn visitor(
    world: &World,
    invited: &str,
    node: &str,
    from: &str,
    proxies: &[Proxy],
) -> Result<Process> {
    let lines = invited.split("[[proxies]]").next().unwrap_or_default();
    let own = ["user = ", "auth.oidc.clientSecret = ", "log."];
    let lines = lines
        .lines()
        .filter(|line| !own.iter().any(|own| line.starts_with(own)));
    let mut head: String = lines.map(|line| format!("{line}\n")).collect();
    // Names of proxies have it in them, and are one tenant's.
    let name = format!("visitor-{}", from.replace('.', "-"));
    head.push_str(&format!(
        "user = \"{name}\"\nauth.oidc.clientSecret = \"public:{node}\"\n\
         transport.connectServerLocalIP = \"{from}\"\n"
    ));
    let file = world.lab.file(&format!("other/{name}.toml"));
    std::fs::write(&file, frpc::with_proxies(&head, proxies))?;
    let mut command = world.lab.command(&world.lab.tools.frpc);
    command.arg("-c").arg(file);
    let mut process = world.lab.start(Place::Client, &name, command)?;
    process.wait_line("start proxy success", frpc::PATIENCE)?;
    Ok(process)
}
