//! `deploy`: a package of `target/dist` onto machines, by the system's ssh, one machine after the
//! other. A preflight first, which changes nothing; then installed, restarted, waited for; and back to
//! the former package where it is not well. `deploy/host.sh` is what runs there.

mod facts;
#[cfg(test)]
mod scripts;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::dist;
use facts::{Facts, Way};

const HOST: &str = include_str!("../../deploy/host.sh");

/// Options of `deploy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask dist && cargo xtask deploy --dry-run n1.example.org
  cargo xtask deploy n1.example.org n2.example.org      stops at the first that is not well
  cargo xtask deploy --package totoro-control control.example.org

Keys, names and jumps are ssh's (~/.ssh/config). The login is root, or may `sudo -n`. A service that did
not run is not started.")]
pub(crate) struct Args {
    /// Machines, as ssh knows them.
    #[arg(required = true)]
    pub(crate) hosts: Vec<String>,
    /// What to install.
    #[arg(long, default_value = "totoro-node", value_parser = dist::DAEMONS)]
    pub(crate) package: String,
    /// The package; the newest of target/dist when absent.
    #[arg(long)]
    pub(crate) deb: Option<PathBuf>,
    /// Only the preflight.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Install although there is no way back to what is there now: what is not well then stays.
    #[arg(long)]
    pub(crate) no_way_back: bool,
    /// How long the service may take to be well, seconds.
    #[arg(long, default_value_t = 60)]
    pub(crate) patience: u32,
    /// Another configuration of ssh's.
    #[arg(long)]
    pub(crate) ssh_config: Option<PathBuf>,
}

/// One machine, over ssh.
struct Host<'a> {
    name: &'a str,
    args: &'a Args,
}

/// Installs everywhere, or says where it ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    let deb = match &args.deb {
        Some(deb) => deb.clone(),
        None => newest(&args.package)?,
    };
    ensure!(deb.is_file(), "{} is no file", deb.display());
    for (done, name) in args.hosts.iter().enumerate() {
        Host { name, args }
            .deploy(&deb)
            .with_context(|| format!("{name} ({done} machines before it are done)"))?;
    }
    Ok(())
}

/// The newest package that `dist` made.
fn newest(package: &str) -> Result<PathBuf> {
    let made = std::fs::read_dir(dist::dir())
        .into_iter()
        .flatten()
        .flatten();
    let prefix = format!("{package}_");
    made.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with(&prefix) && name.ends_with(".deb")
    })
    .max_by_key(|file| file.metadata().and_then(|meta| meta.modified()).ok())
    .map(|file| file.path())
    .with_context(|| format!("no {package} in target/dist; first: cargo xtask dist"))
}

impl Host<'_> {
    fn deploy(&self, deb: &Path) -> Result<()> {
        let (package, name) = (&self.args.package, self.name);
        let facts = self.facts()?;
        let file = deb
            .file_name()
            .context("the package has no name")?
            .to_string_lossy();
        ensure!(
            file.ends_with(&format!("_{}.deb", facts.arch)),
            "{file} is not for this machine, which is {}",
            facts.arch
        );
        eprintln!(
            "▶ {name}: {package} {} is {}{}; {file} comes",
            facts.version,
            facts.status,
            if facts.active { " and runs" } else { "" }
        );
        let former = dist::dir().join(format!("{package}_{}_{}.deb", facts.version, facts.arch));
        let way = facts.way(
            &facts::version(deb)?,
            former.is_file(),
            self.args.no_way_back,
        )?;
        let there = Uploaded::new(self, deb)?;
        self.ask("preflight", &[&there.path])
            .context("its preflight failed; nothing was changed")?;
        eprintln!("✔ {name}: preflight");
        if self.args.dry_run {
            eprintln!("✔ {name}: would be installed (--dry-run)");
            return Ok(());
        }
        if way == Way::Former && !facts.kept {
            let former = Uploaded::new(self, &former)?;
            self.ask("keep", &[&former.path])?;
        }
        let installed = self.ask("install", &[&there.path]);
        if let Err(why) = installed.and_then(|_| self.well(&facts)) {
            return Err(self.back(&facts, &way, why));
        }
        self.ask("keep", &[&there.path])?;
        match facts.active {
            true => eprintln!("✔ {name}: {file} is installed and well"),
            false => eprintln!("✔ {name}: {file} is installed; it did not run and was not started"),
        }
        Ok(())
    }

    /// Goes back; the error that says so.
    fn back(&self, facts: &Facts, way: &Way, why: anyhow::Error) -> anyhow::Error {
        let (name, version) = (self.name, &facts.version);
        let (state, how) = match facts.active {
            true => ("active", "which is well"),
            false => ("inactive", "which did not run and was not started"),
        };
        eprintln!("✘ {name}: {why:#}");
        let back = match way {
            Way::Missing => {
                return why
                    .context("it is not well there, and there is no way back: look at it now");
            }
            Way::Remove => {
                eprintln!("▶ {name}: it is removed again");
                self.ask("back", &["-", state])
            }
            Way::Former => {
                eprintln!("▶ {name}: back to {version}");
                self.ask("back", &[version, state])
                    .and_then(|_| self.well(facts))
            }
        };
        match (back, way) {
            (Ok(_), Way::Former) => why.context(format!(
                "it is not well there; rolled back to {version}, {how}"
            )),
            (Ok(_), _) => why.context("it is not well there; removed again"),
            (Err(error), _) => why.context(format!(
                "it is not well there, AND the way back to {version} failed ({error:#}): look at it \
                 now"
            )),
        }
    }

    /// Waits until the service is well, where it ran before.
    fn well(&self, facts: &Facts) -> Result<String> {
        match facts.active {
            true => self.ask("health", &[&self.args.patience.to_string()]),
            false => Ok(String::new()),
        }
    }

    fn facts(&self) -> Result<Facts> {
        let said = self.ask("facts", &[]).context("it can't be looked at")?;
        Facts::read(&said)
    }

    /// Runs a verb of `host.sh` there as root.
    fn ask(&self, verb: &str, more: &[&str]) -> Result<String> {
        let words = [&[verb, &self.args.package], more].concat();
        let words: Vec<String> = words.into_iter().map(quoted).collect();
        // Read whole before it runs: what it starts must not read on in it.
        let shell = format!(
            "script=$(cat); root=; [ \"$(id -u)\" = 0 ] || root='sudo -n'; \
             exec $root sh -c \"$script\" host.sh {} </dev/null",
            words.join(" ")
        );
        let output = self.run("ssh", &[self.name, &shell], HOST)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{verb}: {}\n{said}{complaint}", output.status);
        }
        Ok(said)
    }

    /// Runs ssh or scp, which ask nothing.
    fn run(&self, program: &str, words: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(program);
        if let Some(config) = &self.args.ssh_config {
            command.arg("-F").arg(config);
        }
        let mut child = command
            .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program} (apt-get install openssh-client)"))?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that ended at once says why on stderr.
            pipe.write_all(input.as_bytes()).ok();
        }
        child
            .wait_with_output()
            .with_context(|| format!("wait for {program}"))
    }
}

/// A file on a machine, in a directory of its own; removed when dropped.
struct Uploaded<'a> {
    host: &'a Host<'a>,
    dir: String,
    path: String,
}

impl<'a> Uploaded<'a> {
    fn new(host: &'a Host<'a>, file: &Path) -> Result<Self> {
        let made = host.run(
            "ssh",
            &[host.name, "mktemp -d /var/tmp/totoro-deploy.XXXXXX"],
            "",
        )?;
        ensure!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let dir = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        let name = file
            .file_name()
            .context("the package has no name")?
            .to_string_lossy();
        let path = format!("{dir}/{name}");
        let uploaded = Uploaded { host, dir, path };
        let shown = file.display().to_string();
        let to = format!("{}:{}", host.name, uploaded.path);
        let copied = host.run("scp", &["-q", &shown, &to], "")?;
        ensure!(
            copied.status.success(),
            "scp: {}",
            String::from_utf8_lossy(&copied.stderr)
        );
        // apt reads it as another user, and says so when it can't.
        let words = format!("chmod 0755 {0} && chmod 0644 {0}/*", quoted(&uploaded.dir));
        host.run("ssh", &[host.name, &words], "")?;
        uploaded.compare(file)?;
        Ok(uploaded)
    }

    /// What lies there is what was sent.
    fn compare(&self, file: &Path) -> Result<()> {
        let words = format!("sha256sum < {}", quoted(&self.path));
        let there = self.host.run("ssh", &[self.host.name, &words], "")?.stdout;
        let input =
            std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
        let here = Command::new("sha256sum")
            .stdin(input)
            .output()
            .context("start sha256sum")?
            .stdout;
        ensure!(
            !here.is_empty() && here == there,
            "the package arrived damaged"
        );
        Ok(())
    }
}

impl Drop for Uploaded<'_> {
    fn drop(&mut self) {
        let words = format!("rm -rf {}", quoted(&self.dir));
        self.host.run("ssh", &[self.host.name, &words], "").ok();
    }
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_a_word_as_it_is() {
        for word in ["n1", "a b", "it's; rm -r /", "$HOME"] {
            let said = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), word);
        }
    }
}
