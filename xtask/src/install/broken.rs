//! A package whose daemon passes its preflight and does not run: as a bad release would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Its `run` fails; everything else is the real daemon's.
const DAEMON: &str = "#!/bin/sh
case \"$1\" in
    run) echo 'a bad release' >&2; exit 1 ;;
    *) exec \"$0.real\" \"$@\" ;;
esac
";

/// Makes it from a good one.
pub(super) fn make(good: &Path, dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("broken");
    dpkg_deb(Command::new("dpkg-deb").arg("-R").arg(good).arg(&tree))?;
    let daemon = tree.join("usr/bin/totoro-node");
    fs::rename(&daemon, daemon.with_extension("real")).context("keep the daemon")?;
    fs::write(&daemon, DAEMON).context("write the daemon")?;
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).context("chmod")?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).context("read the package's control file")?;
    let text: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("Version: ") {
            Some(version) => format!("Version: {version}+broken"),
            None => line.to_owned(),
        })
        .collect();
    fs::write(&control, text.join("\n") + "\n").context("write the package's control file")?;
    let made = good
        .file_name()
        .context("a package has a name")?
        .to_string_lossy();
    let made = dir.join(made.replace("-2_", "-2+broken_"));
    dpkg_deb(
        Command::new("dpkg-deb")
            .args(["-Zgzip", "-z1", "-b"])
            .arg(&tree)
            .arg(&made),
    )?;
    Ok(made)
}

fn dpkg_deb(command: &mut Command) -> Result<()> {
    let output = command.output().context("start dpkg-deb")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
