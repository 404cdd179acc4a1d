//! Links: attach once and pin; afterwards swap the program in place, so that enforcement never has
//! a gap and a link keeps its id.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{
    CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program, SkLookup, SockOps,
};

use super::pins::PinDir;
use super::{Context, Result, failed, sys};

/// Programs on the cgroup, in the order in which they begin to count.
const CGROUP: &[&str] = &[
    "totoro_bind4",
    "totoro_bind6",
    "totoro_conns",
    "totoro_meter_in",
    "totoro_meter_out",
    "totoro_send4",
    "totoro_send6",
];

/// Loads and attaches what is not per interface.
pub(super) fn attach_all(ebpf: &mut Ebpf, pins: &PinDir, cgroup: &Path) -> Result<()> {
    surplus(ebpf)?;
    let cgroup_file = File::open(cgroup).on("open the cgroup", cgroup.display().to_string())?;
    let cgroup_id = cgroup_file
        .metadata()
        .on("look at the cgroup", cgroup.display().to_string())?
        .ino();
    for name in CGROUP {
        adopt_or(ebpf, pins, name, name, cgroup_id, |program| {
            let link = match program {
                Program::SockOps(program) => {
                    let id = program.attach(&cgroup_file, CgroupAttachMode::Single)?;
                    FdLink::try_from(program.take_link(id)?)
                }
                Program::CgroupSkb(program) => {
                    let way = if *name == "totoro_meter_in" {
                        CgroupSkbAttachType::Ingress
                    } else {
                        CgroupSkbAttachType::Egress
                    };
                    let id = program.attach(&cgroup_file, way, CgroupAttachMode::Single)?;
                    FdLink::try_from(program.take_link(id)?)
                }
                Program::CgroupSock(program) => {
                    let id = program.attach(&cgroup_file, CgroupAttachMode::Single)?;
                    FdLink::try_from(program.take_link(id)?)
                }
                Program::CgroupSockAddr(program) => {
                    let id = program.attach(&cgroup_file, CgroupAttachMode::Single)?;
                    FdLink::try_from(program.take_link(id)?)
                }
                _ => return Err("not a cgroup program".into()),
            };
            Ok(link?)
        })?;
    }
    let netns = File::open("/proc/thread-self/ns/net").on("open", "the network namespace")?;
    let inode = netns
        .metadata()
        .on("look at", "the network namespace")?
        .ino();
    adopt_or(
        ebpf,
        pins,
        "totoro_admit",
        "totoro_admit",
        inode,
        |program| {
            let program: &mut SkLookup = program.try_into()?;
            let id = program.attach(&netns)?;
            Ok(program.take_link(id)?.into())
        },
    )
}

/// The stream verdict of surplus sockets: attached to the map, which holds it.
fn surplus(ebpf: &mut Ebpf) -> Result<()> {
    let name = "totoro_surplus";
    let map = ebpf
        .map("SURPLUS")
        .ok_or_else(|| failed("find", "SURPLUS", "no such map"))?;
    let map: aya::maps::SockHash<_, u64> = map.try_into().on("use map", "SURPLUS")?;
    let fd = map.fd().try_clone().on("use map", "SURPLUS")?;
    let program: &mut aya::programs::SkSkb = program(ebpf, name)?.try_into().on("use", name)?;
    program.load().on("load", name)?;
    let id = program.attach(&fd).on("attach", name)?;
    // Not a link but an attachment, which aya would undo on drop; the pinned map keeps it.
    std::mem::forget(program.take_link(id).on("attach", name)?);
    Ok(())
}

/// The program of that name.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| {
        failed(
            "find in the object",
            name,
            "no such program; rebuild: cargo xtask build-ebpf",
        )
    })
}

type Attach<'a> = &'a mut Program;
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Loads a program, then has the pinned link run it if that link is alive and on `target`;
/// otherwise attaches afresh and pins.
pub(super) fn adopt_or(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    name: &str,
    pin: &str,
    target: u64,
    attach: impl FnOnce(Attach<'_>) -> std::result::Result<FdLink, AnyError>,
) -> Result<()> {
    let program = program(ebpf, name)?;
    load(program).map_err(|error| failed("load", name, error))?;
    let path = pins.link(pin);
    if path.exists() {
        match adopt(&path, program, target) {
            Ok(()) => {
                tracing::info!(link = pin, "adopted: the program was replaced in place");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(link = pin, %error, "a pinned link is dead or elsewhere; attaching afresh");
                fs::remove_file(&path).on("unpin", pin)?;
            }
        }
    }
    let link = attach(program).map_err(|error| failed("attach", pin, error))?;
    link.pin(&path).on("pin", pin)?;
    Ok(())
}

/// Replaces the program of a pinned link.
fn adopt(path: &Path, program: &Program, target: u64) -> io::Result<()> {
    let link = sys::get(path)?;
    let info = sys::link_info(&link)?;
    let theirs = u64::from(info.target_low) | u64::from(info.target_high) << 32;
    // Interfaces and namespaces have 32 bits, and the next word means something else there.
    if theirs != target && u64::from(info.target_low) != target {
        return Err(io::Error::other(format!(
            "it is attached to {theirs}, not to {target}"
        )));
    }
    let fd = program.fd().map_err(io::Error::other)?;
    sys::update_link(link, fd)
}

/// Loads a program of whatever type, once: several interfaces share one.
fn load(program: &mut Program) -> std::result::Result<(), AnyError> {
    if program.fd().is_ok() {
        return Ok(());
    }
    match program {
        Program::Xdp(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::SockOps(program) => SockOps::load(program)?,
        Program::CgroupSkb(program) => CgroupSkb::load(program)?,
        Program::CgroupSock(program) => CgroupSock::load(program)?,
        Program::CgroupSockAddr(program) => CgroupSockAddr::load(program)?,
        _ => return Err("a type of program that Totoro does not use".into()),
    }
    Ok(())
}
