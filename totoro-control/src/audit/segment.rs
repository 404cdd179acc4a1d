//! What is known in memory of the segment files: their names, and what each spans.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::{Date, Duration, Month};

use super::line::Summary;
use crate::store::Position;

/// How segment files end.
const SUFFIX: &str = ".ndjson";
/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;

/// A segment's name: the day of arrival, and which of that day's. Names order as their events do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Name {
    /// Days since 1970, UTC.
    pub(super) day: u32,
    /// From 1.
    pub(super) number: u32,
}

impl Name {
    /// Reads what `Display` wrote: `2030-01-31.0001.ndjson`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (date, number) = text.strip_suffix(SUFFIX)?.split_once('.')?;
        let mut parts = date.splitn(3, '-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
        let date = Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
        let name = Name {
            day: u32::try_from((date - epoch()).whole_days()).ok()?,
            number: number.parse().ok()?,
        };
        // Only one spelling names a segment: `+1` and `1` are none of ours.
        (name.to_string() == text).then_some(name)
    }

    /// When its day ends, Unix seconds: nothing in it arrived later.
    pub(super) fn ends_at(self) -> i64 {
        (i64::from(self.day) + 1) * DAY
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = epoch().saturating_add(Duration::days(i64::from(self.day)));
        let (year, month, day) = date.to_calendar_date();
        let (month, number) = (u8::from(month), self.number);
        write!(f, "{year:04}-{month:02}-{day:02}.{number:04}{SUFFIX}")
    }
}

const fn epoch() -> Date {
    time::OffsetDateTime::UNIX_EPOCH.date()
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: Name,
    /// What it spans; `None` when it has no event that can be read.
    pub(super) summary: Option<Summary>,
    /// Its durable length, bytes.
    pub(super) bytes: u64,
    /// It is complete and its last line says what is in it.
    pub(super) sealed: bool,
    /// Its client addresses are cut already.
    pub(super) prefixes_only: bool,
    /// Something in it cannot be read. It is left as it is.
    pub(super) damaged: bool,
}

impl Segment {
    /// Where its last event stands.
    pub(super) fn last(&self) -> Option<Position> {
        self.summary.as_ref().map(|summary| summary.last)
    }

    /// Whether events with `since <= at < until` can be in it.
    pub(super) fn may_hold(&self, since: Option<&str>, until: Option<&str>) -> bool {
        self.summary.as_ref().is_none_or(|summary| {
            since.is_none_or(|since| summary.latest.as_str() >= since)
                && until.is_none_or(|until| summary.earliest.as_str() < until)
        })
    }
}

/// All segments, in order. Cheap to clone: queries work on a copy.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Those that get no further event.
    pub(super) closed: Arc<Vec<Segment>>,
    /// The one that is appended to.
    pub(super) active: Option<Segment>,
    /// Everything up to here is in segments, or was, and nothing after it.
    pub(super) end: Position,
}

impl Index {
    /// Oldest first.
    pub(super) fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.closed.iter().chain(&self.active)
    }

    /// All of them together, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments().map(|segment| segment.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_order() {
        let name = Name {
            day: 20_781,
            number: 12,
        };
        assert_eq!(name.to_string(), "2026-11-24.0012.ndjson");
        for (day, number) in [(0, 1), (20_781, 12), (20_781, 123_456), (60_000, 9)] {
            let name = Name { day, number };
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for bad in [
            "",
            "db",
            "2026-11-24.ndjson",
            "2026-11-24.1.ndjson",
            "2026-11-24.+001.ndjson",
            "2026-02-30.0001.ndjson",
            "2026-11-24.0001.ndjson.tmp",
        ] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
        assert_eq!(Name { day: 0, number: 1 }.ends_at(), 86_400);
    }

    #[test]
    fn a_span_of_time_rules_segments_out() {
        let segment = Segment {
            name: Name { day: 1, number: 1 },
            summary: Some(Summary {
                first: Position::default(),
                last: Position::default(),
                events: 2,
                earliest: "2026-01-02".to_owned(),
                latest: "2026-01-04".to_owned(),
            }),
            bytes: 0,
            sealed: true,
            prefixes_only: false,
            damaged: false,
        };
        for (since, until, may) in [
            (None, None, true),
            (Some("2026-01-04"), None, true),
            (Some("2026-01-05"), None, false),
            (None, Some("2026-01-02"), false),
            (None, Some("2026-01-03"), true),
            (Some("2026-01-03"), Some("2026-01-04"), true),
        ] {
            assert_eq!(segment.may_hold(since, until), may, "{since:?} {until:?}");
        }
    }
}
