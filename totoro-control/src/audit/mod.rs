//! The audit trail: append-only, in the order of arrival. Its events are written in the commit of
//! what they tell, so there is no change without its event and no event without its change.
//!
//! The store is only their outbox, since its memory grows with its size: the mover appends them to
//! segment files by day (`mover` tells the steps), and a query reads segments and outbox as one
//! sequence (`query`). A segment is NDJSON with a checksum in each line (`line`); whole segments
//! are dropped by age and size (`retention`), and old ones lose clients' addresses (`rewrite`).

mod address;
mod bound;
mod draft;
mod error;
mod file;
mod id;
mod line;
mod marks;
mod mover;
mod outbox;
mod query;
mod recover;
mod retention;
mod rewrite;
mod segment;
mod settings;
mod trail;
mod upkeep;
mod writer;

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;
use totoro_api::wire::event::{Actor, Subject};

pub use draft::{Draft, Spooled, record, record_lease, record_spooled};
pub use error::TrailError;
pub use id::{read_id, write_id};
pub use line::{Line, Seal, Summary, read as read_line, write_event, write_seal};
pub use query::{Ask, Filter, Page};
pub use settings::AuditSettings;
pub use trail::{Figures, Trail};

/// Where events wait for the mover: `audit/` ‖ position.
pub(crate) const PREFIX: &str = "audit/";

/// Who did it and in which request; what all events of one request share. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Author {
    /// Who.
    pub actor: Arc<Actor>,
    /// The request's id; none for what the control plane does by itself.
    pub request_id: Option<Arc<str>>,
}

impl Author {
    /// The control plane itself.
    #[must_use]
    pub fn system() -> Self {
        let actor = Actor {
            kind: "system".to_owned(),
            ..Actor::default()
        };
        Author {
            actor: Arc::new(actor),
            request_id: None,
        }
    }

    /// Somebody of this kind at this address.
    #[must_use]
    pub fn remote(kind: &str, id: &str, address: IpAddr, request_id: &str) -> Self {
        let address = address.to_canonical().to_string();
        let actor = Actor {
            kind: kind.to_owned(),
            id: id.to_owned(),
            address,
        };
        Author {
            actor: Arc::new(actor),
            request_id: Some(request_id.into()),
        }
    }

    /// An event of this kind by this author.
    #[must_use]
    pub fn event(&self, kind: &str) -> Draft {
        self.about(Subject {
            kind: kind.to_owned(),
            ..Subject::default()
        })
    }

    /// An event about this by this author.
    #[must_use]
    pub fn about(&self, subject: Subject) -> Draft {
        Draft::new(self.clone(), subject)
    }
}

/// The first and the last milliseconds that RFC 3339 can tell: of the years 0000 and 9999.
const TELLABLE_MS: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

/// Unix milliseconds as RFC 3339, UTC, always with three decimals. What lies beyond its years is the
/// first or the last of them: the texts sort as the times do.
#[must_use]
pub fn rfc3339_ms(ms: i64) -> String {
    let ms = ms.clamp(TELLABLE_MS.0, TELLABLE_MS.1);
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // By hand: each event has one, and `time`'s formatting takes ten times as long.
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut write = |at: std::ops::Range<usize>, mut number: u32| {
        for digit in text[at].iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    };
    write(0..4, at.year().unsigned_abs());
    write(5..7, u8::from(at.month()).into());
    write(8..10, at.day().into());
    write(11..13, at.hour().into());
    write(14..16, at.minute().into());
    write(17..19, at.second().into());
    write(20..23, at.millisecond().into());
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod trail_tests;

#[cfg(test)]
mod tests {
    use totoro_api::wire::event::AuditEvent;

    use super::*;
    use crate::store::{Op, SledStore, Tx};

    #[test]
    fn times_sort_as_text() {
        assert_eq!(rfc3339_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_ms(1_700_000_000_005), "2023-11-14T22:13:20.005Z");
        assert_eq!(rfc3339_ms(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_ms(-1), "1969-12-31T23:59:59.999Z");
        let (first, last) = ("0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_ms(-62_167_219_199_999), "0000-01-01T00:00:00.001Z");
        for beyond in [
            i64::MIN,
            -220_000_000_000_000,
            -62_167_219_200_001,
            -62_167_219_200_000,
        ] {
            assert_eq!(rfc3339_ms(beyond), first, "{beyond}");
        }
        for beyond in [253_402_300_800_000, i64::MAX] {
            assert_eq!(rfc3339_ms(beyond), last, "{beyond}");
        }
    }

    #[test]
    fn no_event_is_before_1970_or_after_it_arrived() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path(), 1 << 20).unwrap();
        let (author, subject) = (Author::system(), Subject::default());
        let now_ms = 1_700_000_000_005;
        let at = |at_ms| {
            let mut tx = Tx::new(&store);
            let place = Spooled {
                spool: "s",
                seq: 1,
                boot: "b",
                at_ms,
            };
            record_spooled(&mut tx, &author, "n", place, &subject, now_ms).unwrap();
            let ops = tx.into_commit().ops;
            let [Op::Append(_, text)] = &ops[..] else {
                panic!("{ops:?}");
            };
            serde_json::from_slice::<AuditEvent>(text).unwrap().at
        };
        assert_eq!(at(now_ms - 1), "2023-11-14T22:13:20.004Z");
        for ahead in [now_ms, now_ms + 1, i64::MAX] {
            assert_eq!(at(ahead), "2023-11-14T22:13:20.005Z", "{ahead}");
        }
        // The second is in the year -5002.
        for long_ago in [-1, -220_000_000_000_000, i64::MIN] {
            assert_eq!(at(long_ago), "1970-01-01T00:00:00.000Z", "{long_ago}");
        }
    }
}
