//! Figures as people read them.

use totoro_api::reason::Lang;
use totoro_api::wire::node::NodeState;

use crate::say;

/// A span of time, in its largest unit that leaves a whole number, else in the two largest.
#[must_use]
pub fn duration(lang: Lang, seconds: u64) -> String {
    const UNITS: [(u64, &str, &str); 4] = [
        (86_400, "d", "天"),
        (3600, "h", "小时"),
        (60, "min", "分钟"),
        (1, "s", "秒"),
    ];
    let one = |count: u64, en: &str, zh: &str| format!("{count} {}", say(lang, en, zh));
    let Some(first) = UNITS.iter().position(|(unit, ..)| seconds >= *unit) else {
        return one(0, "s", "秒");
    };
    let (unit, en, zh) = UNITS[first];
    let whole = one(seconds / unit, en, zh);
    match UNITS.get(first + 1) {
        Some((smaller, en, zh)) if seconds % unit >= *smaller => {
            format!("{whole} {}", one(seconds % unit / smaller, en, zh))
        }
        _ => whole,
    }
}

/// A moment to the minute, in UTC, which is said; from Unix time.
#[must_use]
pub fn moment(unix: i64) -> String {
    let text = totoro_api::ticket::rfc3339(unix);
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        // Of no year that a calendar has.
        _ => text,
    }
}

/// A size, 1024-based.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut tenths, mut unit) = (count.saturating_mul(10) / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    match tenths {
        ..1000 => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{} {}", tenths / 10, UNITS[unit]),
    }
}

/// Bytes a second.
#[must_use]
pub fn rate(bytes_a_second: u64) -> String {
    format!("{}/s", bytes(bytes_a_second))
}

/// A node's state.
#[must_use]
pub const fn state(lang: Lang, state: NodeState) -> &'static str {
    match state {
        NodeState::Online => say(lang, "online", "在线"),
        NodeState::Degraded => say(lang, "degraded", "部分异常"),
        NodeState::Offline => say(lang, "offline", "离线"),
        NodeState::Draining => say(lang, "draining", "排空中"),
        NodeState::Disabled => say(lang, "disabled", "已停用"),
    }
}

/// The stylesheet's class for it.
#[must_use]
pub const fn class(state: NodeState) -> &'static str {
    match state {
        NodeState::Online => "online",
        NodeState::Degraded => "degraded",
        NodeState::Offline => "offline",
        NodeState::Draining => "draining",
        NodeState::Disabled => "disabled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        for (seconds, en) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (90, "1 min 30 s"),
            (3600, "1 h"),
            (86_400, "1 d"),
            (86_401, "1 d"),
            (100_000, "1 d 3 h"),
        ] {
            assert_eq!(duration(Lang::En, seconds), en);
        }
        assert_eq!(duration(Lang::Zh, 14_400), "4 小时");
        assert_eq!(moment(1_800_000_000), "2027-01-15 08:00 UTC");
        assert_eq!(moment(i64::MAX), "");
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_400, "100 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "1638 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
