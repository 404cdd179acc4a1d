//! A fresh Debian 12 with its own systemd, in namespaces of its own: what installing a package does is
//! tried there. mmdebstrap makes it once (kept in the cache); each run unpacks it anew.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::Apt;
use crate::{cache, machine, path, step, target};

/// What it has beside the least: systemd, a server for ssh, and what the tried packages ask of it.
const INCLUDE: &str = "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,iproute2,procps,adduser,\
                       socat,man-db,bash-completion,ca-certificates";

/// Mounts what a system has, makes it the root, and becomes its init. `$1` is the root.
const INIT: &str = r#"
set -e
cd "$1"
mount --make-rprivate /
mount --bind . .
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for dir in dev/shm run tmp; do mount -t tmpfs tmpfs $dir; done
ip link set lo up
ip link add eth0 type veth peer name wire
ip addr add 10.99.0.1/24 dev eth0
ip link set eth0 up
ip link set wire up
ip route add default via 10.99.0.2
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
exec env -i container=totoro PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=console --show-status=no
"#;

/// How long it may take to boot.
const BOOT: Duration = Duration::from_secs(180);

/// A running one; dropping it ends it and removes it.
pub(crate) struct Fresh {
    dir: PathBuf,
    cgroup: PathBuf,
    /// unshare, whose end ends all of it.
    outer: Child,
    /// Its init, as this machine numbers it.
    init: String,
}

impl Fresh {
    /// Boots one.
    pub(crate) fn boot() -> Result<Fresh> {
        let image = image()?;
        let name = format!("totoro-fresh-{}", std::process::id());
        let dir = target().join(&name);
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(&image).arg("-C").arg(&dir);
        step::run("unpack", "a fresh Debian", &mut unpack)?;
        let cgroup = machine::cgroup2()
            .context("no cgroup v2 is mounted")?
            .join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let console =
            fs::File::create(target().join("fresh-console.log")).context("create a log")?;
        let join = "echo $$ > \"$0/cgroup.procs\"; shift; exec unshare \"$@\"";
        let outer = Command::new("sh")
            .args(["-c", join])
            .arg(&cgroup)
            .args([
                "-",
                "--fork",
                "--kill-child",
                "--pid",
                "--mount",
                "--net",
                "--uts",
            ])
            .args(["--ipc", "--cgroup", "sh", "-c", INIT, "-"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(console.try_clone().context("clone the log's handle")?)
            .stderr(console)
            .process_group(0)
            .spawn()
            .context("start unshare")?;
        let mut fresh = Fresh {
            dir,
            cgroup,
            outer,
            init: String::new(),
        };
        fresh.wait()?;
        Ok(fresh)
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            ensure!(
                begun.elapsed() < BOOT,
                "it did not boot within {} s; see target/fresh-console.log",
                BOOT.as_secs()
            );
            std::thread::sleep(Duration::from_millis(200));
            let outer = self.outer.id();
            let children = format!("/proc/{outer}/task/{outer}/children");
            let child = fs::read_to_string(children).unwrap_or_default();
            child.trim().clone_into(&mut self.init);
            if self.init.is_empty() {
                continue;
            }
            let comm = fs::read_to_string(format!("/proc/{}/comm", self.init)).unwrap_or_default();
            if comm.trim() == "systemd" && self.run("systemctl is-system-running").is_ok() {
                return Ok(());
            }
        }
    }

    /// Its files, from outside.
    pub(crate) fn root(&self) -> PathBuf {
        Path::new("/proc").join(&self.init).join("root")
    }

    /// The words that enter its network from outside.
    pub(crate) fn enter_net(&self) -> String {
        format!("nsenter -t {} -n", self.init)
    }

    /// Copies a file into it.
    pub(crate) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.root().join(to.trim_start_matches('/'));
        fs::copy(from, &to).with_context(|| format!("copy to {}", to.display()))?;
        Ok(())
    }

    /// Runs a shell's words in it as root, and answers what they print.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        let mut inside = Command::new("nsenter");
        inside
            .args([
                "-t", &self.init, "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w",
            ])
            .args([
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL=C.UTF-8",
            ])
            .args([
                "HOME=/tmp",
                "DEBIAN_FRONTEND=noninteractive",
                "bash",
                "-ec",
                script,
            ])
            .stdin(Stdio::null());
        let output = inside.output().context("start nsenter")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            return Ok(said);
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{}: {script}\n{said}\n{}", output.status, complaint.trim())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.outer.kill().ok();
        self.outer.wait().ok();
        // Its init is ended by the kernel then, and all else with it.
        let left = |dir: &Path| fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
        let begun = Instant::now();
        while left(&self.cgroup).contains("populated 1") && begun.elapsed() < BOOT {
            std::thread::sleep(Duration::from_millis(50));
        }
        remove_cgroup(&self.cgroup);
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Removes a cgroup and those below it.
fn remove_cgroup(dir: &Path) {
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove_cgroup(&below.path());
        }
    }
    fs::remove_dir(dir).ok();
}

/// The image, made once.
fn image() -> Result<PathBuf> {
    let image = cache().join("debian-12-fresh-2.tar");
    if image.exists() {
        step::skip("a fresh Debian", &image.display().to_string());
        return Ok(image);
    }
    if path::find("mmdebstrap").is_none() {
        Apt::default().install(&["mmdebstrap".to_owned()], "it makes a fresh Debian")?;
    }
    fs::create_dir_all(cache()).context("create the cache")?;
    let part = image.with_extension("part.tar");
    let mut make = Command::new("mmdebstrap");
    make.args([
        "--variant=minbase",
        &format!("--include={INCLUDE}"),
        "bookworm",
    ])
    .arg(&part);
    step::run(
        "mmdebstrap",
        "a fresh Debian; made once, kept in the cache",
        &mut make,
    )?;
    fs::rename(&part, &image).context("put the image in place")?;
    Ok(image)
}
