//! Where state is kept: whether a start can make its files there, has room for them, and can read what is there.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Error;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::super::applied::Unreadable;
use super::{Line, Status};
use crate::config::Config;
use crate::store::{self, Left};

/// What a daemon left that can't be read, where that is why the pool is not known.
pub(in crate::cli) fn unreadable(config: &Config, unknown: &Error) -> Option<Line> {
    let why = unknown.downcast_ref::<Unreadable>()?;
    Some(line_of(config, Status::Fail, why.advice()))
}

/// `unknown` is why the pool is not.
pub(super) fn line(config: &Config, unknown: Option<&Error>) -> Line {
    let dir = &config.state_dir;
    if let Err(why) = takes_files(dir) {
        return line_of(config, Status::Fail, why);
    }
    if let Some(line) = unknown.and_then(|why| unreadable(config, why)) {
        return line;
    }
    let is_of = |left| store::is_of(&config.node, &left, dir);
    if !config.node.is_empty()
        && let Err(why) = Left::under(dir).and_then(is_of)
    {
        return line_of(config, Status::Fail, format!("{why:#}"));
    }
    let there = there_of(dir);
    let free = match statvfs(there) {
        Ok(found) => found.blocks_available() * found.fragment_size(),
        Err(error) => {
            let detail = format!("{}: {error}; look at that file system", there.display());
            return line_of(config, Status::Fail, detail);
        }
    };
    let lengths = store::files(dir)
        .into_iter()
        .filter_map(|file| file.metadata().ok())
        .map(|file| file.len());
    let spool = u64::from(config.spool_mib) << 20;
    let (status, detail) = room(free, lengths.sum(), spool);
    line_of(config, status, detail)
}

fn line_of(config: &Config, status: Status, detail: String) -> Line {
    let target = config.state_dir.display().to_string();
    Line::new("state", target, status, detail)
}

/// The directory, or the nearest one above it, in which it would be made.
fn there_of(dir: &Path) -> &Path {
    let mut above = dir.ancestors();
    above.find(|dir| dir.exists()).unwrap_or(Path::new("/"))
}

/// Whether files can be made in it, and it itself where it is not there.
fn takes_files(dir: &Path) -> Result<(), String> {
    let told = |what: &str, error: io::Error| {
        let next = match error.kind() {
            ErrorKind::PermissionDenied => "run as root",
            _ => "make it writable, or set `state_dir`",
        };
        Err(format!("{what}: {error}; {next}"))
    };
    match dir.metadata() {
        Ok(is) if !is.is_dir() => {
            Err("is no directory; move it away, or set `state_dir`".to_owned())
        }
        Ok(_) => probe(dir).or_else(|error| told("can't be written to", error)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = there_of(dir);
            let made = access(above, AccessFlags::W_OK | AccessFlags::X_OK);
            let what = format!("is not there, and can't be made in {}", above.display());
            made.or_else(|error| told(&what, error.into()))
        }
        Err(error) => told("can't be looked at", error),
    }
}

/// Makes a file, as a start would, and removes it.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".probe.{}", std::process::id()));
    File::create_new(&path)?;
    fs::remove_file(path)
}

/// Whether the log has room in what is free and what it has already, bytes.
fn room(free: u64, taken: u64, spool: u64) -> (Status, String) {
    let (room, begins_with) = (free + taken, store::BEGINS_WITH);
    let grows_to = store::grows_to(spool);
    let [free, taken] = [free, taken].map(|bytes| bytes >> 10);
    if room < begins_with {
        let detail = format!(
            "{free} KiB are free, and a start makes files of {} KiB; make room, or set `state_dir`",
            begins_with >> 10
        );
        return (Status::Fail, detail);
    }
    if room < grows_to {
        let detail = format!(
            "{free} KiB are free, the log has {taken} KiB, and may come to {} KiB while the control plane is away; \
             logins are refused when the disk is full: make room, or set a lower spool_mib",
            grows_to >> 10
        );
        return (Status::Warn, detail);
    }
    (
        Status::Ok,
        "can be written to, with room for the log".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::applied;
    use super::*;
    use crate::config::Settings;
    use crate::store::Store;

    fn config(place: &Path, state: &str) -> Config {
        let given = Settings {
            state_dir: Some(state.into()),
            run_dir: Some("run".into()),
            ..Settings::default()
        };
        Config::unenrolled(&place.join("node.toml"), given).unwrap()
    }

    #[test]
    fn a_directory_is_there_or_can_be_made() {
        let place = tempfile::tempdir().unwrap();
        let names = || {
            let entries = fs::read_dir(place.path()).unwrap().flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        fs::write(place.path().join("file"), "").unwrap();
        for (state, status, says) in [
            ("", Status::Ok, ""),
            ("state/of/it", Status::Ok, ""),
            ("file", Status::Fail, "is no directory"),
            ("file/state", Status::Fail, "set `state_dir`"),
            // Where not even root makes a file.
            ("/proc", Status::Fail, "can't be written to"),
        ] {
            let line = line(&config(place.path(), state), None);
            // As much room as there may be is not this test's.
            let is = if line.status == Status::Warn {
                Status::Ok
            } else {
                line.status
            };
            assert_eq!(is, status, "{state}: {}", line.detail);
            assert!(line.detail.contains(says), "{state}: {}", line.detail);
        }
        assert_eq!(names(), ["file"], "nothing is made, or it is removed");
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_fails() {
        let place = tempfile::tempdir().unwrap();
        let config = config(place.path(), "state");
        drop(Store::open(&config.state_dir).unwrap());
        assert!(applied::pool(&config).await.is_ok());
        let log = config.state_dir.join("log.0000000001");
        let mut bytes = fs::read(&log).unwrap();
        bytes[4] += 1;
        fs::write(&log, bytes).unwrap();
        let unknown = applied::pool(&config).await.unwrap_err();
        for line in [
            Some(line(&config, Some(&unknown))),
            unreadable(&config, &unknown),
        ] {
            let line = line.expect("it is the state's");
            assert_eq!(line.status, Status::Fail);
            let is_said = ["log.0000000001: damaged", "Put a good copy"];
            assert!(
                is_said.iter().all(|part| line.detail.contains(part)),
                "{}",
                line.detail
            );
        }
        let other = anyhow::anyhow!("the daemon does not answer in time");
        assert!(unreadable(&config, &other).is_none());
    }

    #[test]
    fn the_state_of_another_node_fails() {
        let place = tempfile::tempdir().unwrap();
        let mut config = config(place.path(), "state");
        let store = Store::open(&config.state_dir).unwrap();
        store.claim("nod_a", &config.state_dir).unwrap();
        drop(store);
        assert_ne!(line(&config, None).status, Status::Fail, "not enrolled");
        config.node = "nod_a".to_owned();
        assert_ne!(line(&config, None).status, Status::Fail);
        config.node = "nod_b".to_owned();
        let line = line(&config, None);
        assert_eq!(line.status, Status::Fail);
        assert!(line.detail.contains("is of node nod_a"), "{}", line.detail);
    }

    #[test]
    fn room_is_what_is_free_and_what_the_log_has() {
        let (begins, grows) = (store::BEGINS_WITH, store::grows_to(64 << 20));
        assert_eq!(grows, 128 << 20);
        assert_eq!(store::grows_to(1 << 20), 16 << 20, "no less");
        for (free, taken, status) in [
            (0, 0, Status::Fail),
            (begins - 1, 0, Status::Fail),
            (begins, 0, Status::Warn),
            (0, begins, Status::Warn),
            (grows - begins, begins, Status::Ok),
        ] {
            assert_eq!(room(free, taken, 64 << 20).0, status, "{free} and {taken}");
        }
    }
}
