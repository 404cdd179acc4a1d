//! Times as people give them: spans, and when something ends.

use totoro_api::ticket::{rfc3339, unix};

/// The last second that RFC 3339 can write: of the year 9999.
const LAST: i64 = 253_402_300_799;

/// When something ends, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `never`, or nothing.
    Never,
    /// After so many whole seconds: `7d`.
    In(i64),
    /// At this time, Unix seconds: `2030-01-31T12:00:00Z`.
    At(i64),
}

impl std::str::FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" || text.is_empty() {
            return Ok(End::Never);
        }
        let seconds = |ms| i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        let span = span_ms(text).map(|ms| End::In(seconds(ms)));
        span.or_else(|| unix(text).map(End::At))
            .ok_or_else(|| no_end(text))
    }
}

impl End {
    /// In how many seconds from `now` (Unix seconds) it is, whole ones; `None` for never.
    ///
    /// # Errors
    /// In less than one, or past what a time can be: what to write instead.
    pub fn left(self, now: i64) -> Result<Option<i64>, String> {
        let left = match self {
            End::Never => return Ok(None),
            End::In(span) => span,
            End::At(at) => at.saturating_sub(now),
        };
        if left < 1 {
            return Err(match self {
                End::At(_) => format!(
                    "it is past by this machine's clock ({}); write a later time, or a span, as 1d",
                    rfc3339(now)
                ),
                _ => {
                    "it would be over at once; write 1s or more, a later time, or never".to_owned()
                }
            });
        }
        if left > LAST.saturating_sub(now) {
            return Err("it is beyond the year 9999; write never".to_owned());
        }
        Ok(Some(left))
    }
}

/// Reads an end: a time, a span from `now` (Unix seconds), or `never`. Answers it as the API reads it,
/// RFC 3339, and `""` for never; so `""` is never here, too.
///
/// # Errors
/// It is none of these: how to write one.
pub fn end(text: &str, now: i64) -> Result<String, String> {
    let at = match text.parse()? {
        End::Never => return Ok(String::new()),
        End::In(span) => now.checked_add(span).filter(|&at| at <= LAST),
        End::At(at) => Some(at),
    };
    at.map(rfc3339).ok_or_else(|| no_end(text))
}

fn no_end(text: &str) -> String {
    format!("write 7d, 2030-01-31T12:00:00Z or never, not {text:?}")
}

/// Reads a time that has been: a time, or a span back from `now` (Unix seconds). Answers it as the API
/// reads it, RFC 3339.
///
/// # Errors
/// It is neither: how to write one.
pub fn back(text: &str, now: i64) -> Result<String, String> {
    let at = match text.parse() {
        // All that is longer ago than there are times for is since the first one.
        Ok(End::In(span)) => now.saturating_sub(span).max(0),
        Ok(End::At(at)) => at,
        Ok(End::Never) | Err(_) => {
            return Err(format!("write 1h or 2030-01-31T12:00:00Z, not {text:?}"));
        }
    };
    Ok(rfc3339(at))
}

/// A span of time in milliseconds: `500ms`, `30s`, `10m`, `1h`, `7d`. `None`: it is no such text, or more
/// than there are numbers for.
#[must_use]
pub fn span_ms(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|symbol: char| symbol.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().ok()?;
    number.checked_mul(match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{End, back, end};

    #[test]
    fn what_is_over_at_once_is_refused_with_a_next_step() {
        let left = |text: &str| text.parse::<End>().unwrap().left(1_000_000_000);
        assert_eq!(left("never"), Ok(None));
        assert_eq!(left("1500ms"), Ok(Some(1)));
        assert_eq!(left("90d"), Ok(Some(90 * 86_400)), "no cap");
        assert_eq!(left("2001-09-09T01:46:50Z"), Ok(Some(10)));
        for (over, next) in [
            ("500ms", "1s or more"),
            ("0s", "never"),
            ("2001-09-09T01:46:40Z", "a span, as 1d"),
            ("1999-01-01T00:00:00Z", "2001-09-09T01:46:40Z"),
            ("9999999d", "never"),
        ] {
            let said = left(over).unwrap_err();
            assert!(said.contains(next), "{over}: {said}");
        }
    }

    #[test]
    fn times_that_have_been() {
        let of = |text| back(text, 1_000_000_000);
        assert_eq!(of("1d").as_deref(), Ok("2001-09-08T01:46:40Z"));
        assert_eq!(of("99999d").as_deref(), Ok("1970-01-01T00:00:00Z"));
        assert_eq!(
            of("2000-01-01T02:00:00+02:00").as_deref(),
            Ok("2000-01-01T00:00:00Z")
        );
        for bad in ["never", "", "yesterday", "-1h"] {
            let said = of(bad).unwrap_err();
            assert!(said.contains("1h") && said.contains(bad), "{said}");
        }
    }

    #[test]
    fn times_spans_and_never() {
        let of = |text| end(text, 1_000_000_000);
        assert_eq!(of("never").as_deref(), Ok(""));
        assert_eq!(of("").as_deref(), Ok(""));
        assert_eq!(of("90d").as_deref(), Ok("2001-12-08T01:46:40Z"));
        assert_eq!(of("1h"), of("60m"));
        assert_eq!(of("1500ms"), of("1s"));
        assert_eq!(of("2030-01-31T14:00:00+02:00"), of("2030-01-31T12:00:00Z"));
        for bad in [
            "7",
            "d",
            "-1d",
            "1.5h",
            "soon",
            "9999999d",
            "99999999999999999999d",
        ] {
            let said = of(bad).unwrap_err();
            assert!(said.contains(bad) && said.contains("never"), "{said}");
        }
    }
}
