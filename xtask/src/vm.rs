//! `test --kernel 6.1`: the kernel tests on Debian 12's own kernel, in qemu.
//!
//! The machine is an initramfs: busybox, `ip`, `tc`, `bpftool`, the test binary and the daemon's with their
//! libraries, and the modules that the tests need. Emulated (no /dev/kvm), it takes about two minutes.
//! Whichever tests are asked for, `totoro-node check` runs there too.

mod check;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::Apt;
use crate::{bpf, path, root, step, target};

/// Modules in the order in which they are loaded; Debian's cloud kernel has them as files.
const MODULES: &[&str] = &[
    "drivers/net/veth",
    "net/ipv4/inet_diag",
    "net/ipv4/tcp_diag",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
];

/// The kernels that there are.
pub(crate) const KERNELS: [&str; 1] = ["6.1"];

/// For how long the machine may say nothing: longer than the slowest test seen on a busy machine.
const SILENCE: Duration = Duration::from_secs(400);
/// How often is said how far it is.
const NEWS: Duration = Duration::from_secs(60);

/// Runs the tests there whose names have one of these words, all without any; and `totoro-node check`.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let mut apt = Apt::default();
    for (tool, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("cpio", "cpio"),
    ] {
        if path::find(tool).is_none() {
            apt.install(&[package.to_owned()], "it boots another kernel")?;
        }
    }
    let dir = target().join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let kernel = kernel(&dir, &mut apt)?;
    bpf::build()?;
    let daemon = ["build", "--package", "totoro-node", "--bin", "totoro-node"];
    let tests = ["test", "--package", "totoro-tests", "--test", "kernel"];
    let programs = Programs {
        daemon: built(&daemon, "totoro-node")?,
        tests: built(&[&tests[..], &["--no-run"]].concat(), "kernel")?,
    };
    let initrd = initrd(&dir, &kernel, &programs, words)?;
    boot(&dir, &kernel, &initrd)
}

/// What is tried there.
struct Programs {
    daemon: PathBuf,
    tests: PathBuf,
}

/// Unpacks the newest 6.1 cloud kernel that Debian has.
fn kernel(dir: &Path, apt: &mut Apt) -> Result<PathBuf> {
    let unpacked = dir.join("kernel");
    if unpacked.join("boot").is_dir() {
        step::skip("Debian's 6.1 kernel", "unpacked before");
        return Ok(unpacked);
    }
    apt.update()?;
    let mut search = Command::new("apt-cache");
    search.args([
        "search",
        "--names-only",
        r"^linux-image-6\.1\.[0-9-]*-cloud-amd64$",
    ]);
    let found = step::output(&mut search).context("apt-cache search failed")?;
    let package = found
        .lines()
        .filter_map(|line| line.split(' ').next())
        .max_by_key(|name| {
            name.split(['.', '-'])
                .nth(4)
                .and_then(|abi| abi.parse::<u32>().ok())
        })
        .context("apt knows no linux-image-6.1.*-cloud-amd64; Debian 12's lists have it")?
        .to_owned();
    let mut download = Command::new("apt-get");
    download.current_dir(dir).args(["download", &package]);
    step::run(&package, "the kernel that Debian 12 ships", &mut download)?;
    let deb = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&deb).arg(&unpacked);
    step::run("unpack", "kernel and modules", &mut unpack)?;
    Ok(unpacked)
}

/// Builds the program of this name; where it is.
fn built(words: &[&str], name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(root())
        .args(words)
        .args(["--locked", "--message-format", "json"]);
    let messages =
        step::output(&mut build).with_context(|| format!("cargo {} failed", words.join(" ")))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no program {name}"))
}

/// Packs the machine.
fn initrd(dir: &Path, kernel: &Path, programs: &Programs, words: &[String]) -> Result<PathBuf> {
    let tree = dir.join("root");
    fs::remove_dir_all(&tree).ok();
    for sub in ["bin", "boot", "proc", "sys", "dev", "tmp", "modules"] {
        fs::create_dir_all(tree.join(sub)).context("create the machine's directories")?;
    }
    let busybox = path::find("busybox").context("busybox is not in PATH")?;
    fs::copy(busybox, tree.join("bin/busybox")).context("copy busybox")?;
    for tool in ["ip", "tc", "bpftool"] {
        let path = path::find(tool).with_context(|| format!("{tool} is not in PATH"))?;
        install(&path, &tree.join("bin").join(tool), &tree)?;
    }
    install(&programs.tests, &tree.join("bin/kernel-tests"), &tree)?;
    install(&programs.daemon, &tree.join("bin/totoro-node"), &tree)?;
    // Where a Debian has it: `check` reads what the kernel was built with.
    let boot = fs::read_dir(kernel.join("boot"))?.flatten();
    for config in boot.filter(|file| file.file_name().to_string_lossy().starts_with("config-")) {
        fs::copy(config.path(), tree.join("boot").join(config.file_name()))
            .context("copy the kernel's options")?;
    }
    fs::copy(bpf::object(), tree.join("totoro-ebpf.o")).context("copy the kernel object")?;
    let version = fs::read_dir(kernel.join("lib/modules"))?
        .flatten()
        .next()
        .context("the kernel package has no modules")?
        .path();
    let mut load = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        let from = version.join("kernel").join(module).with_extension("ko");
        fs::copy(&from, tree.join("modules").join(name))
            .with_context(|| format!("copy {}", from.display()))?;
        load += &format!("busybox insmod /modules/{name}\n");
    }
    let init = tree.join("init");
    let plain = |word: &&String| {
        word.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
    };
    let words: Vec<&str> = words.iter().filter(plain).map(String::as_str).collect();
    let words = words.join(" ");
    let script = format!(
        "#!/bin/busybox sh\nexport PATH=/bin\n\
         busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys\n\
         busybox mount -t devtmpfs dev /dev\n\
         busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup; busybox mount -t bpf bpf /sys/fs/bpf\n\
         {load}busybox uname -r; ulimit -n 20000\n{}\
         TOTORO_REQUIRE_KERNEL=1 TOTORO_OBJECT=/totoro-ebpf.o TOTORO_PACKETS=20000 TOTORO_STEPS=400 kernel-tests --test-threads 1 {words} 2>&1\n\
         echo \"machine-done $?\"\nbusybox poweroff -f\n",
        check::script()
    );
    fs::write(&init, script).context("write the machine's init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("chmod init")?;
    let initrd = dir.join("initrd.gz");
    let mut pack = Command::new("sh");
    pack.current_dir(&tree)
        .args(["-ec", "find . | cpio --quiet -o -H newc | gzip -1 > \"$0\""])
        .arg(&initrd);
    step::run("initramfs", "the machine's files", &mut pack)?;
    Ok(initrd)
}

/// Copies a program with the libraries that it is linked to.
fn install(program: &Path, to: &Path, tree: &Path) -> Result<()> {
    fs::copy(program, to).with_context(|| format!("copy {}", program.display()))?;
    let linked = step::output(Command::new("ldd").arg(program))
        .with_context(|| format!("ldd {}", program.display()))?;
    for word in linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let inside = tree.join(word.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().context("a library at /")?)?;
        fs::copy(word, &inside).with_context(|| format!("copy {word}"))?;
    }
    Ok(())
}

/// Whether a line of the console tells that a test ended so.
fn is_outcome(line: &str, end: &str) -> bool {
    line.starts_with("test ") && line.trim_end().ends_with(end)
}

/// Boots, and reads the outcome from the console.
fn boot(dir: &Path, kernel: &Path, initrd: &Path) -> Result<()> {
    let image = fs::read_dir(kernel.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("vmlinuz"))
        .context("the kernel package has no image")?;
    let log = dir.join("console.log");
    let console = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let checked = dir.join("check.txt");
    // What an earlier run said would be taken for this one's.
    fs::write(&checked, "").with_context(|| format!("empty {}", checked.display()))?;
    eprintln!(
        "▶ tests in qemu (emulated, minutes); console in {}",
        log.display()
    );
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1536",
        ])
        .args(["-nographic", "-no-reboot", "-nic", "none"])
        .args(["-serial", "mon:stdio", "-serial"])
        .arg(format!("file:{}", checked.display()))
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(console.try_clone().context("clone the console's handle")?)
        .stderr(console)
        .spawn()
        .context("start qemu")?;
    let (begun, mut heard, mut told) = (Instant::now(), Instant::now(), Instant::now());
    let mut length = 0;
    while qemu.try_wait().context("wait for qemu")?.is_none() {
        let now = fs::metadata(&log).map_or(0, |about| about.len());
        if now != length {
            (length, heard) = (now, Instant::now());
        }
        if told.elapsed() > NEWS {
            told = Instant::now();
            let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            let of = |end| said.lines().filter(|line| is_outcome(line, end)).count();
            eprintln!(
                "  {:.0} s: {} tests passed, {} failed",
                begun.elapsed().as_secs_f64(),
                of("ok"),
                of("FAILED")
            );
        }
        if heard.elapsed() > SILENCE {
            qemu.kill().ok();
            qemu.wait().ok();
            bail!(
                "the machine has said nothing for {} s; see {}",
                SILENCE.as_secs(),
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    for line in said
        .lines()
        .filter(|line| line.starts_with("6.") || line.starts_with("test "))
    {
        println!("{}", line.trim_end());
    }
    ensure!(
        said.contains("machine-done 0"),
        "the tests failed there; see {}",
        log.display()
    );
    println!("{}", check::judge(&checked, KERNELS[0])?);
    eprintln!("✔ {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
