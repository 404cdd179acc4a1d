//! The real `totoro-control` in a directory of its own, and what the system says of its process.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::CertificateDer;

use crate::client::{Call, Target};

/// How long a start or an end may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// An installation and the server that runs on it. It is killed when dropped.
pub(crate) struct Server {
    binary: PathBuf,
    dir: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    pub(crate) admin: String,
    pub(crate) target: Target,
    child: Child,
    /// From the start of the process to the first `/readyz` that says yes.
    pub(crate) started_in: Duration,
}

impl Server {
    /// A new installation for so many nodes, running without TLS.
    pub(crate) async fn new(
        binary: &Path,
        under: &Path,
        nodes: usize,
        beat: Duration,
    ) -> Result<Self> {
        std::fs::create_dir_all(under)?;
        // The server's paths are relative to its settings.
        let under = under.canonicalize()?;
        let dir = tempfile::Builder::new().prefix("load-").tempdir_in(under)?;
        let at = dir.path().join("control");
        let done = Command::new(binary)
            .args([
                "init",
                "--listen",
                "127.0.0.1:0",
                "--public-url",
                "http://127.0.0.1:1",
            ])
            .args(["--heartbeat-interval", &format!("{}ms", beat.as_millis())])
            // A stream and a connection for heartbeats each, and those that make and change invites.
            .args(["--max-connections", &(nodes * 2 + 200).to_string()])
            .arg("--dir")
            .arg(&at)
            .output()
            .with_context(|| format!("start {}", binary.display()))?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        std::fs::write(at.join("cert.pem"), made.cert.pem())?;
        let key = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(at.join("key.pem"))?;
        std::io::Write::write_all(&mut &key, made.signing_key.serialize_pem().as_bytes())?;
        let admin = std::fs::read_to_string(at.join("admin.token"))?
            .trim()
            .to_owned();
        let (child, target, started_in) = start(binary, dir.path(), None).await?;
        Ok(Server {
            binary: binary.to_owned(),
            certificate: made.cert.der().clone(),
            dir,
            admin,
            target,
            child,
            started_in,
        })
    }

    /// SIGKILL, and a new start on what is on the disk and nowhere else, with TLS or without.
    pub(crate) async fn crash(&mut self, tls: bool) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        for file in files(&self.data())? {
            forget(&file)?;
        }
        let trusted = tls.then(|| self.certificate.clone());
        let (child, target, started_in) = start(&self.binary, self.dir.path(), trusted).await?;
        (self.child, self.target, self.started_in) = (child, target, started_in);
        Ok(())
    }

    /// SIGTERM; how long it takes to end.
    pub(crate) async fn terminate(&mut self) -> Result<Duration> {
        let began = Instant::now();
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < PATIENCE, "the server does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(began.elapsed())
    }

    /// Its resident memory, bytes, and the most that it ever was.
    pub(crate) fn resident(&self) -> Result<(u64, u64)> {
        let status = self.process()?.status()?;
        let kib = |field: Option<u64>| field.unwrap_or(0) * 1024;
        Ok((kib(status.vmrss), kib(status.vmhwm)))
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = self.process()?.stat()?;
        let ticks = stat.utime + stat.stime;
        #[expect(clippy::cast_precision_loss, reason = "a run has few ticks")]
        let seconds = ticks as f64 / procfs::ticks_per_second() as f64;
        Ok(Duration::from_secs_f64(seconds))
    }

    fn process(&self) -> Result<procfs::process::Process> {
        Ok(procfs::process::Process::new(i32::try_from(
            self.child.id(),
        )?)?)
    }

    /// Its store and its trail on the disk, bytes.
    pub(crate) fn on_disk(&self) -> Result<u64> {
        let mut total = 0;
        for file in files(&self.data())? {
            total += file.metadata()?.len();
        }
        Ok(total)
    }

    /// What its process has read from the disk, bytes.
    pub(crate) fn read(&self) -> Result<u64> {
        Ok(self.process()?.io()?.read_bytes)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("control/data")
    }
}

/// All files below a directory.
fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => all.extend(files(&entry.path())?),
            false => all.push(entry.path()),
        }
    }
    Ok(all)
}

/// Drops a file's pages from the page cache: of what is not on the disk yet they would stay.
fn forget(file: &Path) -> Result<()> {
    let file = std::fs::File::open(file)?;
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() || std::env::var_os("TOTORO_LOAD_LOG").is_some() {
            let log = std::fs::read_to_string(self.dir.path().join("log"));
            eprintln!("--- the server's log\n{}", log.unwrap_or_default());
        }
    }
}

async fn start(
    binary: &Path,
    dir: &Path,
    trusted: Option<CertificateDer<'static>>,
) -> Result<(Child, Target, Duration)> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))?;
    let began = Instant::now();
    let at = dir.join("control");
    let mut command = Command::new(binary);
    command
        .args(["serve", "--config"])
        .arg(at.join("control.toml"));
    if trusted.is_some() {
        command.arg("--tls-cert").arg(at.join("cert.pem"));
        command.arg("--tls-key").arg(at.join("key.pem"));
    }
    let mut child = command
        .env("TOTORO_LOG", "info")
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let out = child.stdout.take().context("its output")?;
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).map(|_| line)
    });
    let line = tokio::time::timeout(PATIENCE, line)
        .await
        .context("it does not start")???;
    let address = line
        .trim()
        .rsplit_once("://")
        .map(|(_, address)| address.to_owned());
    let Some(Ok(address)) = address.map(|address| address.parse::<SocketAddr>()) else {
        let _ = child.kill();
        let _ = child.wait();
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        bail!("the server said {line:?}; its log:\n{log}");
    };
    let tls = trusted.map(client_config).transpose()?.map(Arc::new);
    let target = Target { address, tls };
    while !is_ready(&target).await {
        ensure!(began.elapsed() < PATIENCE, "it does not become ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((child, target, began.elapsed()))
}

async fn is_ready(target: &Target) -> bool {
    let call = Call {
        method: Method::GET,
        path: "/readyz",
        key: "",
        headers: &[],
        body: Bytes::new(),
    };
    match target.connect(Ipv4Addr::LOCALHOST).await {
        Ok(mut connection) => connection.call(call, StatusCode::OK).await.is_ok(),
        Err(_) => false,
    }
}

fn client_config(trusted: CertificateDer<'static>) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};

    use super::*;

    #[test]
    fn what_is_forgotten_is_read_from_the_disk() -> Result<()> {
        const SIZE: u64 = 4 << 20;
        // Beside this program: a system's directory for temporary files is often in memory, which has no disk.
        let beside = std::env::current_exe()?;
        let dir = tempfile::tempdir_in(beside.parent().context("its directory")?)?;
        if statfs(dir.path())?.filesystem_type() == TMPFS_MAGIC {
            return Ok(());
        }
        let below = dir.path().join("below");
        std::fs::create_dir(&below)?;
        std::fs::write(below.join("data"), vec![7; usize::try_from(SIZE)?])?;
        let read = || -> Result<u64> {
            let before = procfs::process::Process::myself()?.io()?.read_bytes;
            for file in files(dir.path())? {
                std::fs::read(file)?;
            }
            Ok(procfs::process::Process::myself()?.io()?.read_bytes - before)
        };
        assert!(read()? < SIZE / 2, "it was just written");
        for file in files(dir.path())? {
            forget(&file)?;
        }
        assert!(read()? >= SIZE / 2);
        Ok(())
    }
}
