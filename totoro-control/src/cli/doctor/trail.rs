//! Whether the audit trail's segments still hold what was written: line by line, by their checksums.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Line;
use crate::audit::{self, read_line};

/// How long it looks: a trail may have a terabyte, and a doctor is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Twice what a line has at most: damage may leave none that ends.
const MAX_LINE: u64 = 16 << 10;
/// What is read at once, bytes.
const BLOCK: usize = 256 << 10;
/// As many names fit a line that people read.
const NAMES: usize = 3;

/// What is in a segment.
#[derive(Debug, PartialEq)]
enum Found {
    /// Every line holds, but for a torn end of the newest.
    Whole,
    /// The line at this byte does not.
    Damaged(u64),
    /// The same, of the newest without a server: a power cut leaves that, too.
    Unsure(u64),
    /// There was no time for the rest of it.
    Late,
}

/// The newest segments first, as many as there is time for. `live`: a server has them.
pub(super) fn trail(data_dir: &Path, live: bool) -> Line {
    within(data_dir, live, PATIENCE)
}

fn within(data_dir: &Path, live: bool, patience: Duration) -> Line {
    let dir = data_dir.join("audit");
    let shown = dir.display().to_string();
    let names = match names(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Line::ok("audit", shown, "no segment yet");
        }
        Err(error) => return Line::fail("audit", shown, format!("cannot be listed: {error}")),
    };
    let until = Instant::now() + patience;
    let (mut bad, mut unsure, mut seen) = (Vec::new(), None, 0);
    for (nth, path) in names.iter().enumerate() {
        let name = || path.file_name().unwrap_or_default().to_string_lossy();
        match examine(path, nth == 0, live, until) {
            Ok(Found::Whole) => {}
            Ok(Found::Damaged(at)) => bad.push((name(), format!("its line at byte {at}"))),
            Ok(Found::Unsure(at)) => unsure = Some((name(), at)),
            Ok(Found::Late) => break,
            // Retention dropped it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => bad.push((name(), format!("what cannot be read ({error})"))),
        }
        seen += 1;
    }
    let all = names.len();
    let looked = format!(
        "{seen} of {all} segments looked at{}",
        if seen == all {
            ""
        } else {
            ", the newest; there was no time for the rest"
        }
    );
    if let Some((_, what)) = bad.first() {
        let more = match bad.len().saturating_sub(NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names: Vec<_> = bad.iter().take(NAMES).map(|(name, _)| &**name).collect();
        let detail = format!(
            "{what} does not hold its checksum: events are missing, the rest is served; restore it \
             from a backup ({looked})"
        );
        // The server serves, and an upgrade, which asks us, must not wait for what no backup may have.
        return Line::warn("audit", format!("{}{more}", names.join(", ")), detail);
    }
    if let Some((name, at)) = unsure {
        let detail = format!(
            "its line at byte {at} does not hold its checksum: a power cut's, which serve mends from \
             the store, or damage, which it then tells of"
        );
        return Line::warn("audit", name, detail);
    }
    Line::ok(
        "audit",
        shown,
        format!("every line holds its checksum ({looked})"),
    )
}

/// The segments' files, the newest first: names order as their events do.
fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "ndjson") {
            names.push(path);
        }
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

/// Reads one to its end, or to what does not hold.
fn examine(path: &Path, newest: bool, live: bool, until: Instant) -> io::Result<Found> {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path)?);
    let (mut at, mut bad, mut more) = (0, None, false);
    let mut text = Vec::new();
    loop {
        text.clear();
        let length = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        match read_line(&text) {
            // A seal comes last, when all of it was durable.
            Some(audit::Line::Seal(_)) if bad.is_some() => return Ok(Found::Damaged(at)),
            Some(_) => more |= bad.is_some(),
            None if newest => _ = bad.get_or_insert(at),
            None => return Ok(Found::Damaged(at)),
        }
        at += length as u64;
        if Instant::now() >= until {
            return Ok(Found::Late);
        }
    }
    Ok(match bad {
        Some(at) if more && live => Found::Damaged(at),
        Some(at) if more => Found::Unsure(at),
        // The end that is being written, or was when the power went.
        _ => Found::Whole,
    })
}

#[cfg(test)]
mod tests {
    use totoro_api::wire::event::{Actor, AuditEvent, Subject};

    use super::super::Status;
    use super::*;
    use crate::audit::{write_event, write_id};
    use crate::store::Position;

    fn line(revision: u64) -> Vec<u8> {
        let position = Position {
            day: 9,
            revision,
            index: 0,
        };
        let event = AuditEvent {
            id: write_id(position),
            at: "2030-01-31T00:00:00.000Z".to_owned(),
            actor: Actor::default(),
            request_id: None,
            node: None,
            spool: None,
            seq: None,
            boot: None,
            subject: Subject::default(),
        };
        let mut out = Vec::new();
        write_event(&mut out, &event).unwrap();
        out
    }

    #[test]
    fn a_line_that_does_not_hold_is_told_with_its_files_name() {
        let dir = tempfile::tempdir().unwrap();
        let look = |live| {
            let line = trail(dir.path(), live);
            (line.status, line.target, line.detail)
        };
        assert_eq!(look(false).0, Status::Ok, "no trail yet");
        let (old, new) = ("2030-01-30.0001.ndjson", "2030-01-31.0001.ndjson");
        std::fs::create_dir(dir.path().join("audit")).unwrap();
        let write = |name: &str, lines: &[Vec<u8>]| {
            std::fs::write(dir.path().join("audit").join(name), lines.concat()).unwrap();
        };
        let whole: Vec<Vec<u8>> = (1..4).map(line).collect();
        write(old, &whole);
        write(new, &whole);
        let (status, _, detail) = look(true);
        assert_eq!(status, Status::Ok);
        assert!(detail.contains("2 of 2 segments"), "{detail}");

        // The newest may end in the middle of a write.
        let torn = [whole[0].clone(), whole[1][..20].to_vec()];
        write(new, &torn);
        assert_eq!(look(true).0, Status::Ok);
        // None that is complete does.
        write(old, &torn);
        let (status, target, detail) = look(true);
        assert_eq!((status, target.as_str()), (Status::Warn, old));
        let at = format!("byte {} ", whole[0].len());
        assert!(
            detail.contains(&at) && detail.contains("restore"),
            "{detail}"
        );

        write(old, &whole);
        let mut flipped = whole.clone();
        flipped[1][40] ^= 1;
        write(new, &flipped);
        let told = |live| (look(live).0, look(live).1);
        assert_ne!(look(true).2, look(false).2, "a power cut leaves that, too");
        assert_eq!(told(true), (Status::Warn, new.to_owned()));
        assert_eq!(told(false), (Status::Warn, new.to_owned()));
        write(old, &[vec![b'x'; 3 * BLOCK]]);
        assert_eq!(
            told(false),
            (Status::Warn, old.to_owned()),
            "no line at all"
        );
    }

    #[test]
    fn it_is_soon_done_and_says_what_it_left() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("audit")).unwrap();
        let file = dir.path().join("audit/2030-01-31.0001.ndjson");
        std::fs::write(file, line(1)).unwrap();
        let found = within(dir.path(), false, Duration::ZERO);
        assert!(found.detail.contains("0 of 1 segments") && found.detail.contains("no time"));
    }
}
