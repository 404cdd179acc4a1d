//! `totoro doctor`: what is wrong and what to do; or what a reason means.

use clap::Args;
use serde::Serialize;
use totoro_api::Reason;
use totoro_cli::Table;

use super::Common;
use super::output::Output;
use crate::doctor::{Check, Health, beyond, frpc};
use crate::error::Error;
use crate::lang::{Lang, say};
use crate::told::clean;

/// What to look at.
#[derive(Args)]
pub(super) struct Doctor {
    /// A reason to explain: its code (max_proxies), its number, or the line that frpc printed.
    reason: Option<String>,
    /// A public node's name, in place of an invite.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// A reason for programs.
#[derive(Serialize)]
struct Explained {
    code: &'static str,
    number: u32,
    what: &'static str,
    next: &'static str,
}

impl Doctor {
    pub(super) async fn run(self, common: &Common, output: Output) -> Result<u8, Error> {
        if let Some(reason) = &self.reason {
            return explain(reason, output).map(|()| 0);
        }
        let lang = output.lang;
        let mut checks = vec![frpc(common.frpc.as_deref(), lang).await];
        let (control, source) = match common.answers(self.node.as_deref(), output).await {
            Ok(answers) => (Ok(answers.control), Ok(answers.source)),
            // Without a code, the rest can still be looked at.
            Err(error) => (common.control(output), Err(error)),
        };
        checks.extend(beyond(control, source, lang).await);
        if output.json {
            output.json(&checks);
        } else {
            print(&checks, output);
        }
        let bad = checks.iter().find(|check| check.health == Health::Bad);
        Ok(bad.map_or(0, |check| check.exit_code))
    }
}

fn print(checks: &[Check], output: Output) {
    let lang = output.lang;
    let mut table = Table::new([
        say!(lang, "WHAT", "项目"),
        say!(lang, "STATUS", "状态"),
        say!(lang, "DETAIL", "详情"),
    ]);
    for check in checks {
        let status = match check.health {
            Health::Ok => say!(lang, "ok", "正常"),
            Health::Warn => say!(lang, "warn", "注意"),
            Health::Bad => say!(lang, "bad", "异常"),
            Health::Skipped => say!(lang, "–", "–"),
        };
        table.row([check.what.to_owned(), status, check.detail.clone()]);
    }
    output.table(&table);
    for check in checks.iter().filter(|check| !check.next.is_empty()) {
        output.line(&format!("{}: {}", check.what, output.next(&check.next)));
    }
}

/// Explains a reason.
fn explain(asked: &str, output: Output) -> Result<(), Error> {
    let lang = output.lang;
    let Some(reason) = find(asked) else {
        let asked = clean(asked);
        return Err(Error::Usage(say!(
            lang,
            "{asked:?} is no reason; docs/reasons.md lists them all",
            "{asked:?} 不是已知原因；docs/reasons.md 有完整列表"
        )));
    };
    let (code, number) = (reason.code(), reason.number());
    let (what, next) = (reason.what(lang), reason.next(lang));
    if output.json {
        output.json(&Explained {
            code,
            number,
            what,
            next,
        });
        return Ok(());
    }
    output.line(&format!("{code} ({number})"));
    output.line(&format!("  {what}"));
    output.line(&format!("  {}", output.next(next)));
    if lang == Lang::Zh {
        output.line(&format!("  {}", reason.what(Lang::En)));
    }
    Ok(())
}

/// The reason in a code, a number, or a line with `totoro[code]`.
fn find(asked: &str) -> Option<Reason> {
    let asked = asked.trim();
    let inner = asked
        .split_once("totoro[")
        .and_then(|(_, rest)| rest.split(']').next());
    let asked = inner.unwrap_or(asked);
    Reason::from_code(asked).or_else(|| Reason::from_number(asked.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_code_number_and_line() {
        for &reason in Reason::ALL {
            assert_eq!(find(reason.code()), Some(reason));
            assert_eq!(find(&reason.number().to_string()), Some(reason));
            let line = format!("start error: {}", totoro_api::Refusal::new(reason));
            assert_eq!(find(&line), Some(reason));
        }
        assert_eq!(find("nothing"), None);
    }
}
