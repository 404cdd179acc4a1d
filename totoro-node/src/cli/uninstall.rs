//! `uninstall`: takes this node off the machine, and says what it took and what it left.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use totoro_api::ports::PortSet;
use totoro_cli::{out, print_json};

use crate::config::Config;
use crate::{kernel, reserve, store, tls};

/// Options of `uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  systemctl stop totoro-frps totoro-node.socket totoro-node && totoro-node uninstall
  totoro-node uninstall --purge     its settings, secrets and state too: it can't come back
  totoro-node uninstall --json      what was removed and what is left, by kind

Refuses while the daemon runs, and prints nothing then. When something fails later, --json says
what was removed until then and what is left; the exit code is 1.")]
pub(super) struct Args {
    /// Also remove this node's settings, secrets and state. The control plane keeps its record.
    #[arg(long)]
    purge: bool,
}

/// What an uninstallation did, by kind. Every kind is always there.
#[derive(Debug, Default, Serialize)]
struct Report {
    removed: Removed,
    left: Left,
}

/// What is gone.
#[derive(Debug, Default, Serialize)]
struct Removed {
    /// Ids of the programs that ended.
    programs: BTreeSet<u32>,
    pins: Vec<PathBuf>,
    /// Filters of an older kernel, which are no links.
    filters: Vec<String>,
    /// Interfaces whose clsact qdisc was the node's.
    qdiscs: Vec<String>,
    /// What the kernel hands out by itself again.
    ports: PortSet,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

/// What of the node is there still.
#[derive(Debug, Default, Serialize)]
struct Left {
    /// Ids of its programs that something else holds.
    programs: BTreeSet<u32>,
    /// The directory of pins, with those of a version that is not known here.
    pins: Vec<PathBuf>,
    /// Interfaces whose clsact qdisc was the node's, and is somebody else's by now.
    qdiscs: Vec<String>,
    ports: PortSet,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

/// Does it. `settings` is the settings' file, which need not be there.
pub(super) fn run(config: &Config, settings: &Path, args: &Args, as_json: bool) -> Result<()> {
    // Under a live daemon it refuses here, with everything in its place.
    let programs = kernel::attached_programs(&config.pin_root);
    let taken = kernel::uninstall(&config.pin_root)?;
    let mut told = Told {
        as_json,
        report: Report::default(),
    };
    let done = finish(config, settings, args.purge, (programs, taken), &mut told);
    let printed = match as_json {
        true => print_json(&told.looked_at(config, settings)),
        false => Ok(()),
    };
    done?;
    Ok(printed?)
}

/// What is told: to people line by line, as it is done; to programs at the end.
struct Told {
    as_json: bool,
    report: Report,
}

impl Told {
    fn line(&self, line: impl Display) -> io::Result<()> {
        match self.as_json {
            true => Ok(()),
            false => out::line(line),
        }
    }

    /// The report, with what is left by the look of it.
    fn looked_at(mut self, config: &Config, settings: &Path) -> Report {
        let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
        let left = &mut self.report.left;
        left.pins
            .extend(Some(config.pin_root.clone()).filter(is_there));
        // A note that can't be read was an error before.
        left.ports = reserve::added(&config.state_dir).unwrap_or_default();
        left.files = files(config, settings);
        left.files.retain(is_there);
        left.directories = directories(config, settings);
        left.directories.retain(is_there);
        self.report
    }
}

/// What comes after the kernel let go of what was pinned: a look at it, the ports, and with `purge` the
/// files.
fn finish(
    config: &Config,
    settings: &Path,
    purge: bool,
    (programs, taken): (BTreeSet<u32>, kernel::Uninstalled),
    told: &mut Told,
) -> Result<()> {
    for pin in &taken.pins {
        told.line(format_args!("removed {}", pin.display()))?;
    }
    for filter in &taken.filters {
        told.line(format_args!("removed {filter}"))?;
    }
    for interface in &taken.qdiscs {
        told.line(format_args!("removed qdisc clsact on {interface}"))?;
    }
    for interface in &taken.used_qdiscs {
        told.line(format_args!(
            "left qdisc clsact on {interface}, which somebody else uses by now"
        ))?;
    }
    let removed = &mut told.report.removed;
    (removed.pins, removed.filters) = (taken.pins, taken.filters);
    removed.qdiscs = taken.qdiscs;
    told.report.left.qdiscs = taken.used_qdiscs;
    let ports = reserve::release(&config.state_dir)?;
    if !ports.is_empty() {
        told.line(format_args!("no longer reserved: ports {ports}"))?;
    }
    told.report.removed.ports = ports;
    let left = kernel::still_loaded(&programs)?;
    told.report.removed.programs = programs.difference(&left).copied().collect();
    told.report.left.programs.clone_from(&left);
    ensure!(
        left.is_empty(),
        "programs {left:?} are loaded still: something else holds them; `bpftool prog show id …` and \
         `bpftool link` say where"
    );
    if config.pin_root.exists() {
        bail!(
            "{} is there still, with pins of another version: run that version's uninstall, or: rm -r {0}",
            config.pin_root.display()
        );
    }
    let ended = programs.len();
    told.line(format_args!(
        "nothing of Totoro is left in the kernel below {} ({ended} programs ended); a frps that still runs is \
         without limits: systemctl stop totoro-frps",
        config.pin_root.display()
    ))?;
    let is_there = settings.exists();
    if !is_there {
        told.line(format_args!(
            "there is no {}: where the node's settings are elsewhere, say so by --config",
            settings.display()
        ))?;
    }
    if purge {
        return remove_files(config, settings, told);
    }
    if !is_there {
        return Ok(());
    }
    let (state, dir) = (config.state_dir.display(), settings.display());
    told.line(format_args!(
        "kept: {dir}, the secrets beside it, and {state}; --purge removes them too"
    ))?;
    Ok(())
}

/// Removes what is the node's, and the directories that are empty then.
fn remove_files(config: &Config, settings: &Path, told: &mut Told) -> Result<()> {
    for path in files(config, settings) {
        match fs::remove_file(&path) {
            Ok(()) => {
                told.line(format_args!("removed {}", path.display()))?;
                told.report.removed.files.push(path);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
        }
    }
    for dir in directories(config, settings) {
        // What is not ours is left where it is, and said.
        match fs::remove_dir(&dir) {
            Ok(()) => {
                told.line(format_args!("removed {}", dir.display()))?;
                told.report.removed.directories.push(dir);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => told.line(format_args!("left {}: {error}", dir.display()))?,
        }
    }
    Ok(())
}

/// Where these files are. The settings' own comes last: others are in it.
fn directories(config: &Config, settings: &Path) -> Vec<PathBuf> {
    let dirs = [&config.tls_dir, &config.state_dir, &config.run_dir];
    let beside = settings.parent().map(Path::to_owned);
    dirs.into_iter().cloned().chain(beside).collect()
}

/// Every file that enrolment and the daemon make: by name, so that nothing else is ever touched.
fn files(config: &Config, settings: &Path) -> Vec<PathBuf> {
    let key = &config.key_file;
    let mut files = vec![
        settings.to_owned(),
        key.clone(),
        super::key::next_to(key),
        key.with_file_name("instance"),
        config.plugin_secret_file.clone(),
        config.frps_password_file.clone(),
        settings.with_file_name("frps.toml"),
        config.local_socket(),
        config.metrics_socket(),
    ];
    let pems = [tls::CA, tls::CA_KEY, tls::CERT, tls::KEY];
    files.extend(pems.map(|name| config.tls_dir.join(name)));
    files.extend(store::files(&config.state_dir));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::store::Store;

    #[test]
    fn a_purge_takes_what_is_the_nodes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let given = Settings {
            control: Some("https://control.invalid".to_owned()),
            node: Some("n1".to_owned()),
            pin_root: Some(at("pins")),
            state_dir: Some(at("state")),
            run_dir: Some(at("run")),
            ..Settings::default()
        };
        let config = Config::from_settings(given, Settings::default(), dir.path()).unwrap();
        for name in ["state", "run", "tls"] {
            fs::create_dir(at(name)).unwrap();
        }
        // What a daemon keeps there, however it names it.
        drop(Store::open(&config.state_dir).unwrap());
        let kept = fs::read_dir(&config.state_dir).unwrap();
        let kept: Vec<PathBuf> = kept.map(|entry| entry.unwrap().path()).collect();
        let settings = at("node.toml");
        let ours = files(&config, &settings);
        for path in ours.iter().chain([&at("control.toml"), &at("state/other")]) {
            fs::write(path, "").unwrap();
        }
        let act = |purge| {
            let mut told = Told {
                as_json: true,
                report: Report::default(),
            };
            finish(&config, &settings, purge, Default::default(), &mut told).unwrap();
            serde_json::to_value(told.looked_at(&config, &settings)).unwrap()
        };
        let listed = |of: &serde_json::Value| -> BTreeSet<PathBuf> {
            let list = of.as_array().unwrap().iter();
            list.map(|path| path.as_str().unwrap().into()).collect()
        };
        let told = act(false);
        assert!(
            ours.iter().all(|path| path.exists()),
            "without --purge all stays"
        );
        assert_eq!(told["removed"]["files"], serde_json::json!([]));
        assert_eq!(listed(&told["left"]["files"]), set(&ours));
        let told = act(true);
        assert!(ours.iter().chain(&kept).all(|path| !path.exists()));
        assert!(at("control.toml").exists() && at("state/other").exists());
        assert!(!at("tls").exists() && !at("run").exists());
        assert_eq!(listed(&told["removed"]["files"]), set(&ours));
        assert_eq!(told["left"]["files"], serde_json::json!([]));
        let [removed, left] = ["removed", "left"].map(|kind| listed(&told[kind]["directories"]));
        assert_eq!(removed, set(&[at("tls"), at("run")]));
        assert_eq!(left, set(&[at("state"), dir.path().to_owned()]));
    }

    fn set(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
        paths.iter().cloned().collect()
    }

    #[test]
    fn a_report_has_every_kind_also_where_there_was_nothing() {
        let report = serde_json::to_value(Report::default()).unwrap();
        let kinds = |of: &str| report[of].as_object().unwrap().keys().cloned().collect();
        let removed: Vec<String> = kinds("removed");
        let all = [
            "directories",
            "files",
            "filters",
            "pins",
            "ports",
            "programs",
            "qdiscs",
        ];
        assert_eq!(BTreeSet::from_iter(removed), all.map(str::to_owned).into());
        let left: Vec<String> = kinds("left");
        assert!(
            left.iter()
                .all(|kind| report["left"][kind] == serde_json::json!([]))
        );
    }
}
