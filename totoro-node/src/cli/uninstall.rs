//! `uninstall`: takes this node off the machine, and says what it took and what it left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use totoro_cli::out;

use crate::config::Config;
use crate::{kernel, reserve, store, tls};

/// Options of `uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  systemctl stop totoro-frps totoro-node.socket totoro-node && totoro-node uninstall
  totoro-node uninstall --purge     its settings, secrets and state too: it can't come back")]
pub(super) struct Args {
    /// Also remove this node's settings, secrets and state. The control plane keeps its record.
    #[arg(long)]
    purge: bool,
}

/// Does it. `settings` is the settings' file, which need not be there.
pub(super) fn run(config: &Config, settings: &Path, args: &Args) -> Result<()> {
    let programs = kernel::attached_programs(&config.pin_root);
    for line in kernel::uninstall(&config.pin_root)? {
        out::line(format_args!("removed {line}"))?;
    }
    let ports = reserve::release(&config.state_dir)?;
    if !ports.is_empty() {
        out::line(format_args!("no longer reserved: ports {ports}"))?;
    }
    let left = kernel::still_loaded(&programs)?;
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
    out::line(format_args!(
        "nothing of Totoro is left in the kernel ({ended} programs ended)"
    ))?;
    if !args.purge {
        let (state, dir) = (config.state_dir.display(), settings.display());
        out::line(format_args!(
            "kept: {dir}, the secrets beside it, and {state}; --purge removes them too"
        ))?;
        return Ok(());
    }
    for path in files(config, settings) {
        match fs::remove_file(&path) {
            Ok(()) => out::line(format_args!("removed {}", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
        }
    }
    let beside = settings.parent().map(Path::to_owned);
    let dirs = [&config.tls_dir, &config.state_dir, &config.run_dir];
    for dir in dirs.into_iter().cloned().chain(beside) {
        // What is not ours is left where it is, and said.
        match fs::remove_dir(&dir) {
            Ok(()) => out::line(format_args!("removed {}", dir.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => out::line(format_args!("left {}: {error}", dir.display()))?,
        }
    }
    Ok(())
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
        run(&config, &settings, &Args { purge: false }).unwrap();
        assert!(
            ours.iter().all(|path| path.exists()),
            "without --purge all stays"
        );
        run(&config, &settings, &Args { purge: true }).unwrap();
        assert!(ours.iter().chain(&kept).all(|path| !path.exists()));
        assert!(at("control.toml").exists() && at("state/other").exists());
        assert!(!at("tls").exists() && !at("run").exists());
    }
}
