//! Reading what the recorder wrote.

#[path = "../../recorder/src/format.rs"]
mod format;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use format::{HEADER, kind};

/// One call, and where its record ends in the trace.
pub struct Record {
    /// Bytes.
    pub end: u64,
    /// Of the file or directory, below the recorded one.
    pub name: PathBuf,
    /// What was done to it.
    pub call: Call,
}

/// What was done to the named file or directory.
pub enum Call {
    /// Made if missing, and cut to nothing where `cut`.
    Open {
        /// Whether it was.
        cut: bool,
    },
    /// Written to.
    Write {
        /// Where, bytes from its beginning.
        at: u64,
        /// What.
        data: Vec<u8>,
    },
    /// Made longer or shorter.
    Truncate {
        /// How long, bytes.
        length: u64,
    },
    /// Called otherwise from now on.
    Rename {
        /// Its name below the recorded directory.
        to: PathBuf,
    },
    /// Its name went.
    Unlink,
    /// A directory was made.
    MakeDir,
    /// A sync that makes durable what came before.
    SyncBegun {
        /// Which one ends by [`Call::SyncEnded`].
        which: u64,
    },
    /// That sync has succeeded.
    SyncEnded {
        /// Which one it is.
        which: u64,
    },
    /// Makes nothing durable.
    SyncRange,
}

/// The whole trace.
pub fn read(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap();
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (record, next) = one(&bytes, at);
        records.push(record);
        at = next;
    }
    records
}

fn one(bytes: &[u8], at: usize) -> (Record, usize) {
    let header = &bytes[at..at + HEADER];
    let name_length = usize::from(u16::from_le_bytes(header[1..3].try_into().unwrap()));
    let data_length = u32::from_le_bytes(header[3..7].try_into().unwrap()) as usize;
    let number = u64::from_le_bytes(header[7..15].try_into().unwrap());
    let name = at + HEADER;
    let data = name + name_length;
    let end = data + data_length;
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let (name, data) = (path(&bytes[name..data]), &bytes[data..end]);
    let call = match header[0] {
        kind::OPEN => Call::Open { cut: data == [1] },
        kind::WRITE => Call::Write {
            at: number,
            data: data.to_vec(),
        },
        kind::TRUNCATE => Call::Truncate { length: number },
        kind::RENAME => Call::Rename { to: path(data) },
        kind::UNLINK => Call::Unlink,
        kind::MKDIR => Call::MakeDir,
        kind::SYNC_BEGUN => Call::SyncBegun { which: number },
        kind::SYNC_ENDED => Call::SyncEnded { which: number },
        kind::SYNC_RANGE => Call::SyncRange,
        other => panic!("a record of kind {other} at {at}"),
    };
    let record = Record {
        end: end as u64,
        name,
        call,
    };
    (record, end)
}
