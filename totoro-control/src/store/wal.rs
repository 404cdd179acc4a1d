//! The log that makes commits durable: one record per batch, written and synced before anything in
//! it is acknowledged. sled follows later, and what it has durably is dropped from here.
//!
//! A file `wal.<number>` is a run of records: length and CRC-32 of the payload, four bytes each and
//! little-endian, then the payload. The first record of a file says after which revision it goes on.
//! A record that does not hold ends the log: a batch that was not synced was not acknowledged. Behind
//! the records there may be zeros, which are room for more of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::examine::is_full;
use super::record::{self, Change, Record};
use super::writer::Head;

/// Begins the names of its files.
pub(super) const NAME: &str = "wal.";
/// Room that is made behind the records, bytes: what is written into it needs no more than the disk's
/// own write to be durable, where a file that grows also needs its length and its blocks to be.
const ROOM: u64 = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The file that is appended to.
pub(super) struct Wal {
    file: File,
    path: PathBuf,
    number: u64,
    /// What is written to it, bytes.
    length: u64,
    /// Up to where the file has its blocks already.
    room: u64,
    /// What the files before it take that are still needed, bytes.
    before: u64,
}

impl Wal {
    /// Begins a file that goes on after `head`; its name is durable. The files before it that are
    /// still needed take so many bytes.
    pub(super) fn create(
        dir: &Path,
        number: u64,
        head: Head,
        before: u64,
    ) -> Result<Self, StoreError> {
        let path = dir.join(format!("{NAME}{number:010}"));
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(io_error("create", &path))?;
        let mut wal = Wal {
            file,
            path,
            number,
            length: 0,
            room: 0,
            before,
        };
        wal.append(&mut Record::new(), head)?;
        wal.sync()?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("sync", dir))?;
        Ok(wal)
    }

    /// Writes a record, which is durable after the next sync.
    pub(super) fn append(&mut self, record: &mut Record, head: Head) -> Result<(), StoreError> {
        let bytes = record.finish(head);
        let written = self.file.write_all_at(bytes, self.length);
        written.map_err(io_error("write", &self.path))?;
        self.length += bytes.len() as u64;
        self.make_room()
    }

    /// Writes zeros behind the records, where there is no room any more. The next sync makes them
    /// durable too.
    fn make_room(&mut self) -> Result<(), StoreError> {
        if self.length <= self.room {
            return Ok(());
        }
        let end = (self.length + 1).next_multiple_of(ROOM);
        let mut at = self.length;
        while at < end {
            let part = ZEROS
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match self.file.write_all_at(&ZEROS[..part], at) {
                Ok(()) => at += part as u64,
                // What is still to come may fit all the same: it is up to its own write.
                Err(error) if is_full(&error) => {
                    tracing::warn!(%error, "no room ahead in the log: writes take longer");
                    break;
                }
                Err(error) => return Err(io_error("write", &self.path)(error)),
            }
        }
        self.room = end;
        Ok(())
    }

    /// fdatasync: all that was appended is on the disk when this returns.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let synced = self.file.sync_data();
        synced.map_err(io_error("fdatasync", &self.path))
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// What the whole log takes, bytes.
    pub(super) const fn length(&self) -> u64 {
        self.before + self.length
    }
}

/// The files of a store's log, oldest first.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(NAME)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes the files up to this number. Their names may come back after a power cut: they hold
/// nothing that is newer than what sled has, and are left out then.
pub(super) fn remove(dir: &Path, up_to: u64) -> Result<(), StoreError> {
    for (number, path) in list(dir)? {
        if number <= up_to {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Why a log cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// It is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// A file cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a log ends.
#[derive(Debug)]
pub(super) struct End {
    /// Where the store stands there.
    pub(super) head: Head,
    /// The number of the newest file; 0 where there is none.
    pub(super) number: u64,
    /// What holds in all files together, bytes.
    pub(super) length: u64,
    /// What holds in the newest, bytes.
    newest: u64,
}

impl End {
    /// Cuts off what does not hold and makes the rest durable: readers will see it.
    pub(super) fn settle(&self, dir: &Path) -> Result<(), StoreError> {
        for (number, path) in list(dir)? {
            let file = File::options().write(true).open(&path);
            let file = file.map_err(io_error("open", &path))?;
            if number == self.number {
                file.set_len(self.newest).map_err(io_error("cut", &path))?;
            }
            file.sync_all().map_err(io_error("fsync", &path))?;
        }
        Ok(())
    }
}

/// Gives every change that came after `head` to `take`, in order, and answers where the log ends.
pub(super) fn replay(
    dir: &Path,
    mut head: Head,
    mut take: impl FnMut(Change),
) -> Result<End, LogError> {
    let (mut all, mut newest_holds) = (0, 0);
    let files = list(dir)?;
    let newest = files.last().map(|(number, _)| *number);
    for (number, path) in files {
        let bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
        let mut rest = &bytes[..];
        let mut first = true;
        while let Some((payload, after)) = record::first(rest) {
            let (at, changes) = payload
                .split_at_checked(Head::LEN)
                .and_then(|(at, changes)| Some((Head::decode(at)?, changes)))
                .ok_or_else(|| damaged(&path, "a record without a head"))?;
            if first && at.revision > head.revision {
                let problem = format!("it goes on after revision {}", at.revision);
                return Err(damaged(&path, &problem));
            }
            if !first && at.revision > head.revision {
                record::changes(changes, &mut take)
                    .ok_or_else(|| damaged(&path, "a record that cannot be read"))?;
                head = at;
            }
            (rest, first) = (after, false);
        }
        if Some(number) != newest && rest.iter().any(|&byte| byte != 0) {
            return Err(damaged(&path, "it ends in the middle"));
        }
        newest_holds = (bytes.len() - rest.len()) as u64;
        all += newest_holds;
    }
    Ok(End {
        head,
        number: newest.unwrap_or(0),
        length: all,
        newest: newest_holds,
    })
}

fn damaged(path: &Path, problem: &str) -> LogError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    LogError::Damaged(format!("{name}: {problem}"))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn head(revision: u64) -> Head {
        Head { revision, day: 7 }
    }

    /// Two files of three records each, and their changes.
    fn written(dir: &Path) -> Vec<Change> {
        let mut all = Vec::new();
        for number in [3, 4] {
            let begin = (number - 3) * 3;
            let mut wal = Wal::create(dir, number, head(begin), 0).unwrap();
            for revision in begin + 1..=begin + 3 {
                let change = Change {
                    key: format!("k/{revision}").into_bytes(),
                    revision,
                    value: (revision % 3 != 0).then(|| vec![b'v'; 40]),
                };
                let mut record = Record::new();
                record.push(&change.key, revision, change.value.as_deref());
                wal.append(&mut record, head(revision)).unwrap();
                all.push(change);
            }
        }
        all
    }

    fn read(dir: &Path, from: u64) -> Result<(Head, Vec<Change>), LogError> {
        let mut found = Vec::new();
        let end = replay(dir, head(from), |change| found.push(change))?;
        Ok((end.head, found))
    }

    #[test]
    fn what_is_written_comes_back_from_where_sled_stands() {
        let dir = tempfile::tempdir().unwrap();
        let all = written(dir.path());
        for from in 0..=6 {
            let (at, found) = read(dir.path(), from as u64).unwrap();
            assert_eq!((at, &found[..]), (head(6), &all[from..]));
        }
        remove(dir.path(), 3).unwrap();
        assert_eq!(read(dir.path(), 4).unwrap().1, all[4..]);
        let lost = read(dir.path(), 2).unwrap_err().to_string();
        assert!(lost.contains("goes on after revision 3"), "{lost}");
    }

    #[test]
    fn a_torn_end_is_left_out_and_a_torn_middle_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let all = written(dir.path());
        let files = list(dir.path()).unwrap();
        let (older, newest) = (&files[0].1, &files[1].1);
        let records = |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            assert_eq!(bytes.len() as u64, ROOM);
            let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            bytes.truncate(end);
            bytes
        };
        let whole = records(newest);
        for end in 0..whole.len() {
            std::fs::write(newest, &whole[..end]).unwrap();
            let (at, found) = read(dir.path(), 0).unwrap();
            assert!(at.revision >= 3 && found[..] == all[..found.len()], "{end}");
            // Cut off, so that another file may follow.
            replay(dir.path(), head(0), drop)
                .unwrap()
                .settle(dir.path())
                .unwrap();
            drop(Wal::create(dir.path(), 5, at, 0).unwrap());
            assert_eq!(read(dir.path(), 0).unwrap(), (at, found), "{end}");
            std::fs::remove_file(dir.path().join("wal.0000000005")).unwrap();
        }
        let mut changed = whole.clone();
        // The length of a file may be durable before what is in it.
        changed.extend([0; 64]);
        std::fs::write(newest, &changed).unwrap();
        assert_eq!(read(dir.path(), 0).unwrap().1, all);
        for at in 0..whole.len() {
            changed[at] ^= 0x10;
            std::fs::write(newest, &changed).unwrap();
            let found = read(dir.path(), 0).unwrap().1;
            assert!(found.len() < 6 && found[..] == all[..found.len()], "{at}");
            changed[at] ^= 0x10;
        }
        std::fs::write(newest, &whole).unwrap();
        let whole = records(older);
        for room in [0, 9000] {
            let older_is = |end: usize| {
                let mut bytes = whole[..end].to_vec();
                bytes.extend(vec![0; room]);
                std::fs::write(older, bytes).unwrap();
                read(dir.path(), 0)
            };
            assert_eq!(older_is(whole.len()).unwrap().1, all);
            let damaged = older_is(whole.len() - 1).unwrap_err().to_string();
            assert!(damaged.contains("ends in the middle"), "{damaged}");
        }
    }

    #[test]
    fn room_is_made_again_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = Wal::create(dir.path(), 1, head(0), 0).unwrap();
        let mut record = Record::new();
        let value = vec![b'v'; 300_000];
        for revision in 1..=8 {
            record.clear();
            record.push(b"k", revision, Some(&value));
            wal.append(&mut record, head(revision)).unwrap();
            let length = std::fs::metadata(&wal.path).unwrap().len();
            assert!(length.is_multiple_of(ROOM) && length > wal.length());
        }
        let (at, found) = read(dir.path(), 0).unwrap();
        assert_eq!((at.revision, found.len()), (8, 8));
    }
}
