//! Reading a backup to its end, before anything is believed or written.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::files::io;
use super::{Checked, RestoreError};
use crate::app::backup::{SECRETS, SETTINGS};
use crate::store::SCHEMA;
use crate::store::dump::{Decoder, DumpError, Frame, Header, MAX_PIECE, Summary};

/// What settings and secrets may be together, bytes: they are held in memory.
const MAX_SMALL: usize = 1 << 20;

impl Checked {
    /// Reads the whole file and believes nothing in it before its checksum is right.
    ///
    /// # Errors
    /// When it is no backup, damaged, or newer than this program.
    pub fn read(path: &Path) -> Result<Self, RestoreError> {
        let (mut header, mut settings) = (None, Vec::new());
        let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
        let (mut name, mut small) = (String::new(), 0);
        let summary = frames(path, |frame| {
            match frame {
                Frame::Header(found) => header = Some(found),
                Frame::File(found) => {
                    name = found;
                    if let Some(secret) = name.strip_prefix("secrets/") {
                        let secret = secret.to_owned();
                        secrets.push((secret, Vec::new()));
                    }
                }
                Frame::Data(piece) => {
                    let into = match (name == SETTINGS, secrets.last_mut()) {
                        (true, _) => &mut settings,
                        (false, Some((_, secret))) if name.starts_with(SECRETS) => secret,
                        _ => return Ok(()),
                    };
                    small += piece.len();
                    if small > MAX_SMALL {
                        let problem = "its settings and secrets are too large to be ours";
                        return Err(RestoreError::Refused(problem.to_owned()));
                    }
                    into.extend_from_slice(&piece);
                }
                Frame::Entry(_) | Frame::End(_) => {}
            }
            Ok(())
        })?;
        let header: Header = header.ok_or_else(|| RestoreError::Dump {
            path: path.to_owned(),
            problem: DumpError::Foreign,
        })?;
        if header.schema > SCHEMA {
            return Err(RestoreError::Refused(format!(
                "the backup has schema {} and this version knows {SCHEMA}: restore it with version \
                 {} or newer",
                header.schema, header.version
            )));
        }
        Ok(Checked {
            path: path.to_owned(),
            header,
            summary,
            settings: String::from_utf8_lossy(&settings).into_owned(),
            secrets,
        })
    }
}

/// Reads a backup frame by frame, to its end.
pub(super) fn frames(
    path: &Path,
    mut each: impl FnMut(Frame) -> Result<(), RestoreError>,
) -> Result<Summary, RestoreError> {
    let dump = |problem| RestoreError::Dump {
        path: path.to_owned(),
        problem,
    };
    let mut file = File::open(path).map_err(io("read", path))?;
    let (mut decoder, mut piece) = (Decoder::default(), vec![0; MAX_PIECE]);
    loop {
        match file.read(&mut piece).map_err(io("read", path))? {
            0 => return decoder.complete().map_err(dump),
            read => decoder.feed(&piece[..read]),
        }
        while let Some(frame) = decoder.next().map_err(dump)? {
            each(frame)?;
        }
    }
}
