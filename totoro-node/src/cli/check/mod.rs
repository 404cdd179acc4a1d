//! `check`: whether this machine can be a node. Works before enrolment, before anything is loaded,
//! and beside a running daemon.

mod control;
mod frps;
mod heap;
mod kernel;
mod machine;
mod network;
mod state;
mod tproxy;

use std::path::Path;

use anyhow::{Error, Result, bail};
use serde::Serialize;
use totoro_api::ports::Pool;
use totoro_cli::{Table, print_json};

use super::applied::Unreadable;
use crate::config::Config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Warn,
    Fail,
}

/// One finding. `detail` of a bad one says what to do.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) component: &'static str,
    pub(super) target: String,
    pub(super) status: Status,
    pub(super) detail: String,
}

impl Line {
    pub(super) fn new(
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

    /// Fine, or a failure with advice.
    fn must(
        component: &'static str,
        target: impl Into<String>,
        ok: bool,
        detail: &str,
        advice: &str,
    ) -> Line {
        if ok {
            Line::new(component, target, Status::Ok, detail)
        } else {
            Line::new(component, target, Status::Fail, advice)
        }
    }
}

/// Prints the preflight; fails when something is missing. `pool` is the one that holds now; where it is not known, that
/// of the enrolment is looked at. `settings` is the settings' file.
pub(super) async fn run(
    config: &Config,
    settings: &Path,
    pool: Result<Pool>,
    enrolled: bool,
    as_json: bool,
) -> Result<()> {
    let (pool, unknown) = match pool {
        Ok(pool) => (pool, None),
        Err(error) => (config.pool.clone(), Some(error)),
    };
    let mut lines = kernel::lines(config);
    lines.extend(machine::lines(config, &pool));
    lines.push(state::line(config, unknown.as_ref()));
    lines.extend(unknown.and_then(|why| unanswered(config, &why)));
    lines.extend(network::lines(config, &pool));
    if enrolled {
        lines.extend(machine::secrets(config));
        lines.extend(frps::lines(config, &pool).await);
        lines.push(frps::file(config, settings, &pool));
        lines.extend(control::lines(config).await);
    } else {
        lines.push(Line::new(
            "settings",
            "node.toml",
            Status::Warn,
            "not enrolled yet; next: totoro-node enroll --control https://…",
        ));
    }
    conclude(&lines, as_json)
}

/// A daemon that runs and does not tell the pool.
fn unanswered(config: &Config, why: &Error) -> Option<Line> {
    if why.is::<Unreadable>() {
        return None;
    }
    let detail = format!(
        "{why:#}; the pool of the enrolment is looked at instead. Next: totoro-node doctor"
    );
    let socket = config.local_socket().display().to_string();
    Some(Line::new("daemon", socket, Status::Warn, detail))
}

pub(super) use control::{Said, said};
pub(super) use frps::{file as frps_file, lines as frps};
pub(super) use machine::{neighbours, secrets};
pub(super) use state::unreadable;

/// What of this machine may take the pool's connections past the limits, also long after a start.
pub(super) fn past(config: &Config) -> Vec<Line> {
    vec![kernel::lookups(config), tproxy::line()]
}

/// Refuses secrets that others may read: a start is the last moment to say so. Not the CA's key, which
/// no start needs.
///
/// # Errors
/// All of them, with what to do.
pub(super) fn require_secrets(config: &Config) -> Result<()> {
    let bad: Vec<String> = machine::needed_secrets(config)
        .into_iter()
        .filter(|line| line.status == Status::Fail)
        .map(|line| format!("{}: {}", line.component, line.detail))
        .collect();
    if !bad.is_empty() {
        bail!("{}", bad.join("; "));
    }
    Ok(())
}

/// Prints the lines; fails when one does.
pub(super) fn conclude(lines: &[Line], as_json: bool) -> Result<()> {
    print(lines, as_json)?;
    let failed = lines
        .iter()
        .filter(|line| line.status == Status::Fail)
        .count();
    if failed > 0 {
        bail!(
            "{failed} of {} checks failed; the lines say what to do",
            lines.len()
        );
    }
    Ok(())
}

fn print(lines: &[Line], as_json: bool) -> Result<()> {
    if as_json {
        return Ok(print_json(&lines)?);
    }
    let mut table = Table::new(["COMPONENT", "TARGET", "STATUS", "DETAIL"]);
    for line in lines {
        table.row([
            line.component.to_owned(),
            line.target.clone(),
            format!("{:?}", line.status).to_uppercase(),
            line.detail.clone(),
        ]);
    }
    Ok(table.print()?)
}
