//! `[audit]` of the settings: how long the trail is kept, and how much of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::Span;

const DAY: Duration = Duration::from_secs(86_400);
const YEARS_10: Duration = Duration::from_secs(3650 * 86_400);
/// What `keep_mib` may be.
const KEEP_MIB: std::ops::RangeInclusive<u32> = 16..=1024 * 1024;
/// Segments that the whole trail is cut into, at least: what is dropped at once is a small part.
const PARTS: u64 = 64;
/// What a segment may be, bytes: large ones cost time when addresses are cut, small ones files.
const SEGMENT: (u64, u64) = (1 << 20, 32 << 20);

/// How long the trail is kept. Whole segments are dropped, oldest first, and an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// Segments whose events all arrived longer ago are dropped. 1d to 3650d.
    pub keep_for: Span,
    /// The most that all segments take together, MiB. 16 to 1048576 (1 TiB).
    pub keep_mib: u32,
    /// After it only the prefix of a client's address is kept: IPv4 /24, IPv6 /48. 1d to 3650d.
    pub addresses_for: Span,
    /// The rest between moves from the store to the segments. 10ms to 1m.
    pub move_every: Span,
}

impl Default for AuditSettings {
    fn default() -> Self {
        AuditSettings {
            keep_for: Span(400 * DAY),
            keep_mib: 4096,
            addresses_for: Span(180 * DAY),
            move_every: Span(Duration::from_secs(1)),
        }
    }
}

impl AuditSettings {
    /// The first setting that cannot hold, and what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let spans = [
            ("audit.keep_for", self.keep_for.0),
            ("audit.addresses_for", self.addresses_for.0),
        ];
        for (key, span) in spans {
            if !(DAY..=YEARS_10).contains(&span) {
                return Some((key, "must be 1d to 3650d".to_owned()));
            }
        }
        if !KEEP_MIB.contains(&self.keep_mib) {
            return Some((
                "audit.keep_mib",
                "must be 16 to 1048576, i.e. at most 1 TiB".to_owned(),
            ));
        }
        let rest = Duration::from_millis(10)..=Duration::from_secs(60);
        (!rest.contains(&self.move_every.0))
            .then(|| ("audit.move_every", "must be 10ms to 1m".to_owned()))
    }

    /// All segments together at most, bytes.
    pub(super) fn keep_bytes(&self) -> u64 {
        u64::from(self.keep_mib) << 20
    }

    /// One segment, bytes: the next event after it begins a new one.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.keep_bytes() / PARTS).clamp(SEGMENT.0, SEGMENT.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_bounds_are_kept() {
        let good = AuditSettings::default();
        assert_eq!(good.problem(), None);
        assert_eq!(good.segment_bytes(), 32 << 20);
        let small = AuditSettings {
            keep_mib: 16,
            ..good
        };
        assert_eq!(small.problem(), None);
        assert_eq!(small.segment_bytes(), 1 << 20);
        for bad in [
            AuditSettings {
                keep_mib: 15,
                ..good
            },
            AuditSettings {
                keep_for: Span(DAY / 2),
                ..good
            },
            AuditSettings {
                addresses_for: Span(2 * YEARS_10),
                ..good
            },
            AuditSettings {
                move_every: Span(Duration::ZERO),
                ..good
            },
        ] {
            assert!(bad.problem().is_some(), "{bad:?}");
        }
    }
}
