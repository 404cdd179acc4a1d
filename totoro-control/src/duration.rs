//! Durations as people write them: `10s`, `5m`, `1h`, `2d`, `500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration that reads and writes itself as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write 500ms, 10s, 5m, 1h or 2d")]
pub struct BadSpan(String);

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
];

impl Span {
    /// Whole seconds.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let ms =
            totoro_cli::span_ms(text).ok_or_else(|| BadSpan(text.chars().take(32).collect()))?;
        Ok(Span(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // The largest unit that divides it.
        let (unit, size) = [UNITS[1], UNITS[2], UNITS[3], UNITS[4]]
            .into_iter()
            .find(|(_, size)| ms >= *size && ms % size == 0)
            .unwrap_or(UNITS[0]);
        write!(f, "{}{unit}", ms / size)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("2d", Some(172_800_000)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("10", None),
            ("-1s", None),
            ("1.5h", None),
            ("99999999999999999999d", None),
        ] {
            let read = text.parse::<Span>().ok().map(|span| span.0.as_millis());
            assert_eq!(read, ms, "{text:?}");
        }
    }

    #[test]
    fn written_as_read() {
        for text in ["500ms", "10s", "90s", "5m", "1h", "2d", "0ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }
}
