//! The log's bytes. A file begins with a header; then come frames, one for each batch, of ops.
//!
//! | | |
//! |---|---|
//! | header | magic, version, the file's number, the oldest file that is needed, the number of the first frame, CRC-32 of all of it |
//! | frame | magic, CRC-32 of the rest, length of the ops, the frame's number, ops |
//! | op | CRC-32 of the rest, kind, flag, lengths of key and value, key, value |
//!
//! All numbers are little-endian. A frame's number is one more than that of the frame before it, and
//! never used again, so that what a file held before it was used anew is known as old. An op says
//! nothing about where it stands: it is copied as it is.

/// A header's length, bytes.
pub(super) const HEADER: usize = 32;
/// What begins a header. This and the version keep their places for ever.
const FILE: [u8; 4] = *b"TLOG";
/// The format's version.
pub(super) const VERSION: u32 = 1;
/// A frame's length without its ops, bytes.
pub(super) const HEAD: usize = 20;
/// What begins a frame: no bytes of any text, so that none that somebody has chosen look like one.
pub(super) const FRAME: [u8; 4] = [0xff, 0xfe, 0xf5, 0xc0];
/// The most that the ops of a frame may take, bytes: all policy there may be is far below it.
const LONGEST: u32 = 1 << 30;
/// An op's length without key and value, bytes.
pub(crate) const OP: usize = 14;

/// What an op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Writes a record of the table that the flag names.
    Put = 1,
    /// Removes one.
    Remove = 2,
    /// Appends an event, whose seq is the key; the flag says whether it is a sample.
    Event = 3,
    /// Drops the events whose seqs the value lists.
    Drop = 4,
    /// The oldest file that is needed from now on is the value.
    Oldest = 5,
}

impl Kind {
    pub(super) const fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Put,
            2 => Kind::Remove,
            3 => Kind::Event,
            4 => Kind::Drop,
            5 => Kind::Oldest,
            _ => return None,
        })
    }
}

/// One op, as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op<'a> {
    pub(crate) kind: Kind,
    pub(crate) flag: u8,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> Op<'a> {
    /// The first op of some bytes, if it is whole and what was written.
    pub(crate) fn first(bytes: &'a [u8]) -> Option<Op<'a>> {
        let bytes = bytes.get(..Op::length(bytes)?)?;
        let (sum, rest) = bytes.split_first_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let key = usize::try_from(number(bytes, 6)?).ok()?;
        let (key, value) = bytes.get(OP..)?.split_at_checked(key)?;
        Some(Op {
            kind: Kind::of(bytes[4])?,
            flag: bytes[5],
            key,
            value,
        })
    }

    /// The length that some bytes say that their first op has; `None` where they are too few to say.
    pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
        let (key, value) = (number(bytes, 6)?, number(bytes, 10)?);
        let length = u64::from(key) + u64::from(value) + OP as u64;
        usize::try_from(length).ok()
    }

    /// Its length, bytes.
    pub(crate) const fn len(&self) -> usize {
        OP + self.key.len() + self.value.len()
    }

    /// The seq of an event.
    pub(crate) fn seq(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.key.try_into().ok()?))
    }
}

/// Ops in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ops(Vec<u8>);

impl Ops {
    pub(crate) fn push(&mut self, kind: Kind, flag: u8, key: &[u8], value: &[u8]) {
        self.push_by(kind, flag, key, |out| out.extend_from_slice(value));
    }

    /// The same with a value that `write` appends.
    pub(crate) fn push_by(
        &mut self,
        kind: Kind,
        flag: u8,
        key: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let begin = self.0.len();
        // No frame is so long that these do not fit: `Frame::seal` looks.
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.0.extend_from_slice(&[0, 0, 0, 0, kind as u8, flag]);
        self.0.extend_from_slice(&length(key.len()));
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(key);
        let value = self.0.len();
        write(&mut self.0);
        let written = length(self.0.len() - value);
        self.0[begin + OP - 4..begin + OP].copy_from_slice(&written);
        let sum = crc32fast::hash(&self.0[begin + 4..]);
        self.0[begin..begin + 4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Adds ops that stand elsewhere.
    pub(crate) fn copy(&mut self, ops: &[u8]) {
        self.0.extend_from_slice(ops);
    }

    /// Each op: of which table and key it is, and all of it.
    pub(crate) fn each(&self) -> impl Iterator<Item = ((u8, &[u8]), &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (op, behind) = rest.split_at_checked(Op::length(rest)?)?;
            rest = behind;
            let key = usize::try_from(number(op, 6)?).ok()?;
            Some(((op[5], op.get(OP..)?.get(..key)?), op))
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u32,
    pub(super) oldest: u32,
    /// The number of the first frame.
    pub(super) first: u64,
}

/// What stands where a header should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    With(Header),
    /// It is of another version of the format.
    Version(u32),
    Otherwise,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&FILE);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Begins {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Begins::Otherwise;
        };
        let at = |at: usize| number(bytes, at).unwrap_or(0);
        if bytes[..4] != FILE || at(HEADER - 4) != crc32fast::hash(&bytes[..HEADER - 4]) {
            return Begins::Otherwise;
        }
        if at(4) != VERSION {
            return Begins::Version(at(4));
        }
        Begins::With(Header {
            number: at(8),
            oldest: at(12),
            first: u64::from(at(16)) | u64::from(at(20)) << 32,
        })
    }
}

/// A frame in the making: room for a header, then its own head, then ops.
#[derive(Debug)]
pub(super) struct Frame(Ops);

impl Frame {
    pub(super) fn new(capacity: usize) -> Frame {
        let mut bytes = Vec::with_capacity(HEADER + HEAD + capacity);
        bytes.resize(HEADER + HEAD, 0);
        Frame(Ops(bytes))
    }

    pub(super) const fn ops(&mut self) -> &mut Ops {
        &mut self.0
    }

    /// What its ops take, bytes.
    pub(super) const fn len(&self) -> usize {
        self.0.0.len() - HEADER - HEAD
    }

    /// Its ops.
    pub(super) fn payload(&self) -> &[u8] {
        &self.0.0[HEADER + HEAD..]
    }

    /// As it is written, behind a header where one is given; `None` where it is too long for that.
    pub(super) fn seal(&mut self, seq: u64, header: Option<Header>) -> Option<&[u8]> {
        let length = u32::try_from(self.len())
            .ok()
            .filter(|length| *length <= LONGEST)?;
        let (before, frame) = self.0.0.split_at_mut(HEADER);
        frame[..4].copy_from_slice(&FRAME);
        frame[8..12].copy_from_slice(&length.to_le_bytes());
        frame[12..20].copy_from_slice(&seq.to_le_bytes());
        let sum = crc32fast::hash(&frame[8..]);
        frame[4..8].copy_from_slice(&sum.to_le_bytes());
        let Some(header) = header else {
            return Some(&self.0.0[HEADER..]);
        };
        before.copy_from_slice(&header.encode());
        Some(&self.0.0)
    }
}

/// The frame that some bytes begin with: its number and its ops.
pub(super) fn frame(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let seq = numbered(bytes)?;
    let length = usize::try_from(number(bytes, 8)?).ok()?;
    let whole = bytes.get(8..HEAD.checked_add(length)?)?;
    (number(bytes, 4)? == crc32fast::hash(whole)).then(|| (seq, &whole[HEAD - 8..]))
}

/// The number of what begins like a frame, whether or not it is a whole one.
fn numbered(bytes: &[u8]) -> Option<u64> {
    if bytes.get(..4)? != FRAME {
        return None;
    }
    Some(u64::from_le_bytes(bytes.get(12..20)?.try_into().ok()?))
}

/// Where in some bytes there is a whole frame with this number or a later one.
pub(super) fn later(bytes: &[u8], seq: u64) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == FRAME[0]) {
        at += next;
        let rest = &bytes[at..];
        if numbered(rest).is_some_and(|found| found >= seq) && frame(rest).is_some() {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}
