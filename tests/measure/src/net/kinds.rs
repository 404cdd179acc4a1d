//! How the users of a crowd behave, and end.

/// How a user behaves, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Asks, has its answer, says that it is done, and waits for the other side to say so.
    Normal,
    /// Asks, and ends by a reset.
    Reset,
    /// Asks, and closes.
    Fin,
    /// Holds the last ACK of its handshake back until its question goes with it.
    DataInAck,
    /// Never says a word, and closes.
    Idle,
}

/// All kinds.
pub(crate) const KINDS: [Kind; 5] = [
    Kind::Normal,
    Kind::Reset,
    Kind::Fin,
    Kind::DataInAck,
    Kind::Idle,
];

impl Kind {
    /// As figures name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Normal => "normal",
            Kind::Reset => "RST",
            Kind::Fin => "FIN",
            Kind::DataInAck => "data in the last ACK",
            Kind::Idle => "idle",
        }
    }
}

/// Who is in a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// As many of each kind, in any order: who comes first has the places where they are few.
    All,
    /// One kind alone: who takes longer than others to come in has no place beside them.
    Only(Kind),
}

impl Mix {
    /// The kinds of so many users; a seed has one order.
    pub(super) fn kinds(self, count: usize, seed: u32) -> Vec<Kind> {
        match self {
            Mix::Only(kind) => vec![kind; count],
            Mix::All => {
                let mut kinds: Vec<Kind> = KINDS.into_iter().cycle().take(count).collect();
                fastrand::Rng::with_seed(seed.into()).shuffle(&mut kinds);
                kinds
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, Mix};

    #[test]
    fn each_kind_is_as_often_there_and_each_comes_first_in_some_crowd() {
        let of = |kinds: &[super::Kind], kind| kinds.iter().filter(|one| **one == kind).count();
        let firsts: Vec<_> = (0..100).map(|seed| Mix::All.kinds(10, seed)[0]).collect();
        for kind in KINDS {
            assert_eq!(of(&Mix::All.kinds(10, 7), kind), 2, "{kind:?}");
            assert!(of(&firsts, kind) > 5, "{kind:?}");
            assert_eq!(Mix::Only(kind).kinds(3, 0), [kind; 3]);
        }
        assert_eq!(Mix::All.kinds(50, 3), Mix::All.kinds(50, 3));
    }
}
