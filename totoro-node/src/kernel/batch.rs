//! Hash tables read many entries a call: one by one, a full node's take a tenth of a second, and a
//! large table that is nearly empty is searched from bucket to bucket for each entry.

#![expect(unsafe_code, reason = "the kernel fills in buffers")]

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::{MapData, MapType};

use super::sys::{self, Batch};
use super::{Context, Result, failed};

/// Bytes of keys and values that are read at once. The kernel locks one bucket at a time.
const BYTES: usize = 128 * 1024;
/// Entries that are read at once, at least.
const LEAST: usize = 64;

/// A hash table that is read as a whole. It has a descriptor of its own: nobody waits for a reader.
///
/// No reading is a snapshot: what comes meanwhile is there or is not, what goes too. But each key is
/// there once at most, and what stays is there.
pub struct Table<K, V> {
    map: OwnedFd,
    name: String,
    /// Values of one key: one, or one of each possible CPU.
    per_key: usize,
    /// Entries that are read at once, at first.
    room: usize,
    is: PhantomData<fn() -> (K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens a pinned hash table, of whichever kind.
    ///
    /// # Errors
    /// It is not there, is no hash table, or its keys or values have other sizes.
    pub fn open(pin: &Path) -> Result<Self> {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        let map = MapData::from_pin(pin).on("open the pinned map", name.clone())?;
        let info = map.info().on("open the pinned map", name.clone())?;
        let per_cpu = match info.map_type().on("open the pinned map", name.clone())? {
            MapType::Hash | MapType::LruHash => false,
            MapType::PerCpuHash | MapType::LruPerCpuHash => true,
            other => {
                let problem = format!("it is no hash table but {other:?}");
                return Err(failed("read", name, problem));
            }
        };
        let (is, should) = (
            (info.key_size() as usize, info.value_size() as usize),
            (size_of::<K>(), size_of::<V>()),
        );
        // What the kernel gives of a per-CPU value begins at multiples of eight bytes.
        if is != should || is.0 == 0 || is.1 == 0 || per_cpu && !is.1.is_multiple_of(8) {
            let problem = format!("its keys and values have {is:?} bytes, not {should:?}");
            return Err(failed("read", name, problem));
        }
        let per_key = if per_cpu { cpus()? } else { 1 };
        let map = map.fd().as_fd().try_clone_to_owned();
        Ok(Table {
            map: map.on("open the pinned map", name.clone())?,
            name: name.into_owned(),
            per_key,
            room: (BYTES / (is.0 + is.1 * per_key)).max(LEAST),
            is: PhantomData,
        })
    }

    /// Reads so many entries at once, where they are not more that stand in one place.
    #[must_use]
    pub fn with_room(self, room: usize) -> Self {
        Table {
            room: room.max(1),
            ..self
        }
    }

    /// Goes through all entries: the key, and its value, or its values by CPU.
    ///
    /// # Errors
    /// The kernel's.
    pub fn each(&self, mut take: impl FnMut(K, &[V])) -> Result<()> {
        self.batches(|keys, values| {
            for (key, values) in keys.iter().zip(values.chunks_exact(self.per_key)) {
                take(*key, values);
            }
        })
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self) -> Result<u64> {
        let mut count = 0;
        self.batches(|keys, _| count += keys.len() as u64)?;
        Ok(count)
    }

    /// Goes through all entries, as many at once as the kernel gave.
    fn batches(&self, mut take: impl FnMut(&[K], &[V])) -> Result<()> {
        let mut room = self.room;
        let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
        let mut from = None;
        loop {
            keys.clear();
            values.clear();
            keys.reserve_exact(room);
            values.reserve_exact(room * self.per_key);
            let map = self.map.as_fd();
            let batch = sys::lookup_batch(map, from, &mut keys, &mut values, self.per_key);
            let (count, next) = match batch.on("read", &self.name)? {
                Batch::More(count, next) => (count, Some(next)),
                Batch::Last(count) => (count, None),
                Batch::TooSmall => {
                    room *= 2;
                    continue;
                }
            };
            // SAFETY: the kernel has filled in so many of each, no more than there was room for, and
            // any bytes make a Pod.
            unsafe {
                keys.set_len(count);
                values.set_len(count * self.per_key);
            }
            take(&keys, &values);
            match next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Whether there is no entry.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_empty(&self) -> Result<bool> {
        let mut first = vec![0; size_of::<K>()];
        let any = sys::next_key(&self.map, None, &mut first);
        Ok(!any.on("read", &self.name)?)
    }

    /// All entries, in no order; of per-CPU values the first CPU's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn all(&self) -> Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        self.each(|key, values| all.push((key, values[0])))?;
        Ok(all)
    }
}

/// How many CPUs there may be.
fn cpus() -> Result<usize> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error);
    cpus.on("count", "the CPUs")
}
