//! What a start makes of the files: all that was acknowledged, or a refusal that says where it is
//! damaged.
//!
//! Only the last frame can be one that was on its way: each is durable before the next is written.
//! So what does not hold ends the log where nothing follows; a whole frame behind it says that it held
//! once.

use anyhow::{Context, Result, bail};

use super::disk::Disk;
use super::format::{self, Begins, HEAD, HEADER, Header, VERSION};
use super::index::Index;

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The newest file.
    pub(super) file: u32,
    /// Where its last frame begins.
    pub(super) last: u64,
    /// Up to where it has frames, bytes; 0 = it has no header yet.
    pub(super) end: u64,
    /// The number of the next frame.
    pub(super) seq: u64,
    /// There is a file behind it already, and nothing was written to it yet.
    pub(super) ahead: bool,
}

impl Tail {
    /// Of a log that begins.
    pub(super) const FIRST: Tail = Tail {
        file: 1,
        last: 0,
        end: 0,
        seq: 1,
        ahead: false,
    };
}

/// Reads a log; nothing is changed. `None` where there is none.
pub(super) fn replay(disk: &Disk) -> Result<(Index, Option<Tail>)> {
    let mut index = Index::default();
    let mut tail = None::<Tail>;
    let mut begins = 0_u32;
    let numbers = disk.list().context("list the log")?;
    let newest = numbers.last().copied();
    for number in numbers {
        let path = disk.path(&Disk::name(number));
        // What was no more needed may come back after a power cut, not all of it.
        let before = tail.filter(|before| before.file.checked_add(1) == Some(number));
        if before.is_none() {
            (index, begins) = (Index::default(), number);
        }
        let bytes = disk.read(number);
        let bytes = bytes.with_context(|| format!("read {}", path.display()))?;
        let is_newest = newest == Some(number);
        let fresh = if number == 1 { Some(1) } else { None };
        let expected = before.map(|before| before.seq).or(fresh);
        match one(&mut index, number, &bytes, expected, is_newest) {
            // Named before it is needed: what was written last stands in the one before it.
            Ok(end) if end.end == 0 && before.is_some() => {
                tail = before.map(|before| Tail {
                    ahead: true,
                    ..before
                });
            }
            Ok(end) => tail = Some(end),
            Err(damage) => bail!("{}: {damage}. {}", path.display(), advice(&damage)),
        }
    }
    // What is begun anew knows of none yet.
    let holds = begins..=newest.unwrap_or(0);
    if index.oldest > 0 && !holds.contains(&index.oldest) {
        let path = disk.path(&Disk::name(index.oldest));
        let damage = Damage::Missing;
        bail!("{}: {damage}. {}", path.display(), advice(&damage));
    }
    let lives = |number: &u32| !index.space.is_dead(*number);
    if let Some(number) = (begins..index.oldest).find(lives) {
        let path = disk.path(&Disk::name(number));
        let damage = Damage::Needed;
        bail!("{}: {damage}. {}", path.display(), advice(&damage));
    }
    Ok((index, tail))
}

/// Why a log can't be gone on from.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("is missing, and what follows needs it")]
    Missing,
    #[error("is needed, and what follows says that it is not")]
    Needed,
    #[error("has format {0}, and this totoro-node reads {VERSION}")]
    Version(u32),
    #[error("damaged: has no header of its own")]
    Header,
    #[error("damaged: begins with batch {found}, where {expected} is next")]
    Gap { found: u64, expected: u64 },
    #[error(
        "damaged at byte {0}: what stands there does not hold, and what was written later does"
    )]
    Middle(usize),
    #[error("damaged at byte {0}: a batch that can't be read")]
    Batch(usize),
}

fn advice(damage: &Damage) -> &'static str {
    match damage {
        Damage::Version(_) => "Nothing was changed; install the version that wrote it",
        _ => {
            "Nothing was changed. Put a good copy of the directory in its place, or move its log.* \
             away: then sessions log in again, and events that were not delivered are lost"
        }
    }
}

/// Takes in one file.
pub(super) fn one(
    index: &mut Index,
    number: u32,
    bytes: &[u8],
    expected: Option<u64>,
    is_newest: bool,
) -> Result<Tail, Damage> {
    let header = match Header::decode(bytes) {
        Begins::With(header) if header.number == number => header,
        Begins::Version(version) => return Err(Damage::Version(version)),
        // What it was before, or nothing: its first batch was on its way.
        Begins::With(_) | Begins::Otherwise => match expected {
            Some(seq) if is_newest && format::later(bytes, seq).is_none() => {
                return Ok(Tail {
                    file: number,
                    last: 0,
                    end: 0,
                    seq,
                    ahead: false,
                });
            }
            _ => return Err(Damage::Header),
        },
    };
    match expected {
        Some(expected) if expected != header.first => {
            return Err(Damage::Gap {
                found: header.first,
                expected,
            });
        }
        _ => {}
    }
    index.oldest = index.oldest.max(header.oldest);
    let (mut at, mut last, mut seq) = (HEADER, HEADER, header.first);
    while let Some((_, ops)) = format::frame(&bytes[at..]).filter(|(found, _)| *found == seq) {
        let taken = index.apply(ops, number, (at + HEAD) as u64);
        taken.ok_or(Damage::Batch(at))?;
        last = at;
        at += HEAD + ops.len();
        seq = seq.checked_add(1).ok_or(Damage::Batch(at))?;
    }
    if format::later(&bytes[at..], seq).is_some() {
        return Err(Damage::Middle(at));
    }
    index.space.ends(number, at as u64);
    Ok(Tail {
        file: number,
        last: last as u64,
        end: at as u64,
        seq,
        ahead: false,
    })
}
