//! What else may stand at a node's door: rules of nftables, and XDP programs that do nothing.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use totoro_tests::lab::{Lab, Place};

/// An XDP program's whole verdict (include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Drop = 1,
    Pass = 2,
}

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Native,
    Generic,
}

/// Loads a ruleset on the node, in place of the one that was there.
///
/// # Errors
/// nft says no.
pub(super) fn nft(lab: &Lab, rules: &str) -> Result<()> {
    let file = lab.file("rules.nft");
    std::fs::write(&file, format!("flush ruleset\n{rules}")).context("write the rules")?;
    let mut nft = lab.command("nft");
    nft.arg("-f").arg(file);
    let done = lab
        .run(Place::Node, nft)
        .context("nft (apt-get install nftables)")?;
    done.ok().map(drop).context("nft")
}

/// Which nftables it is.
///
/// # Errors
/// There is none.
pub(super) fn nft_version(lab: &Lab) -> Result<String> {
    let mut nft = lab.command("nft");
    nft.arg("--version");
    let text = lab
        .run(Place::Node, nft)
        .context("nft (apt-get install nftables)")?
        .ok()?;
    Ok(text.trim().to_owned())
}

/// Has every packet that comes by these interfaces of the node meet a program of two instructions.
///
/// # Errors
/// It can't be loaded or attached.
pub(super) fn xdp(lab: &Lab, interfaces: &[&str], verdict: Verdict, mode: Mode) -> Result<()> {
    let dir = lab.pin_root();
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let pin = dir.join(format!("verdict-{}", verdict as u8));
    raw::load(verdict as i32, &pin).context("load an XDP program of two instructions")?;
    let way = match mode {
        Mode::Native => "xdpdrv",
        Mode::Generic => "xdpgeneric",
    };
    let path = pin.to_string_lossy().into_owned();
    for interface in interfaces {
        // Not by `ip -netns`: that has a /sys of its own, without the pins.
        let mut ip = lab.command("ip");
        ip.args(["link", "set", "dev", interface, way, "pinned", &path]);
        lab.run(Place::Node, ip)?.ok()?;
    }
    Ok(())
}

/// bpf(2), as far as two instructions need it: aya takes programs from object files alone.
mod raw {
    use std::ffi::CString;
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
    use std::os::unix::ffi::OsStrExt as _;

    use super::{Path, io};

    /// Commands and a program's type (include/uapi/linux/bpf.h).
    const PROG_LOAD: libc::c_int = 5;
    const OBJ_PIN: libc::c_int = 6;
    const XDP: u32 = 6;

    /// The beginning of `union bpf_attr` for a load.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_at: u64,
    }

    /// The same for a pin.
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: RawFd,
        flags: u32,
    }

    /// Loads `return verdict` and pins it.
    pub(super) fn load(verdict: i32, pin: &Path) -> io::Result<()> {
        // r0 = verdict (mov64, immediate); exit.
        let verdict = u64::from(verdict.unsigned_abs()) << 32 | 0xb7;
        let instructions: [u64; 2] = [verdict.to_le(), 0x95_u64.to_le()];
        let license = c"Apache-2.0";
        let load = Load {
            kind: XDP,
            count: 2,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log: [0; 2],
            log_at: 0,
        };
        let fd = call(PROG_LOAD, &load)?;
        // SAFETY: the call has just made it, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let pin = Pin {
            path: path.as_ptr() as u64,
            fd: fd.as_raw_fd(),
            flags: 0,
        };
        call(OBJ_PIN, &pin).map(drop)
    }

    fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
        // SAFETY: the attributes have the kernel's layout and length, and what they point to lives in the
        // caller's frame; the kernel writes nothing there.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_ref(attributes),
                size_of::<T>(),
            )
        };
        match RawFd::try_from(done) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
