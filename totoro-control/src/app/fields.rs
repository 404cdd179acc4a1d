//! Checks of what people write, shared by the use cases. Each error names the field.

use totoro_api::Reason;
use totoro_api::limits::{BadLimit, Limits};
use totoro_api::ports::{Pool, PortSet};
use totoro_api::ticket::rfc3339;

use super::Failure;

/// Ranges in one set of ports at most: keeps records well below the store's largest value.
const MAX_RANGES: usize = 32;

/// An id as it may stand in a path and in a key of the store.
///
/// # Errors
/// `not_found`: what cannot be an id names nothing.
pub fn checked_id(id: &str) -> Result<&str, Failure> {
    let fits = !id.is_empty()
        && id.len() <= 64
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits {
        Ok(id)
    } else {
        Err(Reason::NotFound.into())
    }
}

/// A text of at most `max` characters without control characters.
pub(super) fn text(field: &str, text: &str, max: usize) -> Result<(), Failure> {
    if text.chars().count() > max {
        return Err(Failure::malformed(format!(
            "{field}: at most {max} characters"
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Failure::malformed(format!(
            "{field}: no control characters"
        )));
    }
    Ok(())
}

/// A time as people write it; `""` is never. Unix seconds.
pub(super) fn when(field: &str, text: &str) -> Result<Option<i64>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    totoro_api::ticket::unix(text)
        .filter(|&at| at >= 0)
        .map(Some)
        .ok_or_else(|| {
            Failure::malformed(format!("{field}: write a time like 2030-01-31T12:00:00Z"))
        })
}

/// Refuses an end that is over before it begins. The caller's clock may be wrong, so ours is named.
pub(super) fn to_come(field: &str, at: Option<i64>, now: i64) -> Result<(), Failure> {
    match at {
        Some(at) if at <= now => Err(Failure::malformed(format!(
            "{field}: {} is past, it is {} here; write a time to come",
            rfc3339(at),
            rfc3339(now)
        ))),
        _ => Ok(()),
    }
}

/// Limits as a person wrote them, of a node with this pool.
pub(super) fn limits(field: &str, limits: &Limits, pool: &Pool) -> Result<(), Failure> {
    limits.check().map_err(
        |BadLimit {
             field: name,
             problem,
         }| { Failure::malformed(format!("{field}.{name}: {problem}")) },
    )?;
    if limits.types.as_ref().is_some_and(|types| types.len() > 2) {
        return Err(Failure::malformed(format!(
            "{field}.types: names a type twice"
        )));
    }
    let Some(ports) = &limits.ports else {
        return Ok(());
    };
    ranges(&format!("{field}.ports"), ports)?;
    let lent: PortSet = pool
        .tcp
        .ranges()
        .iter()
        .chain(pool.udp.ranges())
        .copied()
        .collect();
    if !ports.is_subset(&lent) {
        return Err(Failure::refused(
            Reason::PortOutsidePool,
            format!("{field}.ports: {ports} is not within the node's pool, {lent}"),
        ));
    }
    Ok(())
}

/// Ports of few enough ranges.
pub(super) fn ranges(field: &str, ports: &PortSet) -> Result<(), Failure> {
    if ports.ranges().len() > MAX_RANGES {
        return Err(Failure::malformed(format!(
            "{field}: at most {MAX_RANGES} ranges"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_reach_other_keys() {
        assert!(checked_id("n-0123456789ab").is_ok());
        for bad in ["", "a/b", "..", "a\0", "é", &"a".repeat(65)] {
            assert!(checked_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(when("t", "1970-01-01T00:01:00Z").unwrap(), Some(60));
        assert_eq!(when("t", "1970-01-01T02:00:00+02:00").unwrap(), Some(0));
        assert_eq!(when("t", "").unwrap(), None);
        assert!(when("t", "tomorrow").is_err() && when("t", "1960-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn an_end_is_to_come() {
        assert!(to_come("t", None, 60).is_ok() && to_come("t", Some(61), 60).is_ok());
        let said = to_come("t", Some(60), 60).unwrap_err().to_string();
        assert!(said.contains("t: 1970-01-01T00:01:00Z is past"), "{said}");
    }

    #[test]
    fn ports_must_be_lent() {
        let pool = Pool {
            tcp: "100-200".parse().unwrap(),
            udp: "300".parse().unwrap(),
        };
        let limits = |ports: &str| {
            let written = Limits {
                ports: ports.parse().ok(),
                ..Limits::default()
            };
            super::limits("limits", &written, &pool).map_err(|error| error.to_string())
        };
        assert_eq!(limits("100-150,300"), Ok(()));
        assert!(limits("100-201").unwrap_err().contains("port_outside_pool"));
    }
}
