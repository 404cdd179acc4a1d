//! Looking at a store's files before they are opened, without changing them.
//!
//! A sealed store is compared with its seal. One that was not closed is copied, and the copy is
//! opened and read from end to end: what sled would repair, throw away or panic at happens there.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::ground;
use super::load::is_unfinished;
use super::seal::{Seal, files, lock, remove_halves};
use super::sum::{Over, Sum, Target};
use super::writer::{DATA, HEAD_KEY, Head, META, split};
use super::{SCHEMA, StoreError, wal, witness};

/// The copy's directory, in the store's: on the same disk, and as private.
const COPY: &str = "examining";
/// How long another may hold the store: one that is ending, not one that serves.
const PATIENCE: Duration = Duration::from_millis(300);
/// sled's cache for the copy.
const CACHE: u64 = 32 << 20;

/// What is in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Its schema.
    pub schema: u32,
    /// Its newest revision.
    pub revision: u64,
    /// Whether it was closed in order.
    pub sealed: bool,
    /// The sum of what sled has, where all of it was read.
    pub(super) sum: Option<Sum>,
}

/// Looks at a store that nobody has open. `None` where there is none, or no room to look at it.
///
/// # Errors
/// When it is in use, unfinished or damaged. Nothing was changed then.
pub fn examine(dir: &Path) -> Result<Option<Examined>, StoreError> {
    Ok(locked(dir)?.and_then(|(examined, _)| examined))
}

/// [`examine`], and the store's lock where there is a store to lock.
fn locked(dir: &Path) -> Result<Option<(Option<Examined>, File)>, StoreError> {
    let failed = |source| StoreError::Io {
        doing: "examine",
        path: dir.to_owned(),
        source,
    };
    if is_unfinished(dir) {
        return Err(StoreError::Unusable {
            path: dir.to_owned(),
            problem: "a restore into it was not finished: run `totoro-control restore` again"
                .to_owned(),
        });
    }
    let present = match files(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(failed)?,
    };
    if present.is_empty() && witness::read(dir) == 0 {
        return Ok(None);
    }
    let lock = match lock(dir, PATIENCE) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(StoreError::InUse {
                path: dir.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(dir, "its file db is missing"));
        }
        Err(error) => return Err(failed(error)),
    };
    let examined = match Seal::read(dir) {
        Ok(Some(seal)) => match seal.broken(dir).map_err(failed)? {
            None => Ok(Some(Examined {
                schema: seal.schema,
                revision: seal.revision,
                sealed: true,
                sum: None,
            })),
            Some(problem) => Err(damaged(
                dir,
                &format!(
                    "{problem}: it has changed since it was closed. If an older version wrote to \
                     it, remove the file `sealed` and try again; otherwise it is corrupted"
                ),
            )),
        },
        Ok(None) => match copied_aloud(dir) {
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "no room to examine the store before it is opened");
                Ok(None)
            }
            Err(error) => Err(failed(error)),
            Ok(()) => {
                let began = Instant::now();
                let examined = read_through(dir);
                let read_ms = ms_since(began);
                remove_copy(dir);
                tracing::info!(read_ms, "the store was read from end to end");
                examined.map(Some)
            }
        },
        Err(_) => Err(damaged(dir, "its seal cannot be read")),
    }
    .inspect_err(|_| remove_copy(dir))?;
    Ok(Some((examined, lock)))
}

/// [`examine`], and then the files may change. The sum of what sled has, where that is known. What is
/// changed here is so under the lock: another may open the store as soon as that is free.
pub(super) fn before_opening(dir: &Path) -> Result<Option<Sum>, StoreError> {
    let Some((examined, lock)) = locked(dir)? else {
        return Ok(None);
    };
    if let Some(Examined { schema, .. }) = examined
        && schema > SCHEMA
    {
        return Err(StoreError::Unusable {
            path: dir.to_owned(),
            problem: format!(
                "it has schema {schema} and this version knows {SCHEMA}: start the newer version"
            ),
        });
    }
    if examined.is_some_and(|examined| examined.sealed) {
        Seal::remove(dir).map_err(|source| StoreError::Io {
            doing: "unseal",
            path: dir.to_owned(),
            source,
        })?;
    }
    remove_halves(dir, &lock).map_err(|source| StoreError::Io {
        doing: "remove a file of",
        path: dir.to_owned(),
        source,
    })?;
    // A migration makes other entries of them.
    let same = examined.filter(|examined| examined.schema == SCHEMA);
    Ok(same.and_then(|examined| examined.sum))
}

/// [`copied`], and says so: it takes seconds where there is much.
fn copied_aloud(dir: &Path) -> io::Result<()> {
    let sizes = files(dir)?.into_iter().map(std::fs::metadata);
    let bytes = sizes
        .map(|about| Ok::<_, io::Error>(about?.len()))
        .sum::<io::Result<u64>>()?;
    tracing::info!(
        mib = bytes >> 20,
        "the store was not closed in order: a copy of it is examined first"
    );
    let began = Instant::now();
    copied(dir)?;
    tracing::info!(copy_ms = ms_since(began), "the store was copied");
    Ok(())
}

/// Milliseconds since then.
pub(super) fn ms_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn copied(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    remove_copy(dir);
    let copy = dir.join(COPY);
    std::fs::DirBuilder::new().mode(0o700).create(&copy)?;
    for path in files(dir)? {
        // The kernel's copy: shared blocks where the file system can.
        std::fs::copy(&path, copy.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn remove_copy(dir: &Path) {
    let copy = dir.join(COPY);
    if copy.exists()
        && let Err(error) = std::fs::remove_dir_all(&copy)
    {
        tracing::warn!(%error, "cannot remove {}", copy.display());
    }
}

/// Opens the copy and reads all of it: each page is decoded and its checksum compared.
fn read_through(dir: &Path) -> Result<Examined, StoreError> {
    let target = match Target::read(dir) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged(dir, "its file sum has changed"));
        }
        Err(source) => {
            return Err(StoreError::Io {
                doing: "read the sum of",
                path: dir.to_owned(),
                source,
            });
        }
    };
    let read = catch_unwind(AssertUnwindSafe(|| read_copy(&dir.join(COPY), target)));
    let (schema, revision, sum) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(problem)) => return Err(damaged(dir, &problem)),
        // The panic's hook has said where.
        Err(_) => return Err(damaged(dir, "its pages do not fit together")),
    };
    let durable = witness::read(dir);
    if revision < durable {
        return Err(damaged(
            dir,
            &format!("it ends at revision {revision}, and {durable} was acknowledged"),
        ));
    }
    Ok(Examined {
        schema,
        revision,
        sealed: false,
        sum: Some(sum),
    })
}

fn read_copy(copy: &Path, target: Option<Target>) -> Result<(u32, u64, Sum), String> {
    let text = |error: ::sled::Error| error.to_string();
    let db = ::sled::Config::new()
        .path(copy)
        .cache_capacity(CACHE)
        .flush_every_ms(None)
        .open()
        .map_err(text)?;
    if db.is_empty() {
        // Killed before it was made ours, or all of it is lost: the witness knows.
        return Ok((SCHEMA, 0, Sum::default()));
    }
    let schema = ground::schema(&db).map_err(text)?;
    let schema = schema.ok_or_else(|| "it is not a Totoro store, or corrupted".to_owned())?;
    let head = db.get(HEAD_KEY).map_err(text)?;
    let head = head
        .and_then(|head| Head::decode(&head))
        .unwrap_or_default();
    // What is older than sled says nothing: a version that wrote none was at work since.
    let target = target.filter(|target| target.revision >= head.revision);
    let mut over = Over::upto(target.map_or(0, |target| target.revision));
    let end = wal::replay(copy, head, |change| over.take(change));
    let end = end.map_err(|error| error.to_string())?;
    let (mut found, mut shown) = (Sum::default(), Sum::default());
    for item in db.iter() {
        let (key, value) = item.map_err(text)?;
        let ours = match key.first() {
            Some(&DATA) => {
                let revision = split(&value).0;
                found.turn(&key, revision);
                if !over.hides(&key) {
                    shown.turn(&key, revision);
                }
                value.len() >= 8
            }
            Some(&META) => true,
            _ => false,
        };
        if !ours {
            return Err("it is not a Totoro store, or corrupted".to_owned());
        }
    }
    if target.is_some_and(|target| target.sum != over.complete(shown)) {
        return Err("some of its pages are missing, or old".to_owned());
    }
    Ok((schema, end.head.revision, found))
}

/// Whether the disk, or what we may have of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn damaged(dir: &Path, problem: &str) -> StoreError {
    StoreError::Unusable {
        path: dir.to_owned(),
        problem: format!(
            "{problem}. Nothing was changed; restore a backup into an empty directory with \
             `totoro-control restore`"
        ),
    }
}
