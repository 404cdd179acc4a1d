//! `restore`: a backup becomes an installation.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use totoro_cli::{out, print_json};

use super::CliError;
use crate::app::restore::Checked;

/// Make an installation from a backup. The store's directory must be empty or missing.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control restore --from totoro.bak --config /etc/totoro/control/control.toml
  totoro-control restore --from totoro.bak --check
  totoro-control restore --from totoro.bak --config ./lab/control.toml --new-secret

Settings that are missing are taken from the backup; those that are there stay. The restored store
is a new generation: nodes take its state whatever they had before. A restore that was killed
leaves the target marked as unfinished; run it again.")]
pub(super) struct Restore {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Where the settings are, or go.
    #[arg(
        long,
        env = "TOTORO_CONTROL_CONFIG",
        default_value = super::SETTINGS_FILE
    )]
    config: PathBuf,
    /// Go on without the old server secret: every node key, invite code and admin token is lost.
    #[arg(long)]
    new_secret: bool,
    /// Only check the backup; write nothing.
    #[arg(long)]
    check: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let checked = Checked::read(&self.from)?;
        let made = totoro_api::ticket::rfc3339(checked.header.created_at);
        if !self.json {
            out::line(format_args!(
                "backup        of {made} by version {}, schema {}, {}",
                checked.header.version,
                checked.header.schema,
                match checked.has_secrets() {
                    true => "with secrets",
                    false => "without secrets",
                }
            ))?;
            out::line(format_args!(
                "whole         {} entries, {} files, sha256 {}",
                checked.summary.entries, checked.summary.files, checked.summary.sha256
            ))?;
        }
        let mut answer = json!({
            "header": checked.header,
            "summary": checked.summary,
            "secrets": checked.has_secrets(),
        });
        if self.check {
            return match self.json {
                true => Ok(print_json(&answer)?),
                false => Ok(()),
            };
        }
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let now_ms = i64::try_from(now).unwrap_or(0);
        let restored = checked
            .restore(&self.config, self.new_secret, now_ms)
            .await?;
        if self.json {
            answer["restored"] = json!(restored);
            return Ok(print_json(&answer)?);
        }
        out::line(format_args!(
            "store         {}",
            restored.data_dir.display()
        ))?;
        out::line(format_args!("generation    {}", restored.generation))?;
        out::line(format_args!(
            "admin token   {} (mode 0600)",
            restored.admin_token.display()
        ))?;
        if !restored.keys_known {
            out::line(
                "lost          every node key, invite code and admin token of before: enrol every \
                 node (`node token`) and rotate every invite (`invite rotate`)",
            )?;
        }
        out::line(format_args!(
            "next          totoro-control serve --config {}",
            restored.config.display()
        ))?;
        Ok(())
    }
}
