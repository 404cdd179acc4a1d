//! Ids of events: the position in hex, so that ids sort by arrival. They are the cursors too.

use crate::store::Position;

/// The length of an id, characters.
pub(super) const LEN: usize = 2 * Position::LEN;

/// The id of what stands there.
#[must_use]
pub fn write_id(position: Position) -> String {
    hex::encode(position.encode())
}

/// Reads what [`write_id`] wrote.
#[must_use]
pub fn read_id(id: &str) -> Option<Position> {
    let mut bytes = [0; Position::LEN];
    hex::decode_to_slice(id, &mut bytes).ok()?;
    Position::decode(&bytes)
}

/// A position as an id in records.
pub(super) mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::store::Position;

    pub(in crate::audit) fn serialize<S: Serializer>(
        position: &Position,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::write_id(*position))
    }

    pub(in crate::audit) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Position, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::read_id(&text).ok_or_else(|| D::Error::custom("no event's id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort_by_arrival() {
        let early = Position {
            day: 19_000,
            revision: 9,
            index: 3,
        };
        let late = Position {
            day: 19_000,
            revision: 300,
            index: 0,
        };
        assert!(write_id(early) < write_id(late));
        assert_eq!(read_id(&write_id(late)), Some(late));
        for bad in ["", "zz", &"g".repeat(28), &"é".repeat(14), &"+1".repeat(14)] {
            assert_eq!(read_id(bad), None, "{bad:?}");
        }
    }
}
