//! Anonymous visitors of the node, whose connections are counted under a ceiling of all of them together, too.

use anyhow::Result;
use serde_json::{Value, json};
use totoro_tests::lab::Process;
use totoro_tests::story::frpc::{self, Proxy};
use totoro_tests::story::{World, public};

/// What all anonymous visitors may have together, and what each may: less than two of that.
pub(super) const CEILING: u32 = 100;
pub(super) const VISITOR: u32 = 80;

/// Has the node take visitors, and no more connections of all of them together than the ceiling.
///
/// # Errors
/// The control plane does not answer, or refuses.
pub(super) fn open(world: &World) -> Result<()> {
    let limits = json!({ "max_conns": VISITOR, "max_conns_per_source": VISITOR, "conn_rate": 100_000,
        "max_proxies": 1, "max_clients": 1 });
    let change = json!({ "public_limits": limits, "public_max": { "conns": CEILING } });
    let node = format!("/admin/nodes/{}", world.node_id);
    world.admin()?.patch::<Value>(&node, &change).map(drop)
}

/// Starts a visitor's frpc from an address of its machine.
///
/// # Errors
/// Its proxy does not run in time.
pub(super) fn visitor(world: &World, from: &str, proxies: &[Proxy]) -> Result<Process> {
    // Names of proxies have the user's in them, and are one tenant's.
    let name = format!("visitor-{}", from.replace('.', "-"));
    let text = public::file(world, &name, proxies);
    let text = format!("transport.connectServerLocalIP = \"{from}\"\n{text}");
    frpc::up(world, &name, &text, proxies)
}
