//! `enroll`: a one-time token becomes a node with a key of its own making.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use totoro_api::wire::node::{Enroll, Enrolled};
use totoro_cli::out;

use crate::config::{Settings, check_control};
use crate::control::Control;
use crate::{secret, tls};

/// Options of `enroll`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where node.toml and the secrets go.
    #[arg(long, default_value = "/etc/totoro")]
    dir: PathBuf,
    /// The file with the one-time token; else TOTORO_TOKEN, else standard input.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

/// Enrols this machine.
pub(super) async fn run(args: &Args, given: Settings) -> Result<()> {
    let control = given
        .control
        .clone()
        .context("--control https://… names the control plane")?;
    let control = check_control(&control, given.insecure_http.unwrap_or(false))?;
    let file = args.dir.join("node.toml");
    if file.exists() {
        bail!(
            "{} is there already; this machine is enrolled. To enrol anew, move it away",
            file.display()
        );
    }
    let token = secret::from_env_file_or_stdin("TOTORO_TOKEN", args.token_file.as_deref())?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;

    // Kept before it is shown: when the answer gets lost, the same token with the same key works.
    let key = once(&args.dir.join("node.key"), || {
        format!("tk1-{}", secret::random_text())
    })?;
    let instance = once(&args.dir.join("instance"), secret::random_hex)?;
    let body = Enroll {
        key_hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        instance,
        callback: false,
    };
    let enrolled: Enrolled = Control::new(&control, &token)?
        .post("/nodes/enroll", &body)
        .await?;

    once(&args.dir.join("plugin.secret"), secret::random_text)?;
    once(&args.dir.join("frps-admin.password"), secret::random_text)?;
    tls::make(&args.dir.join("tls"), &enrolled.node, &enrolled.server_addr)?;
    let settings = Settings {
        control: Some(control),
        node: Some(enrolled.node.clone()),
        pool: Some(enrolled.pool.clone()),
        server_addr: Some(enrolled.server_addr.clone()),
        ..given
    };
    // Last: with it the machine counts as enrolled.
    let text = toml::to_string(&settings).context("write node.toml")?;
    secret::write(&file, &text)?;
    out::line(format_args!(
        "node {} ({}) is enrolled; settings and secrets are in {}",
        enrolled.name,
        enrolled.node,
        args.dir.display()
    ))?;
    out::line(format_args!(
        "next: totoro-node check --config {0}; totoro-node frps-config --config {0} --out {1}; totoro-node run --config {0}",
        file.display(),
        args.dir.join("frps.toml").display()
    ))?;
    Ok(())
}

/// The secret of a file; made on the first call, the same ever after.
fn once(path: &Path, make: impl FnOnce() -> String) -> Result<String> {
    if !path.exists() {
        secret::write(path, &make())?;
    }
    secret::read(path)
}
