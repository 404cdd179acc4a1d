//! A disk that keeps what was synced, and of the rest what chance says.
//!
//! Stricter than file systems are: a name is durable only once its directory was synced, and what is
//! in a file only once the file was; sectors of one write are kept or lost one by one. Names that
//! were not synced come in the order in which they were made, as from a journal.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::trace::{Call, Record};

/// What a disk writes whole or not at all, bytes.
const SECTOR: u64 = 512;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Dir,
    /// An index into the files.
    File(usize),
}

/// A file's durable bytes, and the changes since, by the number of their record.
#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<(usize, Change)>,
}

enum Change {
    Write { at: u64, data: Vec<u8> },
    Truncate(u64),
}

/// A change of names in one directory.
enum Naming {
    Add(PathBuf, Node),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

type Names = BTreeMap<PathBuf, Node>;

/// The disk below one directory.
#[derive(Default)]
pub struct Disk {
    files: Vec<File>,
    /// As the process sees them.
    seen: Names,
    durable: Names,
    /// By record and directory.
    pending: Vec<(usize, PathBuf, Naming)>,
    /// Syncs that have begun: the record, and of what.
    syncing: HashMap<u64, (usize, PathBuf, Node)>,
    records: usize,
}

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    /// Nothing is kept.
    Lost,
    /// Each change is kept, lost or torn.
    ByChance,
    /// All is kept, as when a process is killed.
    Kept,
}

impl Disk {
    /// What stands in a directory: all of it durable.
    pub fn of(dir: &Path) -> Self {
        let mut disk = Disk::default();
        disk.seen.insert(PathBuf::new(), Node::Dir);
        disk.load(dir, Path::new(""));
        disk.durable = disk.seen.clone();
        disk
    }

    fn load(&mut self, dir: &Path, name: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = name.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.seen.insert(name.clone(), Node::Dir);
                self.load(&entry.path(), &name);
            } else {
                let durable = fs::read(entry.path()).unwrap();
                self.seen.insert(name, Node::File(self.files.len()));
                self.files.push(File {
                    durable,
                    pending: Vec::new(),
                });
            }
        }
    }

    /// Does what a record says.
    pub fn apply(&mut self, record: &Record) {
        let (number, name) = (self.records, &record.name);
        self.records += 1;
        match &record.call {
            Call::Open { cut } => {
                if !self.seen.contains_key(name) {
                    let node = Node::File(self.files.len());
                    self.files.push(File::default());
                    self.rename(name, Naming::Add(name.clone(), node));
                }
                if *cut {
                    self.change(name, Change::Truncate(0));
                }
            }
            Call::Write { at, data } => {
                let (at, data) = (*at, data.clone());
                self.change(name, Change::Write { at, data });
            }
            Call::Truncate { length } => self.change(name, Change::Truncate(*length)),
            Call::Rename { to } => {
                assert_eq!(name.parent(), to.parent(), "a move between directories");
                self.rename(name, Naming::Move(name.clone(), to.clone()));
            }
            Call::Unlink => self.rename(name, Naming::Remove(name.clone())),
            Call::MakeDir => self.rename(name, Naming::Add(name.clone(), Node::Dir)),
            Call::SyncBegun { which } => {
                // A file without a name has nobody who could miss it.
                if let Some(node) = self.seen.get(name) {
                    let begun = (number, name.clone(), *node);
                    self.syncing.insert(*which, begun);
                }
            }
            Call::SyncEnded { which } => {
                if let Some((begun, name, node)) = self.syncing.remove(which) {
                    self.sync(begun, &name, node);
                }
            }
            Call::SyncRange => {}
        }
    }

    fn change(&mut self, name: &Path, change: Change) {
        if let Some(Node::File(file)) = self.seen.get(name) {
            self.files[*file].pending.push((self.records, change));
        }
    }

    fn rename(&mut self, name: &Path, naming: Naming) {
        apply_naming(&mut self.seen, &naming);
        let dir = name.parent().unwrap_or(Path::new("")).to_owned();
        self.pending.push((self.records, dir, naming));
    }

    /// All that came before the sync had begun is durable.
    fn sync(&mut self, begun: usize, name: &Path, node: Node) {
        match node {
            Node::File(file) => {
                let file = &mut self.files[file];
                for (_, change) in file.pending.extract_if(.., |(at, _)| *at <= begun) {
                    change.apply(&mut file.durable);
                }
            }
            Node::Dir => {
                let mine =
                    |(at, dir, _): &mut (usize, PathBuf, Naming)| *at <= begun && dir == name;
                for (_, _, naming) in self.pending.extract_if(.., mine) {
                    apply_naming(&mut self.durable, &naming);
                }
            }
        }
    }

    /// Whether something was written to a file whose name begins like this, and is not synced.
    pub fn is_unsynced(&self, name: &str) -> bool {
        self.seen.iter().any(|(path, node)| {
            let named = path.to_str().is_some_and(|path| path.starts_with(name));
            match node {
                Node::File(file) => named && !self.files[*file].pending.is_empty(),
                _ => false,
            }
        })
    }

    /// The power goes: from now on there is only what the disk has. Answers how many changes of
    /// content were not synced, and how many of them the disk had nevertheless, whole or in part.
    /// `below` answers a random number below the one that it is given.
    pub fn cut(&mut self, unsynced: Unsynced, below: &mut dyn FnMut(u64) -> u64) -> (usize, usize) {
        let (mut pending, mut kept) = (0, 0);
        for file in &mut self.files {
            for (_, change) in file.pending.drain(..) {
                pending += 1;
                let whole = match unsynced {
                    Unsynced::Lost => continue,
                    Unsynced::Kept => true,
                    Unsynced::ByChance => match below(3) {
                        0 => continue,
                        choice => choice == 1,
                    },
                };
                kept += 1;
                if whole {
                    change.apply(&mut file.durable);
                } else {
                    change.tear(&mut file.durable, below);
                }
            }
        }
        let names = self.pending.len() as u64;
        let names = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Kept => names,
            Unsynced::ByChance => below(names + 1),
        };
        for (_, _, naming) in self.pending.drain(..).take(names as usize) {
            apply_naming(&mut self.durable, &naming);
        }
        (pending, kept)
    }

    /// Writes what is durable to an empty directory.
    pub fn build(&self, dir: &Path) {
        for (name, node) in &self.durable {
            let path = dir.join(name);
            match node {
                // Names sort after their directory's; without it they cannot be reached.
                _ if path.parent().is_some_and(|parent| !parent.is_dir()) => {}
                Node::Dir => {
                    let mut builder = fs::DirBuilder::new();
                    builder.recursive(true).mode(0o700).create(&path).unwrap();
                }
                Node::File(file) => {
                    let mut options = fs::File::options();
                    let made = options.write(true).create_new(true).mode(0o600).open(&path);
                    let bytes = &self.files[*file].durable;
                    std::io::Write::write_all(&mut made.unwrap(), bytes).unwrap();
                }
            }
        }
    }

    /// The durable files, to compare with others.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let file = |(name, node): (&PathBuf, &Node)| match node {
            Node::Dir => None,
            Node::File(file) => Some((name.clone(), self.files[*file].durable.clone())),
        };
        self.durable.iter().filter_map(file).collect()
    }
}

fn apply_naming(names: &mut Names, naming: &Naming) {
    match naming {
        Naming::Add(name, node) => {
            names.insert(name.clone(), *node);
        }
        Naming::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { at, data } => put(bytes, *at, data),
            Change::Truncate(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        }
    }

    /// Applies some of its sectors.
    fn tear(&self, bytes: &mut Vec<u8>, below: &mut dyn FnMut(u64) -> u64) {
        let Change::Write { at, data } = self else {
            return self.apply(bytes);
        };
        let end = at + data.len() as u64;
        let mut from = *at;
        while from < end {
            let to = end.min((from / SECTOR + 1) * SECTOR);
            if below(2) == 0 {
                let part = usize::try_from(from - at).unwrap()..usize::try_from(to - at).unwrap();
                put(bytes, from, &data[part]);
            }
            from = to;
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let at = usize::try_from(at).unwrap();
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}
