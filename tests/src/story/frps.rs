//! What frps is started with, as its unit has it; and what it says of its proxies.

use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::World;
use crate::lab::Place;

const UNIT: &str = include_str!("../../../deploy/totoro-frps.service");

/// The variables of its environment.
pub fn environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    UNIT.lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .flat_map(str::split_whitespace)
        .filter_map(|one| one.split_once('='))
}

#[derive(Deserialize)]
struct Proxies {
    #[serde(default)]
    proxies: Vec<Value>,
}

/// frps's proxies of a protocol that are online, as its admin API tells of them.
pub(crate) fn live_proxies(world: &World, protocol: &str) -> Result<Vec<Value>> {
    let password = fs::read_to_string(world.lab.file("node/frps-admin.password"))
        .context("the password of frps's admin API")?;
    world.lab.ns(Place::Node).run(|| {
        let client = reqwest::blocking::Client::builder().no_proxy().build()?;
        let url = format!("http://127.0.0.1:7500/api/proxy/{protocol}");
        let asked = client.get(url).basic_auth("totoro", Some(password.trim()));
        let text = asked.send()?.error_for_status()?.text()?;
        let mut answer: Proxies = serde_json::from_str(&text)?;
        answer.proxies.retain(|one| one["status"] == "online");
        Ok(answer.proxies)
    })
}
