//! Links: attach once and pin; afterwards swap the program in place, so that enforcement never has
//! a gap and a link keeps its id.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{
    CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program, ProgramError, ProgramFd,
    SkLookup, SkSkb, SockOps,
};

use aya_obj::generated::{bpf_attach_type, bpf_link_type};

use super::maps::retried;
use super::pins::PinDir;
use super::{Context, KernelError, Result, failed, sys};

const NETNS: &str = "/proc/thread-self/ns/net";

/// Those that tag UDP sockets when they are bound.
pub(super) const TAGGING: [&str; 2] = ["totoro_bind4", "totoro_bind6"];

/// Programs on the cgroup, in the order in which they begin to count, and how each is attached.
const CGROUP: &[(&str, bpf_attach_type)] = &[
    ("totoro_bind4", bpf_attach_type::BPF_CGROUP_INET4_POST_BIND),
    ("totoro_bind6", bpf_attach_type::BPF_CGROUP_INET6_POST_BIND),
    ("totoro_conns", bpf_attach_type::BPF_CGROUP_SOCK_OPS),
    ("totoro_meter_in", bpf_attach_type::BPF_CGROUP_INET_INGRESS),
    ("totoro_meter_out", bpf_attach_type::BPF_CGROUP_INET_EGRESS),
    ("totoro_send4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    ("totoro_send6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
];
pub(super) const LOOKUP: &str = "totoro_admit";

/// Where a link is to be: on what, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: bpf_link_type,
    /// A cgroup's id, a namespace's inode, an interface's index.
    pub(super) target: u64,
    /// `None` where the kind says it all.
    pub(super) attach: Option<bpf_attach_type>,
}

impl Place {
    /// Whether a link is there; what it is otherwise.
    fn holds(&self, link: &sys::LinkInfo) -> io::Result<()> {
        let is = (link.kind, link.target(), link.attach_type());
        let wanted = (
            self.kind as u32,
            self.target,
            self.attach.map(|attach| attach as u32),
        );
        if is == wanted {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "it is attached as {is:?} (kind, target, type), not as {wanted:?}"
        )))
    }
}

fn cgroup_place(cgroup: &Path, attach: bpf_attach_type) -> Result<Place> {
    let shown = || cgroup.display().to_string();
    let about = fs::metadata(cgroup).on("look at the cgroup", shown())?;
    Ok(Place {
        kind: bpf_link_type::BPF_LINK_TYPE_CGROUP,
        target: about.ino(),
        attach: Some(attach),
    })
}

pub(super) fn lookup_place() -> Result<Place> {
    let about = fs::metadata(NETNS).on("look at", "the network namespace")?;
    Ok(Place {
        kind: bpf_link_type::BPF_LINK_TYPE_NETNS,
        target: about.ino(),
        attach: Some(bpf_attach_type::BPF_SK_LOOKUP),
    })
}

/// Names of the pins of what is not per interface.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CGROUP.iter().map(|(name, _)| *name).chain([LOOKUP])
}

/// Names of these that have no live link in its place pinned in the directory `links`.
pub(super) fn dead(links: &Path, cgroup: &Path) -> Result<Vec<&'static str>> {
    let mut places = vec![(LOOKUP, lookup_place()?)];
    for (name, attach) in CGROUP {
        places.push((*name, cgroup_place(cgroup, *attach)?));
    }
    Ok(places
        .into_iter()
        .filter(|(name, place)| {
            let link = sys::get(&links.join(name)).and_then(sys::link_info);
            link.and_then(|link| place.holds(&link)).is_err()
        })
        .map(|(name, _)| name)
        .collect())
}

/// Loads every program, before the first link is touched: what the kernel refuses leaves all of an
/// earlier build's in place, not half of them.
pub(super) fn load_all(ebpf: &mut Ebpf) -> Result<()> {
    for (name, program) in ebpf.programs_mut() {
        load(program).map_err(|error| failed("load", name, error))?;
    }
    Ok(())
}

/// Attaches those of what is not per interface that `wanted` picks; programs that are not loaded yet
/// are. Which links go on with an earlier daemon's program.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    cgroup: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<StaleLinks> {
    let mut stale = StaleLinks::new();
    let cgroup_file = File::open(cgroup).on("open the cgroup", cgroup.display().to_string())?;
    for (name, attach) in CGROUP.iter().filter(|(name, _)| wanted(name)) {
        let place = cgroup_place(cgroup, *attach)?;
        let before = adopt_or(ebpf, pins, name, name, place, |program| {
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
        stale.extend(before.map(|before| (*name, before)));
    }
    if wanted(LOOKUP) {
        let netns = File::open(NETNS).on("open", "the network namespace")?;
        let place = lookup_place()?;
        let before = adopt_or(ebpf, pins, LOOKUP, LOOKUP, place, |program| {
            let program: &mut SkLookup = program.try_into()?;
            let id = program.attach(&netns)?;
            Ok(program.take_link(id)?.into())
        })?;
        stale.extend(before.map(|before| (LOOKUP, before)));
    }
    Ok(stale)
}

/// The stream verdict of surplus sockets: attached to the map, which holds it. Not by aya, which would
/// undo it on drop.
pub(super) fn surplus(ebpf: &mut Ebpf) -> Result<()> {
    let name = "totoro_surplus";
    let loaded = program(ebpf, name)?;
    load(loaded).map_err(|error| failed("load", name, error))?;
    let loaded: &SkSkb = (&*loaded).try_into().on("use", name)?;
    let loaded = loaded.fd().on("use", name)?.try_clone().on("use", name)?;
    let map = ebpf
        .map("SURPLUS")
        .ok_or_else(|| failed("find", "SURPLUS", "no such map"))?;
    let map: aya::maps::SockHash<_, u64> = map.try_into().on("use map", "SURPLUS")?;
    sys::attach_verdict(&loaded, map.fd()).on("attach", name)
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
pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A link that goes on with an earlier daemon's program: which, and why. One line.
pub(super) type Stale = String;
/// Those of them that are not per interface, by their pins' names.
pub(super) type StaleLinks = BTreeMap<&'static str, Stale>;

/// Loads a program, then has the pinned link run it if that link is alive and at `place`;
/// otherwise attaches afresh and pins. A live link that the kernel does not let have the program stays
/// as it is: with the one before it enforces, and without it nothing would.
pub(super) fn adopt_or(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    name: &str,
    pin: &str,
    place: Place,
    attach: impl Fn(Attach<'_>) -> std::result::Result<FdLink, AnyError>,
) -> Result<Option<Stale>> {
    let program = program(ebpf, name)?;
    load(program).map_err(|error| failed("load", name, error))?;
    let path = pins.link(pin);
    pins.inherit(pin)?;
    if path.exists() {
        match live(&path, place) {
            Ok(link) => {
                let fd = program.fd().on("use", name)?;
                let Err(error) = sys::update_link(link, fd) else {
                    tracing::info!(link = pin, "adopted: the program was replaced in place");
                    return Ok(None);
                };
                return Ok(Some(format!(
                    "{pin}: an earlier daemon's program goes on, since the kernel does not let it be \
                     replaced ({error}); tried again every few seconds"
                )));
            }
            Err(error) => {
                tracing::warn!(link = pin, %error, "a pinned link is dead or elsewhere; attaching afresh");
                fs::remove_file(&path).on("unpin", pin)?;
            }
        }
    }
    let attach = || attach(&mut *program).map_err(|error| failed("attach", pin, error));
    // The kernel lets go of a link that was here in its own time.
    let held = [libc::EBUSY, libc::EEXIST];
    let passes = |error: &KernelError| error.os_code().is_some_and(|code| held.contains(&code));
    let link = retried(attach, passes)?;
    link.pin(&path).on("pin", pin)?;
    Ok(None)
}

/// A handle of its own of a loaded program that is run and not attached: who runs it waits for nobody that
/// looks after the links.
pub(super) fn handle(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let handle = program(ebpf, name)?.fd().on("use", name)?.try_clone();
    handle.on("keep", name)
}

/// A pinned link, if it is alive and at its place.
pub(super) fn live(path: &Path, place: Place) -> io::Result<OwnedFd> {
    let link = sys::get(path)?;
    place.holds(&sys::link_info(&link)?)?;
    Ok(link)
}

/// A program that the kernel does not take. What its verifier says is pages long, and of use to who made it.
#[derive(Debug, thiserror::Error)]
#[error(
    "this kernel does not take it; totoro-node check says what it lacks, TOTORO_LOG=debug what its verifier says"
)]
struct NotTaken(#[source] io::Error);

/// Loads a program of whatever type, once: several interfaces share one.
pub(super) fn load(program: &mut Program) -> std::result::Result<(), AnyError> {
    if program.fd().is_ok() {
        return Ok(());
    }
    let Err(error) = verify(program) else {
        return Ok(());
    };
    match error.downcast::<ProgramError>().map(|error| *error) {
        Ok(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => {
            tracing::debug!(%verifier_log, "a program is not taken");
            Err(NotTaken(io_error).into())
        }
        Ok(error) => Err(error.into()),
        Err(error) => Err(error),
    }
}

fn verify(program: &mut Program) -> std::result::Result<(), AnyError> {
    match program {
        Program::Xdp(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::SkSkb(program) => program.load()?,
        Program::SockOps(program) => SockOps::load(program)?,
        Program::CgroupSkb(program) => CgroupSkb::load(program)?,
        Program::CgroupSock(program) => CgroupSock::load(program)?,
        Program::CgroupSockAddr(program) => CgroupSockAddr::load(program)?,
        _ => return Err("a type of program that Totoro does not use".into()),
    }
    Ok(())
}
