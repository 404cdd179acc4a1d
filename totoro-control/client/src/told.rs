//! A refusal as somebody else told it: what it says is shown to people, so it is cleaned first.

use serde::{Deserialize, Serialize};
use totoro_api::{Reason, Refusal};

use crate::lang::{Lang, say};

/// The longest text of others that is shown, characters.
pub const MAX_TEXT: usize = 400;

/// A text of others, short and without what a terminal would obey.
#[must_use]
pub fn clean(text: &str) -> String {
    let plain = |symbol: char| {
        // Bidirectional controls could make one address look like another.
        let turns = matches!(symbol, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if symbol.is_control() || turns {
            ' '
        } else {
            symbol
        }
    };
    let text: String = text.trim().chars().take(MAX_TEXT).map(plain).collect();
    text.trim().to_owned()
}

/// Why something was refused: by the control plane, by the node, or by frps itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The reason's stable code; empty where frps refused by itself.
    pub code: String,
    /// What happened in this case, as it was told.
    pub what: String,
    /// What to do next, as it was told.
    pub next: String,
}

impl Told {
    /// From its parts.
    #[must_use]
    pub fn new(code: &str, what: &str, next: &str) -> Self {
        Told {
            code: clean(code),
            what: clean(what),
            next: clean(next),
        }
    }

    /// From a line with `totoro[code]: what; next` in it, as frpc prints them.
    #[must_use]
    pub fn in_line(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("totoro[")?;
        let (code, rest) = rest.split_once("]: ")?;
        // What frpc and its OAuth library put around it.
        let rest = rest.split(". With loginFailExit").next().unwrap_or(rest);
        let rest = rest.trim_end_matches(['"', '\n', ' ']);
        let (what, next) = rest.rsplit_once("; ").unwrap_or((rest, ""));
        // The next step may have a `; ` of its own; the reason's own text tells where it begins.
        let known = Reason::from_code(code).map(|reason| reason.next(Lang::En));
        let (what, next) = known
            .and_then(|next| Some((rest.strip_suffix(next)?.strip_suffix("; ")?, next)))
            .unwrap_or((what, next));
        Some(Told::new(code, what, next))
    }

    /// What frps said of a proxy in its own words.
    #[must_use]
    pub fn by_frps(text: &str) -> Self {
        Told::in_line(text).unwrap_or_else(|| Told::new("", text, ""))
    }

    /// The reason, where this version knows it.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_code(&self.code)
    }

    /// What happened, for people: in Chinese the reason's own line, with the case's detail.
    #[must_use]
    pub fn what(&self, lang: Lang) -> String {
        let Some(reason) = self.reason() else {
            return self.what.clone();
        };
        let own = reason.what(lang);
        match lang {
            _ if self.what.is_empty() => own.to_owned(),
            Lang::En => self.what.clone(),
            Lang::Zh if self.what == reason.what(Lang::En) => own.to_owned(),
            Lang::Zh => format!("{own}（{}）", self.what),
        }
    }

    /// What to do next, for people.
    #[must_use]
    pub fn next(&self, lang: Lang) -> String {
        match self.reason() {
            Some(reason) => reason.next(lang).to_owned(),
            None if self.next.is_empty() => say!(
                lang,
                "try again; if it stays, tell the node's operator what is above",
                "请重试；若仍失败，请将以上内容告知节点管理员"
            ),
            None => self.next.clone(),
        }
    }
}

impl From<Reason> for Told {
    fn from(reason: Reason) -> Self {
        let refusal = Refusal::new(reason);
        Told::new(reason.code(), refusal.what(), reason.next(Lang::En))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frpc_prints_is_read_back_for_every_reason() {
        for &reason in Reason::ALL {
            for refusal in [
                Refusal::new(reason),
                Refusal::with(reason, "this; and [that]: 5"),
            ] {
                let line = format!(
                    "[W] connect to server error: couldn't generate: oauth2: \"invalid_client\" \"{refusal}\""
                );
                let told = Told::in_line(&line).unwrap();
                assert_eq!(told.reason(), Some(reason));
                assert_eq!(told.what, refusal.what());
                assert_eq!(told.next, reason.next(Lang::En));
                for lang in [Lang::En, Lang::Zh] {
                    assert!(!told.what(lang).is_empty() && !told.next(lang).is_empty());
                }
            }
        }
    }

    #[test]
    fn what_is_unknown_is_shown_as_it_came_but_harmless() {
        let told = Told::in_line("totoro[max_moons]: too many\u{1b}[2J moons; go; away").unwrap();
        assert_eq!((told.code.as_str(), told.reason()), ("max_moons", None));
        assert_eq!(told.what(Lang::Zh), "too many [2J moons; go");
        assert_eq!(told.next(Lang::Zh), "away");
        assert_eq!(Told::in_line("proxy already exists"), None);
        assert_eq!(Told::by_frps("proxy exists").code, "");
        assert_eq!(clean(&"x".repeat(10_000_000)).len(), MAX_TEXT);
        assert_eq!(clean("a\u{202e}b"), "a b");
    }
}
