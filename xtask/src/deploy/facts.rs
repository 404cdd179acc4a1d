//! What a machine says of itself, and what follows: whether a package may come, and the way back from it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;

/// What a machine says of itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// dpkg's word for how the package is there, as `installed`.
    pub(super) status: String,
    /// The version that is there, whole or not; `-` for none.
    pub(super) version: String,
    /// Whether it keeps the package of that.
    pub(super) kept: bool,
    /// Whether the service runs.
    pub(super) active: bool,
    pub(super) arch: String,
}

/// The way back from a package that is not well.
#[derive(Debug, PartialEq)]
pub(super) enum Way {
    /// The former package again.
    Former,
    /// A first one is removed.
    Remove,
    /// None, and the operator knows.
    Missing,
}

impl Facts {
    /// Reads the answer of `host.sh facts`.
    pub(super) fn read(said: &str) -> Result<Self> {
        let words: Vec<&str> = said.split_whitespace().collect();
        let [status, version, kept, active, arch] = words[..] else {
            bail!("it says of itself {said:?}, which is not understood");
        };
        Ok(Facts {
            status: status.to_owned(),
            version: version.to_owned(),
            kept: kept == "kept",
            active: active == "active",
            arch: arch.to_owned(),
        })
    }

    /// The way back once version `coming` is installed; the refusal where there must be one and is
    /// none. `sendable`: the package of the former version lies here. `accepted`: `--no-way-back`.
    pub(super) fn way(&self, coming: &str, sendable: bool, accepted: bool) -> Result<Way> {
        if coming == self.version {
            // apt has nothing to do then, whatever the package holds; and there would be no telling
            // it from its own way back.
            bail!(
                "{coming} is there already: give what was built another version, cargo xtask dist \
                 --revision {}",
                next_revision(coming)
            );
        }
        let why = match self.status.as_str() {
            "installed" if self.kept || sendable => return Ok(Way::Former),
            "installed" => format!(
                "neither that machine (/var/cache/totoro-deploy) nor target/dist has the package of \
                 what is installed now, {}: put it there",
                self.version
            ),
            // A removal would take the files from under it.
            "not-installed" | "config-files" if self.active => {
                "its service runs and no package is installed (from a tarball?): remove that first \
                 (docs/installing.md, Without dpkg)"
                    .to_owned()
            }
            "not-installed" | "config-files" => return Ok(Way::Remove),
            other => format!(
                "its package is {other}, neither there nor not: mend it there first, dpkg --configure \
                 -a or apt-get -f install"
            ),
        };
        if accepted {
            return Ok(Way::Missing);
        }
        bail!("{why}; or say --no-way-back, and a package that is not well stays")
    }
}

/// The revision after that of `version`, for an operator to type.
fn next_revision(version: &str) -> String {
    version
        .rsplit_once('-')
        .and_then(|(_, revision)| revision.parse::<u32>().ok())
        .map_or_else(|| "N+1".to_owned(), |revision| (revision + 1).to_string())
}

/// The version that a package says it is; its file's name may say anything.
pub(super) fn version(deb: &Path) -> Result<String> {
    step::output(Command::new("dpkg-deb").arg("-f").arg(deb).arg("Version"))
        .filter(|version| !version.is_empty())
        .with_context(|| format!("dpkg-deb reads no version in {}", deb.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts, what comes, whether the former package is here, `--no-way-back`; then what follows, or a
    /// part of the refusal.
    type Row = (
        &'static str,
        &'static str,
        bool,
        bool,
        Result<Way, &'static str>,
    );

    #[test]
    fn what_may_come_and_the_way_back() {
        let table: [Row; 15] = [
            (
                "installed 1-1 kept active amd64",
                "1-2",
                false,
                false,
                Ok(Way::Former),
            ),
            (
                "installed 1-1 - active amd64",
                "1-2",
                true,
                false,
                Ok(Way::Former),
            ),
            (
                "installed 1-1 - active amd64",
                "1-2",
                false,
                false,
                Err("what is installed now, 1-1"),
            ),
            (
                "installed 1-1 - active amd64",
                "1-2",
                false,
                true,
                Ok(Way::Missing),
            ),
            // The same version, whatever is in it; nothing overrides that.
            (
                "installed 1-1 kept active amd64",
                "1-1",
                true,
                false,
                Err("--revision 2"),
            ),
            (
                "installed 1-9 kept active amd64",
                "1-9",
                true,
                true,
                Err("--revision 10"),
            ),
            (
                "installed 1 kept active amd64",
                "1",
                true,
                true,
                Err("--revision N+1"),
            ),
            (
                "half-configured 1-1 - - amd64",
                "1-1",
                true,
                true,
                Err("--revision 2"),
            ),
            // A first one.
            (
                "not-installed - - inactive amd64",
                "1-2",
                false,
                false,
                Ok(Way::Remove),
            ),
            (
                "config-files - - inactive amd64",
                "1-2",
                false,
                true,
                Ok(Way::Remove),
            ),
            // A tarball's node runs: a removal would end it.
            (
                "not-installed - - active amd64",
                "1-2",
                false,
                false,
                Err("tarball"),
            ),
            (
                "config-files - - active amd64",
                "1-2",
                true,
                false,
                Err("tarball"),
            ),
            (
                "not-installed - - active amd64",
                "1-2",
                false,
                true,
                Ok(Way::Missing),
            ),
            // Half there.
            (
                "half-installed 1-1 kept active amd64",
                "1-2",
                true,
                false,
                Err("half-installed"),
            ),
            (
                "unpacked 1-1 kept inactive amd64",
                "1-2",
                true,
                true,
                Ok(Way::Missing),
            ),
        ];
        for (said, coming, sendable, accepted, expected) in table {
            let facts = Facts::read(said).unwrap();
            let way = facts.way(coming, sendable, accepted);
            match (way, expected) {
                (Ok(way), Ok(expected)) => assert_eq!(way, expected, "{said}, {coming}"),
                (Err(error), Err(part)) => {
                    assert!(
                        error.to_string().contains(part),
                        "{said}, {coming}: {error}"
                    );
                }
                (way, expected) => panic!("{said}, {coming}: {way:?}, not {expected:?}"),
            }
        }
    }
}
