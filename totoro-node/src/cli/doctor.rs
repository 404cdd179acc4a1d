//! `doctor`: how a node is that is meant to run. Looks, and changes nothing. What the machine must
//! have to begin with is `check`'s.

mod held;
mod room;

use std::path::Path;

use anyhow::Result;
use totoro_api::ports::Pool;
use totoro_api::ticket::rfc3339;

use super::check::{self, Line, Said, Status};
use crate::clock::machine_ms;
use crate::config::Config;
use crate::figures::Condition;
use crate::local::{Ask, NotRunning, ask};
use crate::spool::Size;
use held::Held;

/// Silence of the control plane that is worth a warning, seconds: some heartbeats.
const SILENT_S: u64 = 60;
/// The same of the canary, which is tried each minute.
const CANARY_S: u64 = 150;
/// How far clocks may be apart, ms.
const CLOCKS_MS: i64 = crate::clock::TOLERATED_MS;
/// So long an error in the log is one of now, ms.
const RECENT_MS: i64 = 60_000;
/// The problems that are shown, newest first.
const PROBLEMS: usize = 5;

/// Prints the findings; fails when something is wrong. `settings` is the settings' file, `pool` the one that was
/// applied last, or why it is not known.
pub(super) async fn run(
    config: &Config,
    settings: &Path,
    pool: Result<Pool>,
    as_json: bool,
) -> Result<()> {
    let mut lines = check::secrets(config);
    let held = Held::find(config);
    lines.push(held.line(config));
    lines.extend(room::tables(config, held.has_tables()));
    lines.extend(check::past(config));
    let said = check::said(config).await;
    let socket = config.local_socket();
    match ask::<Condition>(&socket, &Ask::Condition).await {
        Ok(condition) => lines.extend(of(&condition, said)),
        Err(error) => {
            let shown = socket.display().to_string();
            let advice = match error.is::<NotRunning>() {
                true => held.without_daemon().to_owned(),
                false => format!("{error:#}; its log says more: journalctl -u totoro-node"),
            };
            lines.push(Line::new("daemon", shown, Status::Fail, advice));
            // A start would not help then.
            let refusal = said.refusal.map(|why| refused("now".to_owned(), why));
            lines.extend(refusal.into_iter().chain(said.node));
        }
    }
    let unreadable = pool.as_ref().err();
    lines.extend(unreadable.and_then(|why| check::unreadable(config, why)));
    let pool = pool.ok();
    // Without the daemon's word the pool of the enrolment does; what the file should have is not known then.
    lines.extend(check::frps(config, pool.as_ref().unwrap_or(&config.pool)).await);
    let file = pool.map(|pool| check::frps_file(config, settings, &pool));
    // It may be kept elsewhere, and a frps that lacks something has a line of its own.
    lines.extend(file.filter(|file| Path::new(&file.target).exists()));
    check::conclude(&lines, as_json)
}

/// What a daemon's condition says, and what the control plane said just now.
fn of(condition: &Condition, said: Said) -> Vec<Line> {
    let mut lines = vec![Line::new(
        "daemon",
        format!(
            "policy {}.{}",
            condition.applied.generation, condition.applied.rev
        ),
        Status::Ok,
        "running",
    )];
    // One answer that the daemon got meanwhile counts more than one that was refused here.
    let refusal = said.refusal.filter(|_| is_silent(condition.silent_s));
    lines.push(control(condition.silent_s, refusal));
    lines.extend(said.node);
    lines.push(clock(condition.clock_offset_ms));
    lines.extend(condition.frps_gone_s.map(|gone_s| {
        let detail = format!(
            "it has not answered for {gone_s} s: there is no tunnel until it does; why: journalctl -u \
             totoro-frps, then systemctl restart totoro-frps"
        );
        Line::new("frps", "gone", Status::Fail, detail)
    }));
    lines.extend(condition.stuck.iter().map(|proxy| {
        let detail = "frps has it without a lease, and its client's connection can't be found: nobody gets in or \
                      is lent its port; to have that back: systemctl restart totoro-frps";
        Line::new("frps", proxy, Status::Warn, detail)
    }));
    lines.push(canary(condition.canary_s));
    for missing in &condition.missing {
        lines.push(Line::new("grade", "kernel", Status::Fail, missing.clone()));
    }
    if let Some(untidy) = &condition.untidy {
        let detail = format!("not in line with what is decided, tried again: {untidy}");
        lines.push(Line::new("kernel", "maps", Status::Fail, detail));
    }
    for (interface, mode) in &condition.filters {
        let detail = format!("filtered by {mode}");
        lines.push(Line::new("interface", interface, Status::Ok, detail));
        lines.extend(check::neighbours(interface));
    }
    lines.push(spool(condition.spool));
    lines.extend(condition.lost.as_ref().map(room::events));
    lines.push(drift(&condition.mended));
    for problem in condition.problems.iter().rev().take(PROBLEMS) {
        // What an older one was about may be well by now: what is not has a line of its own above.
        let recent = machine_ms() - problem.at_ms < RECENT_MS;
        let status = if problem.error && recent {
            Status::Fail
        } else {
            Status::Warn
        };
        let times = match problem.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        let detail = format!("{}{times}", problem.text);
        lines.push(Line::new(
            "log",
            rfc3339(problem.at_ms / 1000),
            status,
            detail,
        ));
    }
    lines
}

/// Whether what the programs do was tried lately; what it found broken is said where it is missing.
fn canary(held_s: Option<u64>) -> Line {
    match held_s {
        Some(held_s) if held_s < CANARY_S => {
            let detail = "a connection to itself was refused, admitted, counted and limited";
            Line::new("canary", format!("{held_s} s ago"), Status::Ok, detail)
        }
        held_s => {
            let target = held_s.map_or("not since the start".to_owned(), |held_s| {
                format!("{held_s} s ago")
            });
            let detail = "not tried since, or it did not come through: it needs a free TCP port of the \
                          pool, a node that is enabled, and 127.0.0.1 unbanned";
            Line::new("canary", target, Status::Warn, detail)
        }
    }
}

fn is_silent(silent_s: Option<u64>) -> bool {
    silent_s.is_none_or(|silent| silent >= SILENT_S)
}

fn refused(target: String, why: String) -> Line {
    Line::new("control plane", target, Status::Fail, why)
}

fn control(silent_s: Option<u64>, refusal: Option<String>) -> Line {
    let target = silent_s.map_or("not since the start".to_owned(), |silent| {
        format!("{silent} s ago")
    });
    if let Some(why) = refusal {
        return refused(target, why);
    }
    let (status, detail) = match is_silent(silent_s) {
        false => (Status::Ok, "answers".to_owned()),
        true => (
            Status::Warn,
            "has not answered: sessions, reconnects with a cached ticket, expiry and what was \
             revoked before go on; a frpc that is started anew and fetches its ticket by its code \
             can't log in, changes do not arrive, events wait here. Look at `control` in node.toml \
             and the way to it"
                .to_owned(),
        ),
    };
    Line::new("control plane", target, status, detail)
}

fn clock(offset_ms: i64) -> Line {
    let far = offset_ms.abs() > CLOCKS_MS;
    let (status, detail) = match far {
        false => (Status::Ok, "near the control plane's"),
        true => (
            Status::Warn,
            "far from the control plane's, by which times are judged here; set it right (chrony, \
             systemd-timesyncd)",
        ),
    };
    Line::new("clock", format!("{offset_ms} ms"), status, detail)
}

fn spool(size: Size) -> Line {
    // Half full is early enough to look for the cause.
    let (status, detail) = match size.bytes > size.max / 2 {
        false => (Status::Ok, "room for all".to_owned()),
        true => (
            Status::Warn,
            format!(
                "{} of {} KiB are taken; when all are, the oldest samples give way to one \
                 audit.lost, then the oldest of all (spool_mib in node.toml)",
                size.bytes >> 10,
                size.max >> 10
            ),
        ),
    };
    Line::new("spool", format!("{} events", size.events), status, detail)
}

fn drift(mended: &[(String, u64)]) -> Line {
    let found: Vec<String> = mended
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    match found.is_empty() {
        true => Line::new("drift", "none", Status::Ok, "records and truth have agreed"),
        false => Line::new(
            "drift",
            found.join(", "),
            Status::Ok,
            "found and mended since the start; docs/node.md says what each is",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Problem;

    fn bad(condition: &Condition) -> Vec<&'static str> {
        of(condition, Said::default())
            .into_iter()
            .filter(|line| line.status != Status::Ok)
            .map(|line| line.component)
            .collect()
    }

    #[test]
    fn what_is_wrong_is_said() {
        let well = Condition {
            silent_s: Some(3),
            canary_s: Some(7),
            ..Condition::default()
        };
        assert!(bad(&well).is_empty());
        let problem = Problem {
            at_ms: 0,
            error: false,
            text: "x".to_owned(),
            times: 2,
        };
        for (condition, component) in [
            (
                Condition {
                    canary_s: None,
                    ..well.clone()
                },
                "canary",
            ),
            (
                Condition {
                    canary_s: Some(CANARY_S),
                    ..well.clone()
                },
                "canary",
            ),
            (
                Condition {
                    frps_gone_s: Some(9),
                    ..well.clone()
                },
                "frps",
            ),
            (
                Condition {
                    stuck: vec!["tcp/20000 a.web".to_owned()],
                    ..well.clone()
                },
                "frps",
            ),
            (
                Condition {
                    silent_s: None,
                    ..well.clone()
                },
                "control plane",
            ),
            (
                Condition {
                    silent_s: Some(61),
                    ..well.clone()
                },
                "control plane",
            ),
            (
                Condition {
                    clock_offset_ms: -60_001,
                    ..well.clone()
                },
                "clock",
            ),
            (
                Condition {
                    missing: vec!["x".to_owned()],
                    ..well.clone()
                },
                "grade",
            ),
            (
                Condition {
                    untidy: Some("x".to_owned()),
                    ..well.clone()
                },
                "kernel",
            ),
            (
                Condition {
                    spool: Size {
                        bytes: 51,
                        max: 100,
                        ..Size::default()
                    },
                    ..well.clone()
                },
                "spool",
            ),
            (
                Condition {
                    problems: vec![problem; 9],
                    ..well.clone()
                },
                "log",
            ),
        ] {
            let found = bad(&condition);
            assert!(
                found.iter().all(|one| *one == component),
                "{component}: {found:?}"
            );
            assert!((1..=PROBLEMS).contains(&found.len()), "{component}");
        }
        let status = |error, at_ms| {
            let text = "x".to_owned();
            let problem = Problem {
                at_ms,
                error,
                text,
                times: 1,
            };
            let condition = Condition {
                problems: vec![problem],
                ..well.clone()
            };
            let lines = of(&condition, Said::default());
            lines
                .into_iter()
                .find(|line| line.component == "log")
                .unwrap()
                .status
        };
        assert_eq!(status(true, machine_ms()), Status::Fail);
        assert_eq!(status(true, 0), Status::Warn, "it may be over");
        assert_eq!(status(false, machine_ms()), Status::Warn);
        let said = |refusal: Option<&str>, node| Said {
            refusal: refusal.map(str::to_owned),
            node,
        };
        let another = Line::new("node", "n1", Status::Fail, "the key is of node n2");
        let lines = of(&well, said(None, Some(another)));
        assert!(
            lines
                .iter()
                .any(|line| (line.component, line.status) == ("node", Status::Fail))
        );
        let lines = of(&well, said(Some("for once"), None));
        assert!(lines.iter().all(|line| line.status == Status::Ok));
        let refused = control(Some(61), Some("enrol anew".to_owned()));
        assert_eq!(
            (refused.status, refused.detail.as_str()),
            (Status::Fail, "enrol anew")
        );
        let mended = vec![("surplus".to_owned(), 2), ("orphan".to_owned(), 0)];
        assert_eq!(drift(&mended).target, "surplus 2");
    }
}
