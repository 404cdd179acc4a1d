//! The files of a log, and what is done to them. In tests it fails when it is told to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

/// Begins the names of the log's files.
const NAME: &str = "log.";
/// A file that only takes room, for the day when the disk is full.
pub(super) const RESERVE: &str = "reserve";
/// Begins the names of files that were in the log, and are used for it again.
const SPARE: &str = "log.next";
/// The most of them: as many as some thousand logins or leases at once fill, whose events wait to be
/// delivered. To make one takes the disk for some milliseconds, and whoever is answered meanwhile waits.
pub(super) const SPARES: usize = 4;
/// A file on its way to be one of those.
pub(super) const PART: &str = "reserve.part";
/// A file on its way to be the log's next, which another thread makes.
pub(super) const AHEAD: &str = "log.part";
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The directory that a log is in.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

impl Disk {
    pub(super) fn under(dir: &Path) -> Disk {
        Disk {
            dir: dir.to_owned(),
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        }
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "in tests it fails"
    )]
    const fn works(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn works(&self) -> io::Result<()> {
        self.faults.works()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The name of a file of the log.
    pub(super) fn name(number: u32) -> String {
        format!("{NAME}{number:010}")
    }

    /// The name of a file to use again; the first is 0.
    pub(super) fn spare(nth: usize) -> String {
        if nth == 0 {
            return SPARE.to_owned();
        }
        format!("{SPARE}.{nth}")
    }

    /// The log's files, oldest first.
    pub(super) fn list(&self) -> io::Result<Vec<u32>> {
        self.works()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(NAME));
            let number = number.filter(|number| number.len() == 10);
            found.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn read(&self, number: u32) -> io::Result<Vec<u8>> {
        self.works()?;
        fs::read(self.path(&Disk::name(number)))
    }

    pub(super) fn open(&self, number: u32) -> io::Result<File> {
        self.works()?;
        let mut options = File::options();
        options.read(true).write(true);
        options.open(self.path(&Disk::name(number)))
    }

    pub(super) fn open_to_read(&self, number: u32) -> io::Result<File> {
        self.works()?;
        File::open(self.path(&Disk::name(number)))
    }

    /// The length of a file; 0 where there is none.
    pub(super) fn length(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).map_or(0, |file| file.len())
    }

    /// Makes a file of zeros, durable but for its name. What was there before under the name goes.
    pub(super) fn create(&self, name: &str, length: u64) -> io::Result<()> {
        self.make(PART, name, length, None)
    }

    /// The same beside whoever else makes one, a little at a time: a sync of the log waits for what the disk
    /// was given before. Once somebody waits for it (`hurry`) it is made in one go.
    pub(super) fn create_ahead(
        &self,
        name: &str,
        length: u64,
        hurry: &AtomicBool,
    ) -> io::Result<()> {
        self.make(AHEAD, name, length, Some(hurry))
    }

    fn make(
        &self,
        part: &str,
        name: &str,
        length: u64,
        gently: Option<&AtomicBool>,
    ) -> io::Result<()> {
        self.works()?;
        #[cfg(test)]
        self.faults.grows()?;
        // Another name until it is whole: a short one would be of no use.
        let part = self.path(part);
        let made = self.fill(&part, length, gently);
        let named = made.and_then(|()| fs::rename(&part, self.path(name)));
        if named.is_err() {
            let _ = fs::remove_file(&part);
        }
        named
    }

    fn fill(&self, path: &Path, length: u64, gently: Option<&AtomicBool>) -> io::Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path)?;
        // On a full disk this says so at once.
        let wanted = i64::try_from(length).unwrap_or(i64::MAX);
        match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // Written all the same: blocks that were never written are made so by the first write to
        // them, and that is a change of the file system's that a sync has to wait for.
        let mut at = 0;
        while at < length {
            let rest = usize::try_from(length - at).unwrap_or(usize::MAX);
            let part = &ZEROS[..rest.min(ZEROS.len())];
            file.write_all_at(part, at)?;
            if gently.is_some_and(|hurry| !hurry.load(Ordering::Relaxed)) {
                file.sync_data()?;
            }
            at += part.len() as u64;
        }
        self.works()?;
        file.sync_all()
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.works()?;
        fs::rename(self.path(from), self.path(to))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.works()?;
        fs::remove_file(self.path(name))
    }

    /// Makes the names durable.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.works()?;
        File::open(&self.dir)?.sync_all()
    }

    pub(super) fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        self.works()?;
        #[cfg(test)]
        if at + bytes.len() as u64 > file.metadata()?.len() {
            self.faults.grows()?;
        }
        file.write_all_at(bytes, at)
    }

    pub(super) fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        self.works()?;
        file.set_len(length)
    }

    /// fdatasync.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.works()?;
        file.sync_data()?;
        #[cfg(test)]
        self.faults.synced()?;
        Ok(())
    }

    /// Reads what a file has there, as much as fits.
    pub(super) fn read_at(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.works()?;
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], at + filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        Ok(filled)
    }
}

/// The files of a log in this directory: all that there may be, and those of any number that are there.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let disk = Disk::under(dir);
    let numbers = disk.list().unwrap_or_default();
    let names = numbers.into_iter().map(Disk::name);
    let spares = (0..SPARES).map(Disk::spare);
    let others = [RESERVE, PART, AHEAD].map(str::to_owned);
    let all = names.chain(spares).chain(others);
    all.map(|name| disk.path(&name)).collect()
}
