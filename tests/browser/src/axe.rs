//! axe-core.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use thirtyfour::WebDriver;

/// Where its script is.
const SCRIPT: &str = "TOTORO_AXE";

/// What it finds on a page, one line each.
pub(crate) async fn barriers(page: &WebDriver) -> Result<Vec<String>> {
    let path = std::env::var_os(SCRIPT).map(PathBuf::from);
    let path =
        path.with_context(|| format!("{SCRIPT} names axe-core: cargo xtask test sets it"))?;
    let axe = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    // Once for each page: it is large.
    let there = page.execute("return 'axe' in window", Vec::new()).await?;
    if there.json() != &serde_json::json!(true) {
        page.execute(axe, Vec::new())
            .await
            .context("load axe-core")?;
    }
    let script = "const done = arguments[arguments.length - 1];
         axe.run(document, { resultTypes: ['violations'] }).then(
           (found) => done(found.violations.flatMap((rule) => rule.nodes.map((node) =>
             `${rule.id} (${rule.impact}): ${node.target}: ${node.failureSummary}`))),
           (error) => done([`axe failed: ${error}`]))";
    let found = page
        .execute_async(script, Vec::new())
        .await
        .context("run axe-core")?;
    let found = found.json().as_array().context("a list")?.clone();
    Ok(found
        .iter()
        .map(|line| line.as_str().unwrap_or("?").to_owned())
        .collect())
}
