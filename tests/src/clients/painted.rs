//! How soon the pages with a thousand public nodes are painted, in a real browser, and what they weigh.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use totoro_browser::Browser;

use super::page::{PAGE, end, on_its_machine, serve};
use crate::hostile::world;
use crate::lab::NODE_USER_V4;
use crate::story::{CONTROL, World, bring_up};

/// Public nodes in the list.
pub const NODES: usize = 1000;

/// A page; a sample of each load.
#[derive(Clone, Debug)]
pub struct Painted {
    /// Which.
    pub page: &'static str,
    /// Until something was painted, ms.
    pub paint_ms: Vec<f64>,
    /// What all that it loads weighs, with nothing in the browser's cache, bytes.
    pub bytes: Vec<f64>,
}

/// Loads each page so often.
///
/// # Errors
/// The lab does not come up, or a page does not show the nodes.
pub fn play(loads: usize) -> Result<Vec<Painted>> {
    ensure!(loads > 0, "nothing is to be measured");
    let mut world = world("cl-painted", &[])?;
    many(&world)?;
    unprobed(&mut world)?;
    let (totoro, _) = serve(&world, "cl-painted-1", &[])?;
    let pages = [
        ("the control plane's", format!("{CONTROL}/?lang=en")),
        ("the client's", format!("{}/nodes?lang=en", PAGE)),
    ];
    let painted = on_its_machine(&world, async |browser| {
        let mut painted = Vec::new();
        for (page, url) in &pages {
            painted.push(one(browser, page, url, loads).await.context(*page)?);
        }
        Ok(painted)
    })?;
    end(totoro)?;
    Ok(painted)
}

/// Public nodes, which nobody runs: their doors refuse whoever measures the way to them.
fn many(world: &World) -> Result<()> {
    let admin = world.admin()?;
    for number in 0..NODES {
        let new = json!({
            "name": format!("tunnel-node-{number:04}"), "visibility": "public",
            "server_addr": [format!("{NODE_USER_V4}:9")],
            "pool": { "tcp": ["20000-20099"], "udp": ["20000-20099"] },
            "region": format!("region-{}", number % 20), "isp": format!("Carrier {}", number % 7),
            "tags": ["ipv6", "game"], "abuse_contact": "abuse@tunnels.example.org",
        });
        admin.post::<Value>("/admin/nodes", &new)?;
    }
    Ok(())
}

/// Starts the control plane again, as one that lists what it has not reached.
fn unprobed(world: &mut World) -> Result<()> {
    world.control.take().context("no control plane")?.stop();
    let path = world.lab.file("control/control.toml");
    let config = std::fs::read_to_string(&path)?;
    let (on, off) = ("probe = true", "probe = false");
    ensure!(config.contains(on), "no {on} in {}", path.display());
    std::fs::write(&path, config.replace(on, off))?;
    bring_up::serve(world)
}

async fn one(browser: &Browser, page: &'static str, url: &str, loads: usize) -> Result<Painted> {
    // The first answer of a server may have to be put together.
    browser.open(url).await?;
    let shown = browser.text("body").await?;
    ensure!(shown.contains("tunnel-node-0"), "no nodes in:\n{shown}");
    let (mut paints, mut weights) = (Vec::new(), Vec::new());
    for _ in 0..loads {
        browser.forget().await?;
        browser.open(url).await?;
        let paint = "const seen = performance.getEntriesByName('first-contentful-paint'); \
            return seen.length ? seen[0].startTime : null";
        browser
            .until(&format!("return (() => {{ {paint} }})() !== null"))
            .await?;
        let weight = "return ['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))\
            .reduce((sum, entry) => sum + entry.transferSize, 0)";
        let number = |value: Value| value.as_f64().context("no number");
        paints.push(number(browser.script(paint).await?)?);
        weights.push(number(browser.script(weight).await?)?);
    }
    Ok(Painted {
        page,
        paint_ms: paints,
        bytes: weights,
    })
}
