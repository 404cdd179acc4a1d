//! Times as people give them: spans, and when something ends.

use totoro_api::ticket::{rfc3339, unix};

/// The last second that RFC 3339 can write: of the year 9999.
const LAST: i64 = 253_402_300_799;

/// Reads an end: a time, a span from `now` (Unix seconds), or `never`. Answers it as the API reads it,
/// RFC 3339, and `""` for never; so `""` is never here, too.
///
/// # Errors
/// It is none of these: how to write one.
pub fn end(text: &str, now: i64) -> Result<String, String> {
    if text == "never" || text.is_empty() {
        return Ok(String::new());
    }
    let span = span_ms(text).map(|ms| i64::try_from(ms / 1000).unwrap_or(i64::MAX));
    let at = match span {
        Some(span) => now.checked_add(span).filter(|&at| at <= LAST),
        None => unix(text),
    };
    at.map(rfc3339)
        .ok_or_else(|| format!("write 7d, 2030-01-31T12:00:00Z or never, not {text:?}"))
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
    use super::end;

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
