//! A running tunnel on a screen: what happens, line by line, and at a terminal one line that lives.

use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Interval, interval};
use totoro_api::limits::Effective;
use totoro_api::ports::Protocol;

use super::output::Output;
use super::words::{fit, left_text, limits_text, offer, status_line};
use crate::lang::say;
use crate::tunnel::{Event, Left, Snapshot, Why};

/// How often the living line is drawn.
const REDRAW: Duration = Duration::from_secs(1);
/// "Nothing answers locally" is said at most so often.
const LOCAL_AGAIN: Duration = Duration::from_secs(30);

/// Shows one tunnel.
pub(super) struct Live {
    output: Output,
    state: watch::Receiver<Snapshot>,
    redraw: Interval,
    drawn: bool,
    limits_told: bool,
    last_why: Option<Why>,
    local_told: Option<std::time::Instant>,
    over: bool,
}

/// An event for programs, with the time.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl Live {
    pub(super) fn new(output: Output, state: watch::Receiver<Snapshot>) -> Self {
        Live {
            output,
            state,
            redraw: interval(REDRAW),
            drawn: false,
            limits_told: false,
            last_why: None,
            local_told: None,
            over: false,
        }
    }

    /// Whether the tunnel has said its last word.
    pub(super) const fn over(&self) -> bool {
        self.over
    }

    /// Draws the living line again when it is time.
    pub(super) async fn tick(&mut self) {
        self.redraw.tick().await;
        if self.output.is_live() {
            let line = status_line(&self.state.borrow(), self.output.lang);
            let mut out = std::io::stdout().lock();
            // Within one line of a narrow terminal; a longer one would leave its wrapped rest behind.
            write!(out, "\r\x1b[2K{}", fit(&line)).ok();
            out.flush().ok();
            self.drawn = true;
        }
    }

    /// Takes the living line away, so that others may be printed.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let mut out = std::io::stdout().lock();
            write!(out, "\r\x1b[2K").ok();
            out.flush().ok();
        }
    }

    pub(super) fn stopping(&self) {
        if !self.output.json {
            self.output
                .line(&say!(self.output.lang, "stopping …", "正在停止……"));
        }
    }

    pub(super) fn stopped(&mut self) {
        let event = Event::Stopped { why: None };
        match self.output.json {
            true => self.print(&event),
            false => self
                .output
                .line(&say!(self.output.lang, "stopped", "已停止")),
        }
    }

    /// Shows an event.
    pub(super) fn show(&mut self, event: &Event) {
        self.over |= matches!(event, Event::Stopped { .. });
        if self.output.json {
            self.print(event);
            return;
        }
        if let Some(text) = self.text(event) {
            self.clear();
            self.output.line(&text);
        }
    }

    fn print(&self, event: &Event) {
        let format = &time::format_description::well_known::Rfc3339;
        let at = time::OffsetDateTime::now_utc().format(format);
        self.output.json_line(&Line {
            at: at.unwrap_or_default(),
            event,
        });
    }

    /// An event for people; nothing where the living line says it.
    fn text(&mut self, event: &Event) -> Option<String> {
        let lang = self.output.lang;
        match event {
            Event::Connecting { node, server } => Some(say!(
                lang,
                "connecting to {node} ({server}) …",
                "正在连接 {node}（{server}）……"
            )),
            Event::Running {
                protocol,
                local,
                address,
                limits,
                left,
                ..
            } => {
                self.last_why = None;
                let mut text = format!("✔ {protocol}://{address} → {local}");
                if !std::mem::replace(&mut self.limits_told, true) {
                    text.push('\n');
                    text.push_str(&self.terms(limits, *left, *protocol));
                }
                Some(text)
            }
            Event::Refused { proxy, told, last } => {
                if *last {
                    // Said once more at the end, with the exit code.
                    return None;
                }
                let of = proxy.as_deref().unwrap_or("frpc");
                let next = self.output.next(&told.next(lang));
                let code = if told.code.is_empty() {
                    "frps"
                } else {
                    &told.code
                };
                Some(format!("✘ {of}: {code}: {}\n  {next}", told.what(lang)))
            }
            Event::Reconnecting { why, within_s } => {
                if self.last_why.replace(why.clone()).as_ref() == Some(why) {
                    return None;
                }
                let text = why.text(lang);
                let code = match why {
                    Why::Refused(told) if !told.code.is_empty() => format!("{}: ", told.code),
                    _ => String::new(),
                };
                Some(say!(
                    lang,
                    "… {code}{text}; trying again within {within_s} s, for as long as it takes",
                    "……{code}{text}；{within_s} 秒内重试，直至成功"
                ))
            }
            Event::LocalFailed { detail } => {
                let quiet = self
                    .local_told
                    .is_some_and(|told| told.elapsed() < LOCAL_AGAIN);
                if quiet {
                    return None;
                }
                self.local_told = Some(std::time::Instant::now());
                Some(say!(
                    lang,
                    "! a user came, and nothing answered at {detail}",
                    "! 有用户连接，但本地服务无应答：{detail}"
                ))
            }
            Event::Draining { others } => {
                let mut text = say!(
                    lang,
                    "! the node is draining: connections that live go on, new ones are refused",
                    "! 节点正在排空：现有连接继续，新连接会被拒绝"
                );
                if !others.is_empty() {
                    text.push('\n');
                    text.push_str(&offer(others, lang));
                }
                Some(text)
            }
            Event::Stats(_) | Event::Stopped { .. } => None,
        }
    }

    /// What holds, what is left, and how to stop: said once.
    fn terms(&self, limits: &Effective, left: Left, protocol: Protocol) -> String {
        let lang = self.output.lang;
        let (limits, left) = (
            limits_text(limits, protocol, lang),
            left_text(left, protocol, lang),
        );
        let mut text = say!(
            lang,
            "  limits: {limits}\n  left:   {left}\n  stop:   Ctrl-C",
            "  限额：{limits}\n  剩余：{left}\n  停止：Ctrl-C"
        );
        let state = self.state.borrow();
        if let Some(ends) = state.ends {
            let ends = totoro_web::moment(ends);
            text.push('\n');
            text.push_str(&say!(lang, "  until:  {ends}", "  到期：{ends}"));
        }
        if !state.unenforced.is_empty() {
            let list = state.unenforced.join(", ");
            text.push('\n');
            text.push_str(&say!(
                lang,
                "  this node can't hold: {list}",
                "  此节点无法强制：{list}"
            ));
        }
        if !state.verified {
            text.push('\n');
            text.push_str(&say!(
                lang,
                "  ! the node has published no certificate: whoever is between can read along",
                "  ! 节点未公布证书：中间人可能窃听"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lang::Lang;
    use crate::told::Told;
    use crate::tunnel::tests::snapshot;

    fn live(lang: Lang) -> Live {
        let state = watch::Sender::new(snapshot());
        Live::new(Output::new(lang, false), state.subscribe())
    }

    #[tokio::test]
    async fn what_a_person_reads_on_connect() {
        for (lang, words) in [
            (
                Lang::En,
                [
                    "limits: 100 connections",
                    "left:   7 connections",
                    "stop:   Ctrl-C",
                    "until:  2027-01-15 08:00 UTC",
                ],
            ),
            (
                Lang::Zh,
                [
                    "限额：100 个连接",
                    "剩余：7 个连接",
                    "停止：Ctrl-C",
                    "到期：2027-01-15 08:00 UTC",
                ],
            ),
        ] {
            let mut live = live(lang);
            let event = Event::Running {
                proxy: "p".to_owned(),
                protocol: Protocol::Tcp,
                local: "127.0.0.1:22".to_owned(),
                address: "n1.example.org:20005".to_owned(),
                limits: Effective::fallback(),
                left: Left {
                    conns: 7,
                    ..Left::default()
                },
            };
            let text = live.text(&event).unwrap();
            assert!(
                text.starts_with("✔ tcp://n1.example.org:20005 → 127.0.0.1:22\n"),
                "{text}"
            );
            for word in words {
                assert!(text.contains(word), "{text}");
            }
            assert_eq!(
                live.text(&event).unwrap().lines().count(),
                1,
                "terms are said once"
            );
        }
    }

    #[tokio::test]
    async fn the_same_reason_is_said_once_until_it_runs_again() {
        let mut live = live(Lang::En);
        let told = Told::new("max_clients", "both are in use", "stop one");
        let event = Event::Reconnecting {
            why: Why::Refused(told),
            within_s: 20,
        };
        let text = live.text(&event).unwrap();
        assert!(
            text.contains("max_clients: both are in use; trying again within 20 s"),
            "{text}"
        );
        assert_eq!(live.text(&event), None);
    }
}
