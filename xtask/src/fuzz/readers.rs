//! The code of ours that each target is there for: what reads its bytes. A target also runs writers, and its
//! own checks; how much of those it reaches says nothing about a reader.

use std::fs;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};

use crate::root;

/// A file, and the functions in it that read; all of it where none is named.
pub(crate) type Source = (&'static str, &'static [&'static str]);

const READERS: [(&str, &[Source]); 15] = [
    (
        "backup",
        &[(
            "totoro-control/src/store/dump.rs",
            &[
                "feed", "next", "complete", "read", "finish", "take", "damaged", "entry", "fits",
            ],
        )],
    ),
    (
        "client-file",
        &[
            (
                "totoro-control/client/src/invite.rs",
                &["read", "looks_like_frpc", "read_frpc", "line_of"],
            ),
            (
                "totoro-control/client/src/settings.rs",
                &["read_text", "read_toml"],
            ),
            (
                "totoro-control/client/src/target.rs",
                &["read", "name", "proxies", "checked"],
            ),
        ],
    ),
    (
        "client-log",
        &[
            ("totoro-control/client/src/frpc/log.rs", &[]),
            (
                "totoro-control/client/src/told.rs",
                &[
                    "clean", "new", "in_line", "by_frps", "reason", "what", "next",
                ],
            ),
        ],
    ),
    (
        "frps-proxies",
        &[(
            "totoro-node/src/frps/answer.rs",
            &["online", "take", "end", "step", "value", "whole", "at_end"],
        )],
    ),
    (
        "node-log",
        &[
            (
                "totoro-node/src/store/log/format.rs",
                &[
                    "of", "first", "length", "seq", "decode", "frame", "numbered", "later",
                    "number",
                ],
            ),
            ("totoro-node/src/store/log/replay.rs", &["one"]),
            (
                "totoro-node/src/store/log/index.rs",
                &["apply", "take_in", "take", "free"],
            ),
        ],
    ),
    (
        "packet",
        &[
            ("totoro-ebpf/src/packet/eth.rs", &[]),
            ("totoro-ebpf/src/packet/ip.rs", &[]),
            ("totoro-ebpf/src/packet/l4.rs", &[]),
            ("totoro-ebpf/src/packet/mod.rs", &[]),
            ("totoro-ebpf/src/packet/greeting.rs", &[]),
            // Of the ring buffer: the same making, the same target.
            ("totoro-node/src/kernel/events.rs", &["decode"]),
        ],
    ),
    (
        "plugin",
        &[
            ("totoro-control/api/src/decide/body.rs", &[]),
            (
                "totoro-control/api/src/decide/proxy.rs",
                &[
                    "user_denied",
                    "read_proxy",
                    "read_name",
                    "is_name_byte",
                    "shown",
                ],
            ),
            ("totoro-control/api/src/wire/plugin.rs", &["refuse"]),
            ("totoro-control/api/src/refusal.rs", &["what", "fmt"]),
        ],
    ),
    (
        "rest",
        &[
            ("totoro-control/api/src/limits.rs", &[]),
            ("totoro-control/api/src/ports.rs", &PORTS),
            (
                "totoro-control/api/src/reason.rs",
                &["from_code", "deserialize"],
            ),
            ("totoro-control/api/src/wire/event.rs", &EVENT),
            ("totoro-control/api/src/wire/heartbeat.rs", &[]),
            ("totoro-control/api/src/wire/node.rs", &["maybe_written"]),
            (
                "totoro-control/api/src/wire/push.rs",
                &["default", "written_public_max"],
            ),
            ("totoro-control/src/records.rs", &["everything"]),
        ],
    ),
    (
        "settings-control",
        &[
            ("totoro-control/src/audit/settings.rs", &["problem"]),
            ("totoro-control/src/config.rs", &["check"]),
            ("totoro-control/src/config/defaults.rs", &[]),
            ("totoro-control/src/config/rates.rs", &[]),
            ("totoro-control/src/config/url.rs", &["url_problem"]),
            ("totoro-control/src/duration.rs", &SPAN),
        ],
    ),
    (
        "settings-node",
        &[
            (
                "totoro-node/src/config.rs",
                &["from_settings", "check_control"],
            ),
            ("totoro-node/src/config/print.rs", &[]),
            ("totoro-node/src/config/span.rs", &SPAN),
        ],
    ),
    (
        "store",
        &[
            (
                "totoro-control/src/store/record.rs",
                &["first", "changes", "number"],
            ),
            ("totoro-control/src/store/writer.rs", &["decode"]),
            ("totoro-control/src/store/sum.rs", &["parse"]),
            ("totoro-control/src/store/mod.rs", &["decode"]),
        ],
    ),
    (
        "text",
        &[
            ("totoro-control/api/src/code.rs", &["value", "from_str"]),
            ("totoro-control/api/src/frpc.rs", &["host_port"]),
            ("totoro-control/api/src/ports.rs", &PORTS),
            (
                "totoro-control/api/src/ticket/mod.rs",
                &["from_str", "unix"],
            ),
            ("totoro-control/src/audit/id.rs", &["read_id"]),
            ("totoro-control/src/duration.rs", &["from_str"]),
            ("totoro-node/src/config/span.rs", &["from_str"]),
        ],
    ),
    ("ticket", &TICKET),
    ("ticket-edited", &TICKET),
    (
        "trail",
        &[
            ("totoro-control/src/audit/line.rs", &["read", "sum"]),
            (
                "totoro-control/src/audit/id.rs",
                &["read_id", "deserialize"],
            ),
            (
                "totoro-control/api/src/wire/event.rs",
                &["from", "with_unknown_reason"],
            ),
        ],
    ),
];

const PORTS: [&str; 3] = ["from_str", "from_iter", "deserialize"];
const EVENT: [&str; 3] = ["from", "try_from", "with_unknown_reason"];
const SPAN: [&str; 2] = ["from_str", "deserialize"];
const TICKET: [Source; 1] = [(
    "totoro-control/api/src/ticket/paseto.rs",
    &["assertion", "verify"],
)];

/// What reads a target's bytes.
pub(crate) fn of(target: &str) -> Result<&'static [Source]> {
    READERS
        .iter()
        .find_map(|(name, sources)| (*name == target).then_some(*sources))
        .with_context(|| format!("xtask/src/fuzz/readers.rs does not say what reads {target}"))
}

/// The lines of a file that are meant.
pub(crate) fn lines((file, functions): Source) -> Result<Vec<RangeInclusive<u32>>> {
    let path = root().join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut found = Vec::new();
    for function in functions {
        let before = found.len();
        found.extend(places(&text, function));
        if found.len() == before {
            bail!("{file} has no function {function}: correct xtask/src/fuzz/readers.rs");
        }
    }
    Ok(match functions {
        [] => vec![1..=u32::MAX],
        _ => found,
    })
}

/// Where functions with this name are, of whatever type. rustfmt puts the end below the beginning.
fn places(text: &str, function: &str) -> Vec<RangeInclusive<u32>> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| {
        line.split_once("fn ")
            .and_then(|(_, rest)| rest.strip_prefix(function))
            .is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| begins(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let whole = line.ends_with(['}', ';']);
        let end = lines[at..].iter().position(|line| {
            whole
                || line
                    .strip_prefix(indent)
                    .is_some_and(|rest| rest == "}" || rest.ends_with(';') && rest.starts_with(')'))
        });
        let end = at + end.unwrap_or(0);
        if let (Ok(first), Ok(last)) = (u32::try_from(at + 1), u32::try_from(end + 1)) {
            found.push(first..=last);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{READERS, lines, of, places};

    #[test]
    fn every_target_has_readers_and_they_are_there() {
        for name in crate::fuzz::names(&[]).expect("the corpus") {
            for source in of(&name).expect("readers") {
                lines(*source).expect("a file with such functions");
            }
        }
        for (name, _) in READERS {
            crate::fuzz::names(&[name.to_owned()]).expect("a target");
        }
    }

    #[test]
    fn a_function_ends_below_its_beginning() {
        let text = "impl A {\n    fn a(\n        b: u8,\n    ) -> u8 {\n        if b {\n        }\n    }\n}\n\
                    trait B {\n    fn a(&self);\n    fn aa() {}\n}\nfn a<T>() {}\n";
        assert_eq!(places(text, "a"), [2..=7, 10..=10, 13..=13]);
        assert_eq!(places(text, "b"), []);
    }
}
