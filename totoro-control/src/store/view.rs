//! What can be read: sled, and over it in memory what it does not have yet.
//!
//! Changes go to the active layer. Once that is large it is frozen, and written to sled while a new
//! one takes what comes; then it is dropped. What comes and goes within one layer's life, like
//! events on their way to a segment, never costs sled anything.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quick_cache::sync::Cache;

use super::writer::{data_key, split};
use super::{Stamp, StoreError, Versioned};

/// Entries of the layers that are looked at under one lock.
const CHUNK: usize = 1024;
/// Revisions that are remembered at most.
const MAX_KNOWN: usize = 50_000;
/// Stamps, of which each key has one: 128 KiB. Two keys with the same one cost readers of the one a
/// look when the other changes.
const STAMPS: u32 = 1 << 14;
/// What a key costs in memory beside its bytes and its value's, about.
const OVERHEAD: usize = 96;

/// What stands under a key of a layer.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) revision: u64,
    /// `None` = removed.
    pub(super) value: Option<Vec<u8>>,
    /// Nothing stands under this key below the layer.
    alone: bool,
}

/// Changes, by key.
#[derive(Debug, Default)]
pub(super) struct Layer {
    entries: BTreeMap<Vec<u8>, Slot>,
    bytes: usize,
}

impl Layer {
    /// Applies a change. `alone`: nothing stands under this key elsewhere.
    pub(super) fn apply(
        &mut self,
        key: Vec<u8>,
        revision: u64,
        value: Option<Vec<u8>>,
        alone: bool,
    ) {
        let size = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        // One way down the tree: its keys are long, alike, and rarely in the processor's cache.
        match self.entries.entry(key) {
            Entry::Occupied(old) if value.is_none() && old.get().alone => {
                let (key, slot) = old.remove_entry();
                self.bytes -= OVERHEAD + key.len() + size(&slot.value);
            }
            Entry::Occupied(mut old) => {
                let slot = old.get_mut();
                self.bytes -= size(&slot.value);
                self.bytes += size(&value);
                slot.alone |= alone;
                (slot.revision, slot.value) = (revision, value);
            }
            Entry::Vacant(free) => {
                self.bytes += OVERHEAD + free.key().len() + size(&value);
                free.insert(Slot {
                    revision,
                    value,
                    alone,
                });
            }
        }
    }

    /// All of it in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Slot)> {
        self.entries.iter()
    }

    /// Memory, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Layers {
    active: Layer,
    /// On its way to sled.
    frozen: Option<Arc<Layer>>,
    /// How many layers have gone to sled.
    thaws: u64,
}

impl Layers {
    /// What they have to say of a key.
    fn above(&self, key: &[u8]) -> Option<&Slot> {
        let frozen = || self.frozen.as_ref()?.entries.get(key);
        self.active.entries.get(key).or_else(frozen)
    }
}

/// The store as readers see it. One thread changes it.
pub(super) struct View {
    tree: ::sled::Tree,
    layers: RwLock<Layers>,
    /// Revisions that were asked for, since they are asked for again and again. What is added still
    /// stands under the layers' lock, and what changes is removed under it: it is never old.
    known: Cache<Vec<u8>, u64>,
    /// How often keys have changed, by a part of their hash.
    stamps: Box<[AtomicU64]>,
}

impl View {
    /// sled, and what it does not have yet.
    pub(super) fn new(tree: ::sled::Tree, active: Layer) -> Self {
        let frozen = None;
        View {
            tree,
            layers: RwLock::new(Layers {
                active,
                frozen,
                thaws: 0,
            }),
            known: Cache::new(MAX_KNOWN),
            stamps: (0..STAMPS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// As long as it holds, so does what stands under the key. To be asked before that is read.
    pub(super) fn stamp(&self, key: &[u8]) -> Stamp {
        let place = place_of(key);
        let count = self.stamps[place as usize].load(Ordering::Acquire);
        Stamp { place, count }
    }

    /// Whether nothing has changed that has this stamp.
    pub(super) fn is_still(&self, Stamp { place, count }: Stamp) -> bool {
        let stamp = self.stamps.get(place as usize);
        stamp.is_some_and(|stamp| stamp.load(Ordering::Acquire) == count)
    }

    fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the changes of one commit.
    pub(super) fn change(&self, revision: u64, changes: Vec<(Vec<u8>, Option<Vec<u8>>, bool)>) {
        let mut layers = self.write();
        for (key, value, alone) in changes {
            if !alone {
                self.known.remove(&key);
                // Under the lock: whoever has the stamp as it is now reads what stands then.
                self.stamps[place_of(&key) as usize].fetch_add(1, Ordering::Release);
            }
            layers.active.apply(key, revision, value, alone);
        }
    }

    /// What the active layer takes, bytes; and whether another is on its way to sled.
    pub(super) fn load(&self) -> (usize, bool) {
        let layers = self.read();
        (layers.active.bytes(), layers.frozen.is_some())
    }

    /// Puts the active layer aside to be written to sled. There is none aside already.
    pub(super) fn freeze(&self) -> Arc<Layer> {
        let mut layers = self.write();
        let frozen = Arc::new(std::mem::take(&mut layers.active));
        layers.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    /// What was put aside is in sled.
    pub(super) fn thaw(&self) {
        let mut layers = self.write();
        layers.frozen = None;
        layers.thaws += 1;
    }

    /// What stands under a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        let versioned = |slot: &Slot| {
            let revision = slot.revision;
            let value = slot.value.clone();
            value.map(|value| Versioned { revision, value })
        };
        // A layer is dropped only after sled has it, so what is not above is below.
        if let Some(slot) = self.read().above(key) {
            return Ok(versioned(slot));
        }
        let stored = self.tree.get(data_key(key)).map_err(StoreError::Engine)?;
        Ok(stored.map(|stored| under(&stored)))
    }

    /// The revision of what stands under a key.
    pub(super) fn revision(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.look_revision(key, true)
    }

    /// As [`View::revision`], for a commit's precondition: what is changed again and again, like a
    /// node's head, would be remembered for nothing.
    pub(super) fn revision_once(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.look_revision(key, false)
    }

    /// `remember`: also what a layer has.
    fn look_revision(&self, key: &[u8], remember: bool) -> Result<Option<u64>, StoreError> {
        if let Some(known) = self.known.get(key) {
            return Ok(Some(known));
        }
        let thaws = {
            let layers = self.read();
            if let Some(slot) = layers.above(key) {
                let found = slot.value.as_ref().map(|_| slot.revision);
                if let Some(revision) = found.filter(|_| remember) {
                    self.known.insert(key.to_owned(), revision);
                }
                return Ok(found);
            }
            layers.thaws
        };
        // sled may wait for its disk: nobody else must wait for that.
        let stored = self.tree.get(data_key(key)).map_err(StoreError::Engine)?;
        let found = stored.map(|stored| split(&stored).0);
        if let Some(revision) = found {
            let layers = self.read();
            // What has changed since is in a layer, unless one has gone to sled.
            if layers.thaws == thaws && layers.above(key).is_none() {
                self.known.insert(key.to_owned(), revision);
            }
        }
        Ok(found)
    }

    /// `from <= key < to`, at most `limit`, in order or backwards.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: Bound<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<super::Entry>, StoreError> {
        let (mut low, mut high) = (from.to_vec(), to.map(<[u8]>::to_vec));
        let mut found = Vec::new();
        while found.len() < limit && !is_empty(&low, &high) {
            // Few of them, where few are asked for.
            let most = (limit - found.len()).clamp(16, CHUNK);
            let over = self.chunk(&low, &high, most, reverse);
            let part = match over.last() {
                // There may be more behind it: this part ends with it.
                Some((last, _)) if over.len() == most => last.clone(),
                _ => {
                    self.merge(over, (&low, &high), limit, reverse, &mut found)?;
                    break;
                }
            };
            if reverse {
                self.merge(over, (&part, &high), limit, true, &mut found)?;
                high = Bound::Excluded(part);
            } else {
                let next = [&part[..], &[0]].concat();
                let end = Bound::Excluded(next.clone());
                self.merge(over, (&low, &end), limit, false, &mut found)?;
                low = next;
            }
        }
        Ok(found)
    }

    /// The first entries of both layers within these bounds, or the last ones, backwards.
    fn chunk(
        &self,
        low: &[u8],
        high: &Bound<Vec<u8>>,
        most: usize,
        reverse: bool,
    ) -> Vec<(Vec<u8>, Slot)> {
        let bounds = (Bound::Included(low), high.as_ref().map(Vec::as_slice));
        let layers = self.read();
        let copied = |(key, slot): (&Vec<u8>, &Slot)| (key.clone(), slot.clone());
        let of = |layer: &Layer| -> Vec<(Vec<u8>, Slot)> {
            let range = layer.entries.range::<[u8], _>(bounds);
            match reverse {
                true => range.rev().take(most).map(copied).collect(),
                false => range.take(most).map(copied).collect(),
            }
        };
        let active = of(&layers.active);
        let Some(frozen) = &layers.frozen else {
            return active;
        };
        let mut merged: BTreeMap<Vec<u8>, Slot> = of(frozen).into_iter().collect();
        merged.extend(active);
        match reverse {
            true => merged.into_iter().rev().take(most).collect(),
            false => merged.into_iter().take(most).collect(),
        }
    }

    /// Adds what stands within these bounds: `over` is what the layers have there.
    fn merge(
        &self,
        over: Vec<(Vec<u8>, Slot)>,
        (low, high): (&[u8], &Bound<Vec<u8>>),
        limit: usize,
        reverse: bool,
        found: &mut Vec<super::Entry>,
    ) -> Result<(), StoreError> {
        let end = match high {
            Bound::Excluded(key) => data_key(key),
            Bound::Included(_) | Bound::Unbounded => vec![super::writer::DATA + 1],
        };
        let mut below = self.tree.range(data_key(low)..end);
        let mut next = || {
            if reverse {
                below.next_back()
            } else {
                below.next()
            }
        };
        let is_before = |one: &[u8], other: &[u8]| if reverse { one > other } else { one < other };
        let mut over = over.into_iter().peekable();
        let mut under_next = next();
        while found.len() < limit {
            let item = under_next.take().transpose().map_err(StoreError::Engine)?;
            let Some((full, stored)) = item else {
                // Nothing is below any more.
                let Some((key, slot)) = over.next() else {
                    break;
                };
                found.extend(standing(key, slot));
                continue;
            };
            let key = &full[1..];
            match over.peek() {
                Some((above, _)) if !is_before(key, above) => {
                    // It comes first, or stands in the other's place.
                    let same = above == key;
                    let Some((key, slot)) = over.next() else {
                        break;
                    };
                    found.extend(standing(key, slot));
                    under_next = if same {
                        next()
                    } else {
                        Some(Ok((full, stored)))
                    };
                }
                _ => {
                    found.push((key.to_vec(), under(&stored)));
                    under_next = next();
                }
            }
        }
        Ok(())
    }
}

/// Which stamp is a key's.
fn place_of(key: &[u8]) -> u32 {
    crc32fast::hash(key) % STAMPS
}

fn is_empty(low: &[u8], high: &Bound<Vec<u8>>) -> bool {
    matches!(high, Bound::Excluded(high) if low >= &high[..])
}

fn standing(key: Vec<u8>, slot: Slot) -> Option<super::Entry> {
    let revision = slot.revision;
    slot.value.map(|value| (key, Versioned { revision, value }))
}

fn under(stored: &[u8]) -> Versioned {
    let (revision, value) = split(stored);
    Versioned {
        revision,
        value: value.to_vec(),
    }
}
