//! What files and the system say.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Line, chain};
use crate::config::Config;
use crate::keys::{KeyRing, ServerSecret};
use crate::store::{SCHEMA, StoreError, examine};

/// Less room than this fails: the next commits may not fit.
const LEAST: u64 = 100 << 20;
/// Less than this warns.
const FEW: u64 = 1 << 30;
/// A ring's successor comes 30 days before the end; what is later than this did not come.
const LATE_DAYS: i64 = 29;
/// How far the clock may be behind what was written last, seconds.
const SKEW_S: i64 = 60;
const DAY_S: i64 = 86_400;

/// Directories 0700 and secret files 0600, or others read keys and client addresses.
pub(super) fn modes(config: &Config, token: &Path) -> Vec<Line> {
    let mut lines = vec![
        mode(&config.secrets_dir, 0o077, true),
        mode(&config.data_dir, 0o077, true),
    ];
    let listed = std::fs::read_dir(&config.secrets_dir).into_iter().flatten();
    let mut files: Vec<_> = listed.flatten().map(|entry| entry.path()).collect();
    files.sort();
    if token.exists() {
        files.push(token.to_owned());
    }
    let checked = files.iter().map(|path| mode(path, 0o077, false));
    let (good, bad): (Vec<Line>, Vec<Line>) =
        checked.partition(|line| line.status == super::Status::Ok);
    if bad.is_empty() && !good.is_empty() {
        let detail = format!("{} files, none readable by others", good.len());
        lines.push(Line::ok("modes", "secret files", detail));
    }
    lines.extend(bad);
    lines
}

fn mode(path: &Path, forbidden: u32, is_dir: bool) -> Line {
    let shown = path.display().to_string();
    match path.metadata() {
        Ok(about) => {
            let mode = about.permissions().mode() & 0o777;
            let wanted = if is_dir { "700" } else { "600" };
            match mode & forbidden {
                0 => Line::ok("modes", shown, format!("{mode:o}")),
                _ => {
                    let detail = format!("{mode:o}: others can look into it; chmod {wanted} it");
                    Line::fail("modes", shown, detail)
                }
            }
        }
        Err(error) => Line::fail("modes", shown, format!("{error}; run init or restore")),
    }
}

/// Room for the store to grow.
pub(super) fn disk(config: &Config) -> Line {
    let shown = config.data_dir.display().to_string();
    match nix::sys::statvfs::statvfs(&config.data_dir) {
        Ok(about) => {
            let free = about.blocks_available() * about.fragment_size();
            room(shown, free)
        }
        Err(error) => Line::fail("disk", shown, format!("{error}")),
    }
}

fn room(shown: String, free: u64) -> Line {
    let mib = free >> 20;
    match free {
        0..LEAST => {
            let detail = format!("{mib} MiB free: the server ends when it cannot write; make room");
            Line::fail("disk", shown, detail)
        }
        LEAST..FEW => Line::warn("disk", shown, format!("{mib} MiB free: make room soon")),
        FEW.. => Line::ok("disk", shown, format!("{mib} MiB free")),
    }
}

/// Whether the store can be opened, and its schema.
pub(super) fn store(dir: &Path, live: bool) -> Vec<Line> {
    let shown = dir.display().to_string();
    match examine(dir) {
        Ok(Some(found)) => {
            let state = match found.sealed {
                true => "closed in order, its files are as they were",
                false => "it was not closed; a copy of it opens and reads to its end",
            };
            let detail = format!("revision {}: {state}", found.revision);
            vec![Line::ok("store", shown, detail), schema(found.schema)]
        }
        Ok(None) if !dir.join("db").exists() => {
            let detail = "there is none; run init or restore";
            vec![Line::fail("store", shown, detail)]
        }
        Ok(None) => {
            let detail = "it was not closed, and there is no room to read a copy of it";
            vec![Line::warn("store", shown, detail)]
        }
        Err(StoreError::InUse { .. }) if live => {
            vec![Line::ok("store", shown, "the running server has it")]
        }
        Err(StoreError::InUse { .. }) => {
            let detail = "another process has it, and no server answers: see who holds it open";
            vec![Line::warn("store", shown, detail)]
        }
        Err(error) => vec![Line::fail("store", shown, chain(&error))],
    }
}

fn schema(found: u32) -> Line {
    match found.cmp(&SCHEMA) {
        std::cmp::Ordering::Equal => Line::ok("schema", found.to_string(), "this version's"),
        std::cmp::Ordering::Less => {
            let detail = format!("serve brings it forward to {SCHEMA}; back it up before");
            Line::warn("schema", found.to_string(), detail)
        }
        std::cmp::Ordering::Greater => {
            let detail = format!("this version knows {SCHEMA}: start the newer version");
            Line::fail("schema", found.to_string(), detail)
        }
    }
}

/// The server secret and the age of the ticket keys.
pub(super) fn keys(dir: &Path, now: i64) -> Vec<Line> {
    let secret = match ServerSecret::load(&dir.join("server.key")) {
        Ok(_) => Line::ok("keys", "server.key", "readable"),
        Err(error) => {
            // What is there and can't be used is not to be replaced: every key and code hangs on it.
            let next = match dir.join("server.key").exists() {
                true => "",
                false => "; put it back, or restore with --new-secret",
            };
            Line::fail("keys", "server.key", format!("{}{next}", chain(&error)))
        }
    };
    let ring = match KeyRing::load(dir, now) {
        Ok(ring) => {
            let keys = ring.published(now);
            ages(keys.iter().map(|key| (key.not_before, key.expires)), now)
        }
        Err(error) => Line::fail("keys", "ticket keys", chain(&error)),
    };
    vec![secret, ring]
}

/// Of keys with their windows.
fn ages(keys: impl Iterator<Item = (i64, i64)>, now: i64) -> Line {
    let Some((not_before, expires)) = keys.max_by_key(|&(_, expires)| expires) else {
        return Line::warn("keys", "ticket keys", "there is none; serve makes one");
    };
    let (age, left) = ((now - not_before) / DAY_S, (expires - now) / DAY_S);
    let detail = format!("the newest is {age} days old and signs for {left} more");
    match left {
        ..0 => Line::fail(
            "keys",
            "ticket keys",
            format!("{detail}: restart the server"),
        ),
        0..LATE_DAYS => Line::warn(
            "keys",
            "ticket keys",
            format!("{detail}: a successor is late"),
        ),
        LATE_DAYS.. => Line::ok("keys", "ticket keys", detail),
    }
}

/// The clock against what was written last: one that went back ends no ticket in time.
pub(super) fn clock(dir: &Path, now: i64) -> Line {
    let written = ["db", "durable"]
        .iter()
        .filter_map(|name| dir.join(name).metadata().ok()?.modified().ok())
        .filter_map(|at| at.duration_since(UNIX_EPOCH).ok())
        .filter_map(|since| i64::try_from(since.as_secs()).ok())
        .max();
    let shown = totoro_api::ticket::rfc3339(now);
    match written {
        Some(written) if written > now + SKEW_S => {
            let detail = format!(
                "it is {} s behind the store's last write: set it, or tickets outlive their time",
                written - now
            );
            Line::fail("clock", shown, detail)
        }
        _ => Line::ok("clock", shown, "not behind the store's last write"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn where_ok_ends_and_failure_begins() {
        let at = |free| room(String::new(), free).status;
        let found = [LEAST - 1, LEAST, FEW - 1, FEW].map(at);
        assert_eq!(
            found,
            [Status::Fail, Status::Warn, Status::Warn, Status::Ok]
        );
        let left = |days: i64| ages([(0, 1), (0, days * DAY_S)].into_iter(), 0).status;
        let found = [365, LATE_DAYS, LATE_DAYS - 1, 0].map(left);
        assert_eq!(found, [Status::Ok, Status::Ok, Status::Warn, Status::Warn]);
        assert_eq!(ages([(0, 1)].into_iter(), 10 * DAY_S).status, Status::Fail);
        assert_eq!(ages([].into_iter(), 0).status, Status::Warn);
        let of = |found| schema(found).status;
        assert_eq!(of(SCHEMA), Status::Ok);
        assert_eq!(of(SCHEMA + 1), Status::Fail);
        assert_eq!(of(SCHEMA - 1), Status::Warn);
    }

    #[test]
    fn a_clock_that_went_back_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("db"), b"").unwrap();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        assert_eq!(clock(dir.path(), now).status, Status::Ok);
        assert_eq!(clock(dir.path(), now - 3600).status, Status::Fail);
    }
}
