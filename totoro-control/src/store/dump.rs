//! The format of a backup, without I/O: frames in, bytes out, and back.
//!
//! ```text
//! "totoro-backup 1\n"  then frames: kind (1 byte) ‖ length (4, big-endian) ‖ payload
//!   H  header, JSON, once and first
//!   E  entry: key length (2) ‖ key ‖ revision (8) ‖ value; keys rise
//!   F  a file begins: its name      D  the next bytes of that file
//!   Z  end: entries (8) ‖ files (8) ‖ SHA-256 of every byte before it (32)
//! ```
//!
//! Memory on both sides is one frame, whatever the size of the store.

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{Entry, MAX_KEY, MAX_VALUE, Versioned};

const MAGIC: &[u8; 16] = b"totoro-backup 1\n";
/// What every version's magic begins with.
const FAMILY: &[u8] = b"totoro-backup ";
/// The longest payload, bytes: a piece of a file.
pub const MAX_PIECE: usize = 64 * 1024;
/// Kind and length.
const FRAME_HEAD: usize = 5;
const SHA_LEN: usize = 32;
/// The end's payload.
const END_LEN: usize = 16 + SHA_LEN;
/// The longest name of a file in a backup.
const MAX_NAME: usize = 200;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The schema of the entries.
    pub schema: u32,
    /// The newest revision in it.
    pub revision: u64,
    /// The last day that an appended value was placed under.
    pub day: u32,
    /// The incarnation of the store it was read from.
    pub generation: u64,
    /// Unix seconds.
    pub created_at: i64,
    /// The program that made it.
    pub version: String,
    /// A keyed hash that tells whether a server secret is the one this store was made under.
    pub secret_check: String,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The header.
    Header(Header),
    /// An entry of the store.
    Entry(Entry),
    /// A file begins; all data up to the next frame of another kind is its.
    File(String),
    /// The next bytes of the file.
    Data(Vec<u8>),
    /// The end; the checksum was right.
    End(Summary),
}

/// What is in a whole backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Entries of the store.
    pub entries: u64,
    /// Files.
    pub files: u64,
    /// All its bytes.
    pub bytes: u64,
    /// The checksum, hex.
    pub sha256: String,
}

/// Why a backup cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// Something else.
    #[error("not a backup of Totoro's control plane")]
    Foreign,
    /// Of a later format.
    #[error("made by a newer version: restore it with that one")]
    Newer,
    /// The end is missing.
    #[error("it ends early after {0} bytes: the backup was cut off; take another one")]
    Truncated(u64),
    /// The bytes are not those that were written.
    #[error("its checksum is wrong: the file has changed since it was made; take another one")]
    Checksum,
    /// A frame that no backup has.
    #[error("damaged at byte {at}: {what}; take another one")]
    Damaged {
        /// Where the frame begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Writes frames and sums them up.
pub struct Encoder {
    digest: Context,
    summary: Summary,
}

impl Encoder {
    /// Begins a backup in `out`.
    #[must_use]
    pub fn begin(header: &Header, out: &mut Vec<u8>) -> Self {
        let mut encoder = Encoder {
            digest: Context::new(&SHA256),
            summary: Summary::default(),
        };
        out.extend_from_slice(MAGIC);
        encoder.add(MAGIC);
        let text = serde_json::to_vec(header).unwrap_or_default();
        encoder.frame(b'H', &[&text], out);
        encoder
    }

    /// The next entry; keys must rise.
    pub fn entry(&mut self, (key, found): &Entry, out: &mut Vec<u8>) {
        // Keys are at most MAX_KEY, so their length fits.
        let length = u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes();
        let revision = found.revision.to_be_bytes();
        self.frame(b'E', &[&length, key, &revision, &found.value], out);
        self.summary.entries += 1;
    }

    /// A file begins.
    pub fn file(&mut self, name: &str, out: &mut Vec<u8>) {
        self.frame(b'F', &[name.as_bytes()], out);
        self.summary.files += 1;
    }

    /// The next bytes of the file, at most [`MAX_PIECE`].
    pub fn data(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.frame(b'D', &[piece], out);
    }

    /// The end.
    #[must_use]
    pub fn end(mut self, out: &mut Vec<u8>) -> Summary {
        let mut head = vec![b'Z'];
        head.extend_from_slice(&(END_LEN as u32).to_be_bytes());
        head.extend_from_slice(&self.summary.entries.to_be_bytes());
        head.extend_from_slice(&self.summary.files.to_be_bytes());
        self.add(&head);
        out.extend_from_slice(&head);
        let sum = self.digest.finish();
        out.extend_from_slice(sum.as_ref());
        self.summary.bytes += SHA_LEN as u64;
        self.summary.sha256 = hex(sum.as_ref());
        self.summary
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let from = out.len();
        out.push(kind);
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        for part in parts {
            out.extend_from_slice(part);
        }
        self.digest.update(&out[from..]);
        self.summary.bytes += (FRAME_HEAD + length) as u64;
    }

    fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.summary.bytes += bytes.len() as u64;
    }
}

/// Reads frames from bytes as they come, and refuses the first that does not fit.
pub struct Decoder {
    digest: Option<Context>,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    at: usize,
    place: Place,
    last_key: Option<Vec<u8>>,
    summary: Summary,
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Magic,
    Header,
    Entries,
    Files,
    End,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            digest: Some(Context::new(&SHA256)),
            buffer: Vec::new(),
            at: 0,
            place: Place::Magic,
            last_key: None,
            summary: Summary::default(),
        }
    }
}

impl Decoder {
    /// Takes the next bytes; then ask [`Decoder::next`] until it has no more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no backup or a damaged one.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot be fed")]
    pub fn next(&mut self) -> Result<Option<Frame>, DumpError> {
        if self.place == Place::Magic {
            let have = &self.buffer[self.at..];
            let known = have.len().min(MAGIC.len());
            if have[..known] != MAGIC[..known] {
                let family = known.min(FAMILY.len());
                return Err(match have[..family] == FAMILY[..family] {
                    true => DumpError::Newer,
                    false => DumpError::Foreign,
                });
            }
            if known < MAGIC.len() {
                return Ok(None);
            }
            self.take(MAGIC.len());
            self.place = Place::Header;
        }
        let have = &self.buffer[self.at..];
        if self.place == Place::End {
            return match have.is_empty() {
                true => Ok(None),
                false => Err(self.damaged("something follows its end")),
            };
        }
        let Some((head, rest)) = have.split_first_chunk::<FRAME_HEAD>() else {
            return Ok(None);
        };
        let (kind, length) = (head[0], &head[1..]);
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > MAX_PIECE {
            return Err(self.damaged("a frame is too long"));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let (frame, place) = self.read(kind, payload)?;
        match &frame {
            Frame::Entry((key, _)) => {
                self.last_key = Some(key.clone());
                self.summary.entries += 1;
            }
            Frame::File(_) => self.summary.files += 1,
            Frame::Header(_) | Frame::Data(_) => {}
            Frame::End(_) => {
                self.take(FRAME_HEAD + 16);
                return self.finish().map(Some);
            }
        }
        self.place = place;
        self.take(FRAME_HEAD + length);
        Ok(Some(frame))
    }

    /// What was in it, once the end has been read: call it when there are no more bytes.
    ///
    /// # Errors
    /// When the end has not come.
    pub fn complete(self) -> Result<Summary, DumpError> {
        match self.place {
            Place::End => Ok(self.summary),
            _ => {
                let rest = self.buffer.len() - self.at;
                Err(DumpError::Truncated(self.summary.bytes + rest as u64))
            }
        }
    }

    /// A payload by its kind, and what may follow it.
    fn read(&self, kind: u8, payload: &[u8]) -> Result<(Frame, Place), DumpError> {
        match (kind, self.place) {
            (b'H', Place::Header) => match serde_json::from_slice(payload) {
                Ok(header) => Ok((Frame::Header(header), Place::Entries)),
                Err(_) => Err(self.damaged("its header cannot be read")),
            },
            (b'E', Place::Entries) => {
                let entry = entry(payload).ok_or_else(|| self.damaged("no entry"))?;
                let rises = self.last_key.as_ref().is_none_or(|last| *last < entry.0);
                match rises {
                    true => Ok((Frame::Entry(entry), Place::Entries)),
                    false => Err(self.damaged("its keys do not rise")),
                }
            }
            (b'F', Place::Entries | Place::Files) => {
                let name = std::str::from_utf8(payload).ok().filter(|name| fits(name));
                let name = name.ok_or_else(|| self.damaged("a file's name is none of ours"))?;
                Ok((Frame::File(name.to_owned()), Place::Files))
            }
            (b'D', Place::Files) => Ok((Frame::Data(payload.to_vec()), Place::Files)),
            (b'Z', Place::Entries | Place::Files) if payload.len() == END_LEN => {
                Ok((Frame::End(Summary::default()), Place::End))
            }
            _ => Err(self.damaged("a frame is out of place")),
        }
    }

    /// Compares the counts and the checksum; the buffer stands at the checksum.
    fn finish(&mut self) -> Result<Frame, DumpError> {
        let counts = &self.buffer[self.at - 16..self.at];
        let told = [self.summary.entries, self.summary.files].map(u64::to_be_bytes);
        let sum = &self.buffer[self.at..self.at + SHA_LEN];
        let own = self.digest.take().map(Context::finish);
        if own.is_none_or(|own| own.as_ref() != sum) || counts != told.concat() {
            return Err(DumpError::Checksum);
        }
        self.summary.sha256 = hex(sum);
        self.summary.bytes += SHA_LEN as u64;
        self.at += SHA_LEN;
        self.place = Place::End;
        Ok(Frame::End(self.summary.clone()))
    }

    fn take(&mut self, length: usize) {
        if let Some(digest) = &mut self.digest {
            digest.update(&self.buffer[self.at..self.at + length]);
        }
        self.at += length;
        self.summary.bytes += length as u64;
    }

    const fn damaged(&self, what: &'static str) -> DumpError {
        DumpError::Damaged {
            at: self.summary.bytes,
            what,
        }
    }
}

fn entry(payload: &[u8]) -> Option<Entry> {
    let (length, rest) = payload.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (revision, value) = rest.split_first_chunk::<8>()?;
    // An appended key is its prefix and a position.
    if key.len() > MAX_KEY + super::Position::LEN || value.len() > MAX_VALUE {
        return None;
    }
    let found = Versioned {
        revision: u64::from_be_bytes(*revision),
        value: value.to_vec(),
    };
    Some((key.to_vec(), found))
}

/// Whether a name is one that a backup may hold: plain words, so that no backup, however it was
/// made, writes outside of the directories that it is restored to.
fn fits(name: &str) -> bool {
    let plain = |part: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(known)
    };
    name.len() <= MAX_NAME && name.split('/').count() <= 2 && name.split('/').all(plain)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
