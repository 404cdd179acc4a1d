//! frps's heap: how much of its memory Go lets fill up before it looks for what can be freed.

use super::Status;

/// What Go's runtime is told by its environment (its `runtime` package documents both).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told<'a> {
    /// `GOGC`: percent of what is in use that may come on top; 100 unless it is told.
    pub(super) gogc: Option<&'a str>,
    /// `GOMEMLIMIT`: above it, it looks more often, whatever `GOGC` says.
    pub(super) limit: Option<&'a str>,
}

/// Whether it looks before it comes to `most`, what its cgroup may have, bytes.
pub(super) fn judge(told: Told<'_>, most: Option<u64>) -> (Status, String) {
    let rare = told
        .gogc
        .is_some_and(|text| text.parse::<u32>().map_or(true, |percent| percent > 100));
    let said = format!(
        "GOGC={}, GOMEMLIMIT={}",
        told.gogc.unwrap_or("100"),
        told.limit.unwrap_or("off")
    );
    let Some(most) = most.filter(|_| rare) else {
        return (Status::Ok, said);
    };
    match told.limit.and_then(bytes) {
        Some(limit) if limit < most => (Status::Ok, format!("{said} of {} MiB", most >> 20)),
        _ => (
            Status::Warn,
            format!(
                "{said}: it may fill the {} MiB of its cgroup with what nobody uses, and is ended then; set \
                 GOMEMLIMIT={}MiB (systemctl edit totoro-frps)",
                most >> 20,
                (most >> 20) * 4 / 5
            ),
        ),
    }
}

/// A size as Go reads it: an integer, and its unit.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];
    let unit = UNITS
        .iter()
        .find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    number.parse::<u64>().ok()?.checked_mul(1 << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_heap() {
        let most = Some(2_048 << 20);
        // What, GOGC, GOMEMLIMIT, the cgroup's memory, the status, what is said.
        for (what, gogc, limit, most, status, says) in [
            (
                "Go's own way",
                None,
                None,
                most,
                Status::Ok,
                "GOGC=100, GOMEMLIMIT=off",
            ),
            (
                "the unit's",
                Some("400"),
                Some("1638MiB"),
                most,
                Status::Ok,
                "of 2048 MiB",
            ),
            (
                "in bytes",
                Some("400"),
                Some("1073741824"),
                most,
                Status::Ok,
                "of 2048 MiB",
            ),
            (
                "no limit",
                Some("400"),
                None,
                most,
                Status::Warn,
                "GOMEMLIMIT=1638MiB (",
            ),
            (
                "one that is off",
                Some("400"),
                Some("off"),
                most,
                Status::Warn,
                "GOMEMLIMIT=1638MiB (",
            ),
            (
                "one above it",
                Some("400"),
                Some("3GiB"),
                most,
                Status::Warn,
                "GOMEMLIMIT=1638MiB (",
            ),
            (
                "no collection",
                Some("off"),
                None,
                most,
                Status::Warn,
                "GOMEMLIMIT=1638MiB (",
            ),
            (
                "one that overflows",
                Some("400"),
                Some("99999999999TiB"),
                most,
                Status::Warn,
                "set ",
            ),
            (
                "no cgroup's limit",
                Some("400"),
                None,
                None,
                Status::Ok,
                "GOGC=400, GOMEMLIMIT=off",
            ),
            ("often", Some("50"), None, most, Status::Ok, "GOGC=50"),
        ] {
            let (is, said) = judge(Told { gogc, limit }, most);
            assert_eq!(is, status, "{what}");
            assert!(said.contains(says), "{what}: {said}");
        }
    }
}
