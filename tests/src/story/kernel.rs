//! What the node's maps and links say, with or without its daemon.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::world::World;

/// Leases as the maps have them.
pub(super) fn leases(world: &World) -> Result<Vec<Value>> {
    let ports = world.inspect("ports")?;
    Ok(ports
        .iter()
        .map(|row| json!([row["proto"], row["port"], row["lease"]]))
        .collect())
}

/// The ids of the pinned links, by name.
pub(super) fn links(world: &World) -> Result<Vec<Value>> {
    let dir = world.lab.pin_root().join("v1/links");
    let mut pins: Vec<_> = std::fs::read_dir(&dir)
        .context("the links")?
        .map(|pin| Ok(pin?.path()))
        .collect::<Result<_>>()?;
    pins.sort();
    let id = |path| -> Result<Value> {
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["-j", "link", "show", "pinned"]).arg(path);
        let said = bpftool.output().context("run bpftool")?.stdout;
        let link: Value = serde_json::from_slice(&said).context("read what bpftool said")?;
        Ok(json!([path, link["id"]]))
    };
    pins.iter().map(id).collect()
}

/// A figure of a port, as the maps have it.
pub(crate) fn figure(world: &World, port: u16, what: &str) -> Result<u64> {
    let ports = world.inspect("ports")?;
    let row = ports.iter().find(|row| row["port"] == port);
    let row = row.with_context(|| format!("{port} is not leased"))?;
    row[what]
        .as_u64()
        .with_context(|| format!("no {what} in {row}"))
}
