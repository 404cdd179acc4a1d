//! What is dropped: whole segments, oldest first, by age and by size.

use serde_json::{Value, json};

use super::id::write_id;
use super::segment::{Index, Name};
use crate::store::Position;

/// Segments to drop together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drop {
    /// The newest of them.
    pub(super) up_to: Name,
    /// Where the last event in them stands.
    pub(super) last: Position,
    first: Position,
    segments: usize,
    events: u64,
    bytes: u64,
    why: &'static str,
}

impl Drop {
    /// What the event says of it.
    pub(super) fn detail(&self) -> Value {
        json!({
            "why": self.why,
            "segments": self.segments,
            "events": self.events,
            "bytes": self.bytes,
            "first": write_id(self.first),
            "last": write_id(self.last),
            "up_to": self.up_to.to_string(),
        })
    }
}

/// The segments after `dropped` that are older than `keep_for_s` seconds at `now` (Unix seconds),
/// or too many for `keep_bytes`. The active one always stays.
pub(super) fn choose(
    index: &Index,
    dropped: Option<Name>,
    now: i64,
    keep_for_s: i64,
    keep_bytes: u64,
) -> Option<Drop> {
    let mut left = index.bytes();
    let mut chosen: Option<Drop> = None;
    for segment in index.closed.iter() {
        let old = segment.name.ends_at().saturating_add(keep_for_s) <= now;
        let already = dropped.is_some_and(|dropped| segment.name <= dropped);
        if !(already || old || left > keep_bytes) {
            break;
        }
        left -= segment.bytes;
        if already {
            continue;
        }
        let (first, last, events) = match &segment.summary {
            Some(summary) => (summary.first, summary.last, summary.events),
            None => (Position::default(), Position::default(), 0),
        };
        let chosen = chosen.get_or_insert(Drop {
            up_to: segment.name,
            last,
            first,
            segments: 0,
            events: 0,
            bytes: 0,
            why: if old { "age" } else { "size" },
        });
        chosen.up_to = segment.name;
        chosen.last = chosen.last.max(last);
        chosen.segments += 1;
        chosen.events += events;
        chosen.bytes += segment.bytes;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::line::Summary;
    use super::super::segment::Segment;
    use super::*;

    const DAY: i64 = 86_400;

    fn segment(day: u32, number: u32, bytes: u64) -> Segment {
        let at = |index| Position {
            day,
            revision: u64::from(day),
            index,
        };
        Segment {
            name: Name { day, number },
            summary: Some(Summary {
                first: at(0),
                last: at(9),
                events: 10,
                earliest: String::new(),
                latest: String::new(),
            }),
            bytes,
            sealed: true,
            prefixes_only: false,
            damaged: false,
        }
    }

    fn index(closed: Vec<Segment>, active: u64) -> Index {
        Index {
            closed: Arc::new(closed),
            active: Some(segment(1000, 1, active)),
            end: Position::default(),
        }
    }

    #[test]
    fn by_age_to_the_second_and_by_size_to_the_byte() {
        let index = index(
            vec![segment(10, 1, 5), segment(10, 2, 5), segment(11, 1, 5)],
            5,
        );
        let up_to = |now, keep_bytes| {
            let drop = choose(&index, None, now, 100 * DAY, keep_bytes)?;
            Some((drop.up_to.day, drop.up_to.number, drop.segments, drop.why))
        };
        assert_eq!(up_to(111 * DAY - 1, 20), None);
        assert_eq!(up_to(111 * DAY, 20), Some((10, 2, 2, "age")));
        assert_eq!(up_to(0, 19), Some((10, 1, 1, "size")));
        assert_eq!(up_to(0, 15), Some((10, 1, 1, "size")));
        assert_eq!(up_to(0, 14), Some((10, 2, 2, "size")));
        assert_eq!(up_to(1000 * DAY, 20), Some((11, 1, 3, "age")));
        assert_eq!(
            up_to(0, 0),
            Some((11, 1, 3, "size")),
            "the active one stays"
        );
        let dropped = Some(Name { day: 10, number: 2 });
        assert_eq!(choose(&index, dropped, 0, DAY, 14), None, "told once");
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_no_more_goes_than_it_takes(
            sizes in proptest::collection::vec(1u64..100, 0..40),
            active in 0u64..100,
            keep in 0u64..2000,
        ) {
            let closed: Vec<_> =
                (1..).zip(&sizes).map(|(number, &bytes)| segment(5, number, bytes)).collect();
            let all = index(closed, active);
            let drop = choose(&all, None, 0, DAY, keep);
            let gone = drop.as_ref().map_or(0, |drop| drop.segments);
            let left: u64 = sizes[gone..].iter().sum::<u64>() + active;
            prop_assert!(left <= keep || gone == sizes.len());
            if let Some(drop) = drop {
                prop_assert!(left + sizes[gone - 1] > keep, "the last one had to go");
                prop_assert_eq!(drop.bytes, sizes[..gone].iter().sum::<u64>());
            }
        }
    }
}
