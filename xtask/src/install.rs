//! `soak install`: packages on a fresh Debian with its own systemd. Installed, run, upgraded by `deploy`
//! over ssh, rolled back from a broken one, removed and purged; and then nothing of it is left.

mod broken;
mod plays;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::fresh::Fresh;
use crate::setup::Apt;
use crate::{dist, frp, path};

/// Counts what was looked at.
#[derive(Default)]
pub(crate) struct Checks {
    passed: Cell<u32>,
    failed: Cell<u32>,
}

impl Checks {
    /// Looks at one thing, and says how it is.
    pub(crate) fn check(&self, what: &str, look: impl FnOnce() -> Result<String>) {
        let begun = Instant::now();
        match look() {
            Ok(said) => {
                self.passed.set(self.passed.get() + 1);
                println!(
                    "  ✔ {what}: {said} ({:.1} s)",
                    begun.elapsed().as_secs_f64()
                );
            }
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                println!("  ✘ {what}: {error:#}");
            }
        }
    }
}

/// What the plays share.
pub(crate) struct World {
    pub(crate) fresh: Fresh,
    pub(crate) checks: Checks,
    /// Packages of two revisions of the same build, and one whose daemon does not run.
    pub(crate) first: Vec<PathBuf>,
    pub(crate) second: Vec<PathBuf>,
    pub(crate) broken: PathBuf,
    pub(crate) ssh_config: PathBuf,
    /// Ours; removed at the end.
    dir: PathBuf,
}

/// Runs it.
pub(crate) fn run(optimised: bool, as_is: bool) -> Result<()> {
    let mut apt = Apt::default();
    for (tool, package) in [("busybox", "busybox-static"), ("ssh", "openssh-client")] {
        if path::find(tool).is_none() {
            apt.install(&[package.to_owned()], "it logs in to the fresh machine")?;
        }
    }
    frp::install()?;
    // The newest last: `deploy` without a name takes that one.
    for revision in [1, 2].into_iter().filter(|_| !as_is) {
        dist::run(&dist::Args {
            revision,
            dev: !optimised,
        })?;
    }
    let dir = std::env::temp_dir().join(format!("totoro-install-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let begun = Instant::now();
    let world = World {
        fresh: Fresh::boot()?,
        checks: Checks::default(),
        first: debs(1)?,
        second: debs(2)?,
        broken: broken::make(&debs(2)?[0], &dir)?,
        ssh_config: dir.join("ssh_config"),
        dir,
    };
    plays::all(&world);
    let Checks { passed, failed } = &world.checks;
    let (passed, failed) = (passed.get(), failed.get());
    println!(
        "{passed} passed, {failed} failed in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

fn debs(revision: u32) -> Result<Vec<PathBuf>> {
    let arch = dist::arch()?;
    let version = env!("CARGO_PKG_VERSION");
    let name = |package| format!("{package}_{version}-{revision}_{arch}.deb");
    Ok(dist::DAEMONS
        .map(|package| dist::dir().join(name(package)))
        .into())
}

impl Drop for World {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl World {
    /// Runs a shell's words in the fresh machine.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        self.fresh.run(script)
    }

    /// The same again until it succeeds, for 20 s.
    pub(crate) fn until(&self, script: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            match self.run(script) {
                Ok(said) => return Ok(said),
                Err(error) if begun.elapsed() > Duration::from_secs(20) => {
                    return Err(error.context("not after 20 s"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Copies packages in, and has apt install them.
    pub(crate) fn apt_install(&self, debs: &[PathBuf]) -> Result<String> {
        let mut names = Vec::new();
        for deb in debs {
            let name = deb
                .file_name()
                .context("a package has a name")?
                .to_string_lossy();
            self.fresh.copy(deb, &format!("/var/tmp/{name}"))?;
            names.push(format!("/var/tmp/{name}"));
        }
        let names = names.join(" ");
        self.run(&format!(
            "chmod 644 {names}; apt-get install -y -q {names}; rm {names}"
        ))
    }

    /// A deploy to it; what it says when it fails.
    pub(crate) fn deploy(&self, deb: &Path, dry_run: bool) -> Result<()> {
        crate::deploy::run(&crate::deploy::Args {
            hosts: vec!["fresh".to_owned()],
            package: "totoro-node".to_owned(),
            deb: Some(deb.to_owned()),
            dry_run,
            no_way_back: false,
            patience: 15,
            ssh_config: Some(self.ssh_config.clone()),
        })
    }

    /// Lets ssh in, with a key that is thrown away.
    pub(crate) fn open_ssh(&self) -> Result<String> {
        let key = self.dir.join("key");
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status()
            .context("start ssh-keygen")?;
        ensure!(made.success(), "ssh-keygen failed");
        let public = fs::read_to_string(key.with_extension("pub")).context("read the key")?;
        self.run(&format!(
            "home=$(getent passwd root | cut -d: -f6); install -d -m 700 $home/.ssh; \
             echo '{}' > $home/.ssh/authorized_keys",
            public.trim()
        ))?;
        let config = format!(
            "Host fresh\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  \
             ProxyCommand {} busybox nc 127.0.0.1 22\n",
            key.display(),
            self.fresh.enter_net()
        );
        fs::write(&self.ssh_config, config).context("write ssh's configuration")?;
        Ok("by a key that is thrown away".to_owned())
    }

    /// A program of `target/tools`, copied in.
    pub(crate) fn tool(&self, name: &str, to: &str) -> Result<()> {
        let from = crate::target().join("tools").join(name);
        self.fresh.copy(&from, to)?;
        self.run(&format!("chmod 755 {to}")).map(drop)
    }

    /// The ids of the links that its node has pinned, and of the programs that they run, as this
    /// machine's bpftool sees them.
    pub(crate) fn pinned(&self) -> Result<Vec<(u64, u64)>> {
        let dir = self.fresh.root().join("sys/fs/bpf/totoro");
        let mut all = Vec::new();
        for abi in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            for link in fs::read_dir(abi?.path().join("links"))?.flatten() {
                let shown = std::process::Command::new("bpftool")
                    .args(["-j", "link", "show", "pinned"])
                    .arg(link.path())
                    .output()
                    .context("start bpftool")?;
                let read: serde_json::Value = serde_json::from_slice(&shown.stdout)
                    .with_context(|| format!("bpftool on {}", link.path().display()))?;
                let id = |name: &str| read[name].as_u64().unwrap_or(0);
                all.push((id("id"), id("prog_id")));
            }
        }
        all.sort_unstable();
        if all.is_empty() {
            bail!("no links are pinned");
        }
        Ok(all)
    }
}
