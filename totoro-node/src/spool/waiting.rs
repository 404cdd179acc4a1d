//! What waits in the spool, as memory has it: for each event where it stands in the log.

use std::collections::VecDeque;

use crate::store::Spot;

/// Key in `META`: the spool's id.
pub(super) const ID: &str = "spool_id";
/// Key in `META`: the seq of the next event.
pub(super) const NEXT: &str = "spool_next";
/// Key in `META`: the seq of the newest event that tells of a loss.
pub(super) const LOSS: &str = "spool_loss";
/// Key in `META`: up to which seq the control plane had this spool. No event up to there waits.
pub(crate) const HAD: &str = "spool_had";
/// An event's bytes in the log that are not its own: the op's, and the seq.
const AROUND: u64 = crate::store::OP as u64 + 8;

/// One event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) spot: Spot,
    /// It is a sample or a sum.
    pub(crate) sampled: bool,
}

impl Entry {
    /// What the event takes, bytes.
    pub(super) const fn bytes(&self) -> u64 {
        (self.spot.length as u64).saturating_sub(AROUND)
    }
}

/// All that waits, and the spool's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// In order.
    events: VecDeque<Entry>,
    bytes: u64,
    /// Empty where there is no spool yet.
    pub(super) id: String,
    pub(super) next: u64,
    pub(super) loss: u64,
    pub(super) had: u64,
}

impl Waiting {
    /// Takes note of a value of `META`; `None` where it can't be read. What is forgotten by it goes
    /// to `freed`.
    pub(crate) fn note(&mut self, key: &[u8], value: &[u8], freed: impl FnMut(Spot)) -> Option<()> {
        let number = || serde_json::from_slice(value).ok();
        if key == ID.as_bytes() {
            self.id = serde_json::from_slice(value).ok()?;
        } else if key == NEXT.as_bytes() {
            self.next = number()?;
        } else if key == LOSS.as_bytes() {
            self.loss = number()?;
        } else if key == HAD.as_bytes() {
            self.forget(number()?, freed);
        }
        Some(())
    }

    /// Forgets everything up to `seq`, which the control plane has.
    pub(crate) fn forget(&mut self, seq: u64, mut freed: impl FnMut(Spot)) {
        self.had = seq;
        while let Some(first) = self.events.front().filter(|first| first.seq <= seq) {
            self.bytes -= first.bytes();
            freed(first.spot);
            self.events.pop_front();
        }
        if self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }

    /// Adds an event, in its place.
    pub(crate) fn put(&mut self, entry: Entry, mut freed: impl FnMut(Spot)) {
        self.bytes += entry.bytes();
        match self.search(entry.seq) {
            Ok(at) => {
                let before = std::mem::replace(&mut self.events[at], entry);
                self.bytes -= before.bytes();
                freed(before.spot);
            }
            Err(at) => self.events.insert(at, entry),
        }
    }

    /// Drops events, whose seqs are in order.
    pub(crate) fn drop(&mut self, seqs: &[u64], mut freed: impl FnMut(Spot)) {
        let bytes = &mut self.bytes;
        self.events.retain(|entry| {
            let goes = seqs.binary_search(&entry.seq).is_ok();
            if goes {
                *bytes -= entry.bytes();
                freed(entry.spot);
            }
            !goes
        });
    }

    /// One of them.
    pub(crate) fn find(&self, seq: u64) -> Option<&Entry> {
        self.search(seq).ok().map(|at| &self.events[at])
    }

    /// Those from `seq` on, in order.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        let at = self.search(seq).unwrap_or_else(|at| at);
        self.events.range(at..)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// What they take, bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn search(&self, seq: u64) -> Result<usize, usize> {
        // Most come behind all others.
        match self.events.back() {
            Some(last) if last.seq >= seq => {
                self.events.binary_search_by_key(&seq, |entry| entry.seq)
            }
            _ => Err(self.events.len()),
        }
    }
}
