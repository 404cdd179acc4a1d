//! `enroll`: a one-time token becomes a node with a key of its own making.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use totoro_api::ports::Pool;
use totoro_api::wire::node::{Enroll, Enrolled};
use totoro_cli::{out, print_json};

use crate::config::{Config, Settings};
use crate::control::Control;
use crate::{secret, tls};

/// Options of `enroll`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where node.toml goes, and every secret that no option puts elsewhere [default: where --config is].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The file with the one-time token; else TOTORO_TOKEN, else standard input.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

/// What an enrolment made. No secret is in it: where they are is.
#[derive(Debug, Serialize)]
struct Done {
    /// The node's id.
    node: String,
    name: String,
    /// The control plane's address.
    control: String,
    server_addr: Vec<String>,
    pool: Pool,
    /// Every file that was written, the settings last; by an attempt before, where its answer got lost.
    files: Vec<PathBuf>,
}

/// Enrols this machine, and says what it is now.
pub(super) async fn run(
    args: &Args,
    settings: &Path,
    given: Settings,
    as_json: bool,
) -> Result<()> {
    let beside = settings.parent().unwrap_or(Path::new("."));
    let dir = args.dir.as_deref().unwrap_or(beside);
    let done = enrol(dir, args.token_file.as_deref(), given).await?;
    if as_json {
        return Ok(print_json(&done)?);
    }
    out::line(format_args!(
        "node {} ({}) is enrolled; its settings are in {}, its secrets beside them or where they say",
        done.name,
        done.node,
        dir.join("node.toml").display()
    ))?;
    out::line(format_args!(
        "next: totoro-node check --config {0}; totoro-node frps-config --config {0} --out {1}; totoro-node run --config {0}",
        dir.join("node.toml").display(),
        dir.join("frps.toml").display()
    ))?;
    Ok(())
}

async fn enrol(dir: &Path, token_file: Option<&Path>, given: Settings) -> Result<Done> {
    ensure!(
        given.control.is_some(),
        "--control https://… names the control plane"
    );
    let file = dir.join("node.toml");
    if file.exists() {
        bail!(
            "{} is there already; this machine is enrolled. To enrol anew, move it away",
            file.display()
        );
    }
    // What cannot hold is refused before the token is spent, and secrets go where `run` will look for them.
    let config = Config::unenrolled(&file, given.clone())?;
    let token = secret::from_env_file_or_stdin("TOTORO_TOKEN", token_file)?;
    let instance_file = config.key_file.with_file_name("instance");
    make_dir(dir)?;
    let mut files = Vec::new();
    // The secret of a file; made on the first call, the same ever after.
    let mut once = |path: &Path, make: &dyn Fn() -> String| {
        if !path.exists() {
            path.parent().map_or(Ok(()), make_dir)?;
            secret::write(path, &make())?;
        }
        files.push(path.to_owned());
        secret::read(path)
    };
    // Kept before it is shown: when the answer gets lost, the same token with the same key works.
    let key = once(&config.key_file, &|| {
        format!("tk1-{}", secret::random_text())
    })?;
    let instance = once(&instance_file, &secret::random_hex)?;
    once(&config.plugin_secret_file, &secret::random_text)?;
    once(&config.frps_password_file, &secret::random_text)?;
    let body = Enroll {
        key_hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        instance,
        callback: false,
    };
    let control = config.control;
    let enrolled: Enrolled = Control::new(&control, &token)?
        .post("/nodes/enroll", &body)
        .await?;

    let tls = config.tls_dir;
    tls::make(&tls, &enrolled.node, &enrolled.server_addr)?;
    files.extend([tls::CA_KEY, tls::CA, tls::KEY, tls::CERT].map(|name| tls.join(name)));
    let settings = Settings {
        control: Some(control.clone()),
        node: Some(enrolled.node.clone()),
        pool: Some(enrolled.pool.clone()),
        server_addr: Some(enrolled.server_addr.clone()),
        ..given
    };
    // Last: with it the machine counts as enrolled.
    let text = toml::to_string(&settings).context("write node.toml")?;
    secret::write(&file, &text)?;
    files.push(std::path::absolute(file).context("find node.toml")?);
    Ok(Done {
        node: enrolled.node,
        name: enrolled.name,
        control,
        server_addr: enrolled.server_addr,
        pool: enrolled.pool,
        files,
    })
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The address of a control plane that answers so, once.
    async fn control(answer: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let length = answer.len();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
            let whole = format!("{head}\r\ncontent-length: {length}\r\n\r\n{answer}");
            stream.write_all(whole.as_bytes()).await.unwrap();
        });
        format!("http://{address}")
    }

    const ANSWER: &str = r#"{"node": "nod_1", "name": "one", "pool": {"tcp": ["20000-20009"], "udp": []},
        "server_addr": ["one.example.org:7000"]}"#;

    /// A token's file, and the settings for a control plane that is asked once.
    async fn given(place: &Path) -> (PathBuf, Settings) {
        let token = place.join("token");
        secret::write(&token, "one-time").unwrap();
        let given = Settings {
            control: Some(control(ANSWER).await),
            insecure_http: Some(true),
            ..Settings::default()
        };
        (token, given)
    }

    #[tokio::test]
    async fn secrets_are_where_the_settings_say_that_they_are() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let (token, given) = given(place.path()).await;
        let given = Settings {
            key_file: Some(at("keys/of/node")),
            plugin_secret_file: Some(at("plugin")),
            // As in node.toml: beside it.
            frps_password_file: Some("passwords/frps".into()),
            tls_dir: Some(at("pems")),
            ..given
        };
        let dir = at("node");
        let done = enrol(&dir, Some(&token), given).await.unwrap();
        let config = Config::load(&dir.join("node.toml"), Settings::default()).unwrap();
        for (is, wanted) in [
            (&config.key_file, at("keys/of/node")),
            (&config.plugin_secret_file, at("plugin")),
            (&config.frps_password_file, at("node/passwords/frps")),
            (&config.tls_dir, at("pems")),
        ] {
            assert_eq!(*is, wanted);
        }
        crate::cli::check::require_secrets(&config).unwrap();
        secret::read(&at("keys/of/instance")).unwrap();
        let there: Vec<_> = fs::read_dir(&dir).unwrap().flatten().collect();
        let names: Vec<_> = there.iter().map(|entry| entry.file_name()).collect();
        assert_eq!(names.len(), 2, "node.toml and passwords: {names:?}");
        assert!(done.files.iter().all(|path| path.is_file()));
        assert!(done.files.contains(&at("pems/frps.key")));
    }

    #[tokio::test]
    async fn settings_that_cannot_hold_spend_no_token() {
        let place = tempfile::tempdir().unwrap();
        let given = Settings {
            control: Some("https://control.invalid".to_owned()),
            plugin_listen: Some(([192, 0, 2, 1], 988).into()),
            ..Settings::default()
        };
        let token = place.path().join("token");
        secret::write(&token, "one-time").unwrap();
        let dir = place.path().join("node");
        let error = enrol(&dir, Some(&token), given).await.unwrap_err();
        assert!(error.to_string().contains("plugin_listen"), "{error:#}");
        assert!(!dir.exists());
    }

    #[tokio::test]
    async fn an_enrolment_is_told_whole_and_without_a_secret() {
        let place = tempfile::tempdir().unwrap();
        let (token, given) = given(place.path()).await;
        let control = given.control.clone().unwrap();
        let dir = place.path().join("node");
        let done = enrol(&dir, Some(&token), given).await.unwrap();
        let told = serde_json::to_value(&done).unwrap();
        assert_eq!(told["node"], "nod_1");
        assert_eq!(told["control"], control);
        assert_eq!(told["pool"]["tcp"][0], "20000-20009");
        // Every file of the directory, and no other.
        let tls = dir.join("tls");
        let mut there: Vec<PathBuf> = [&dir, &tls]
            .into_iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        there.sort();
        assert_eq!(done.files.last(), Some(&dir.join("node.toml")));
        let mut listed = done.files.clone();
        listed.sort();
        assert_eq!(listed, there);
        // What they hold is not told.
        let text = told.to_string();
        for name in [
            "node.key",
            "instance",
            "plugin.secret",
            "frps-admin.password",
        ] {
            let kept = secret::read(&dir.join(name)).unwrap();
            assert!(!text.contains(kept.trim()), "{name}: {text}");
        }
        assert!(
            !text.contains("one-time") && !text.contains("PRIVATE"),
            "{text}"
        );
    }
}
