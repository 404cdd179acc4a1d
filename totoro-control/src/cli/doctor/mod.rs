//! `doctor`: whether an installation is fit to serve. Works beside a running server and on a
//! stopped one; looks, and changes nothing.

mod exposure;
mod live;
mod local;
mod trail;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use totoro_cli::{Table, print_json};

use super::CliError;
use crate::config::{Config, Settings};

/// Check an installation: settings, modes, disk, store, audit trail, keys, ports, TLS, last backup.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control doctor --config /etc/totoro/control/control.toml
  totoro-control doctor --config ./lab/control.toml --json

Looks only. Beside a running server, which holds the store, it asks its API, with the admin.token
beside the settings, TOTORO_TOKEN_FILE or TOTORO_TOKEN. Exit code 1 when a check fails; warnings
do not fail.")]
pub(super) struct Doctor {
    /// The settings.
    #[arg(
        long,
        env = "TOTORO_CONTROL_CONFIG",
        default_value = super::SETTINGS_FILE
    )]
    config: PathBuf,
    /// The file with the admin token; the admin.token beside the settings unless it is given.
    #[arg(long, env = "TOTORO_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where the server listens, when it is not where the settings say.
    #[arg(long, env = "TOTORO_API")]
    api: Option<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One finding. The detail of a bad one says what to do.
#[derive(Debug, Serialize)]
struct Line {
    component: &'static str,
    target: String,
    status: Status,
    detail: String,
}

impl Line {
    fn new(
        component: &'static str,
        target: impl Into<String>,
        status: Status,
        detail: impl Into<String>,
    ) -> Line {
        Line {
            component,
            target: target.into(),
            status,
            detail: detail.into(),
        }
    }

    fn ok(component: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Line {
        Line::new(component, target, Status::Ok, detail)
    }

    fn warn(component: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Line {
        Line::new(component, target, Status::Warn, detail)
    }

    fn fail(component: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Line {
        Line::new(component, target, Status::Fail, detail)
    }
}

impl Doctor {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let lines = self.lines().await;
        if self.json {
            print_json(&lines)?;
        } else {
            let mut table = Table::new(["COMPONENT", "TARGET", "STATUS", "DETAIL"]);
            for line in &lines {
                table.row([
                    line.component.to_owned(),
                    line.target.clone(),
                    format!("{:?}", line.status).to_uppercase(),
                    line.detail.clone(),
                ]);
            }
            table.print()?;
        }
        let bad = |line: &&Line| line.status == Status::Fail;
        match lines.iter().filter(bad).count() {
            0 => Ok(()),
            failed => Err(CliError::Failed(format!(
                "{failed} of {} checks failed; their lines say what to do",
                lines.len()
            ))),
        }
    }

    async fn lines(&self) -> Vec<Line> {
        let shown = self.config.display().to_string();
        let config = match Config::load(&self.config, &self.settings) {
            Ok(config) => config,
            Err(error) => {
                // Everything else stands in it.
                let detail = format!("{}; correct it, or run init", chain(&error));
                return vec![Line::fail("settings", shown, detail)];
            }
        };
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let mut lines = vec![Line::ok(
            "settings",
            shown,
            "readable, and they hold together",
        )];
        let token = self.config.with_file_name("admin.token");
        lines.extend(local::modes(&config, &token));
        lines.push(local::disk(&config));
        let token = self.token_file.clone().unwrap_or(token);
        let live = live::ask(&config, self.api.as_deref(), &token).await;
        // Looked at only when nobody has it: a live store's files change under the eye.
        lines.extend(local::store(&config.data_dir, live.is_up()));
        lines.push(trail::trail(&config.data_dir, live.is_up()));
        lines.extend(live.lines(&config));
        lines.extend(local::keys(&config.secrets_dir, now));
        lines.push(local::clock(&config.data_dir, now));
        lines.push(exposure::exposure(&config));
        lines.extend(exposure::certificate(&config, now));
        lines
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
