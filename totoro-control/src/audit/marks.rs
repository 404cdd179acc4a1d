//! What the store records of the segments. Both marks move in the commit that takes what they tell
//! out of the store, or into it.

use serde::{Deserialize, Serialize};

use super::error::TrailError;
use super::id::as_text;
use super::segment::Name;
use crate::store::{Position, Store, read};

/// Where [`Moved`] stands.
pub(super) const MOVED: &str = "meta/audit_moved";
/// Where [`Dropped`] stands.
pub(super) const DROPPED: &str = "meta/audit_dropped";

/// Every event up to here is durable in a segment (or was, and was dropped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moved {
    #[serde(with = "as_text")]
    pub(super) up_to: Position,
}

/// Every segment up to this one is dropped, and an event has told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dropped {
    /// The newest of them.
    pub(super) up_to: Name,
    /// Where the last event in them stood.
    #[serde(with = "as_text")]
    pub(super) last: Position,
}

/// Both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) moved: Position,
    pub(super) dropped: Option<Dropped>,
}

impl Marks {
    pub(super) fn read(store: &dyn Store) -> Result<Self, TrailError> {
        let moved = read::<Moved>(store, MOVED)?.map(|record| record.value.up_to);
        let dropped = read::<Dropped>(store, DROPPED)?.map(|record| record.value);
        Ok(Marks {
            moved: moved.unwrap_or_default(),
            dropped,
        })
    }
}
