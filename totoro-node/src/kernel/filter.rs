//! The shield on each interface: XDP where it pays, else TC ingress; TC egress everywhere.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{Program, SchedClassifier, TcAttachType, Xdp, tc, xdp};
use aya::util::KernelVersion;

use super::links::{adopt_or, program};
use super::pins::PinDir;
use super::{Context, Filter, Result, XdpMode, failed};

/// Drivers whose native XDP keeps throughput: they do large-receive work in hardware or have
/// XDP multi-buffer. Elsewhere (veth, virtio_net) native XDP turns the receive offloads off, which
/// was measured to cost 40 % of a tunnel's throughput.
const KEEPS_OFFLOADS: &[&str] = &["ice", "i40e", "ixgbe", "igc", "mlx5_core", "bnxt_en", "ena"];

/// What may be pinned for an interface.
const PINS: [&str; 4] = ["xdp-native", "xdp-generic", "tc-in", "tc-out"];

/// What became of an interface.
pub(super) struct Attached {
    pub(super) filters: Vec<Filter>,
    pub(super) missing: Vec<String>,
}

/// Attaches to every interface. One that is gone or refuses is reported, not fatal: the socket
/// lookup guards it all the same.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interfaces: &[String],
    mode: XdpMode,
) -> Result<Attached> {
    let mut attached = Attached {
        filters: Vec::new(),
        missing: Vec::new(),
    };
    for interface in interfaces {
        match attach(ebpf, pins, interface, mode, &mut attached.missing) {
            Ok(mode) => attached.filters.push(Filter {
                interface: interface.clone(),
                mode,
            }),
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                attached.missing.push(format!(
                    "{interface}: no filter before the stack ({error}: {}); the socket lookup \
                     still refuses what has no lease",
                    why.unwrap_or_default()
                ));
            }
        }
    }
    Ok(attached)
}

fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    mode: XdpMode,
    missing: &mut Vec<String>,
) -> Result<&'static str> {
    let index = nix::net::if_::if_nametoindex(interface).map_err(|_| {
        // What an earlier daemon pinned for it is dead.
        for pin in PINS {
            let _ = unpin(pins, &format!("{pin}-{interface}"));
        }
        failed(
            "find the interface",
            interface,
            "there is none of this name; see: ip link",
        )
    })?;
    // Known first: what leaves must be on record before anything that answers it is judged.
    traffic_control(ebpf, pins, interface, index, TcAttachType::Egress)?;
    let native = match mode {
        XdpMode::Native => true,
        XdpMode::Auto => {
            driver(interface).is_some_and(|name| KEEPS_OFFLOADS.contains(&name.as_str()))
        }
        XdpMode::Generic | XdpMode::Off => false,
    };
    if native {
        match xdp(ebpf, pins, interface, index, xdp::XdpMode::Driver, "native") {
            Ok(()) => return Ok("native"),
            Err(error) => missing.push(format!(
                "{interface}: no native XDP ({}); generic XDP instead, which costs more CPU under a flood",
                error.source
            )),
        }
    }
    if native || mode == XdpMode::Generic {
        match xdp(ebpf, pins, interface, index, xdp::XdpMode::Skb, "generic") {
            Ok(()) => return Ok("generic"),
            Err(error) => missing.push(format!(
                "{interface}: no XDP ({}); TC instead",
                error.source
            )),
        }
    }
    traffic_control(ebpf, pins, interface, index, TcAttachType::Ingress)?;
    // A filter of an earlier, other mode would judge everything twice.
    for mode in ["native", "generic"] {
        unpin(pins, &format!("xdp-{mode}-{interface}"))?;
    }
    Ok("tc")
}

fn xdp(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    index: u32,
    mode: xdp::XdpMode,
    name: &str,
) -> Result<()> {
    let other = if name == "native" {
        "generic"
    } else {
        "native"
    };
    unpin(pins, &format!("xdp-{other}-{interface}"))?;
    let pin = format!("xdp-{name}-{interface}");
    adopt_or(
        ebpf,
        pins,
        "totoro_xdp",
        &pin,
        u64::from(index),
        |program| {
            let program: &mut Xdp = program.try_into()?;
            let id = program.attach_to_if_index(index, mode)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        },
    )?;
    unpin(pins, &format!("tc-in-{interface}"))
}

fn traffic_control(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    index: u32,
    way: TcAttachType,
) -> Result<()> {
    let (name, pin) = match way {
        TcAttachType::Ingress => ("totoro_tc_in", format!("tc-in-{interface}")),
        _ => ("totoro_tc_out", format!("tc-out-{interface}")),
    };
    // Checked first, for a clear word: below 6.6 the attachment can't be pinned.
    if !matches!(program(ebpf, name)?, Program::SchedClassifier(_)) {
        return Err(failed(
            "use",
            name,
            "the object's program is of another type",
        ));
    }
    if !has_tcx() {
        return clsact(ebpf, name, interface, way);
    }
    adopt_or(ebpf, pins, name, &pin, u64::from(index), |program| {
        let program: &mut SchedClassifier = program.try_into()?;
        let id = program.attach(interface, way)?;
        Ok(FdLink::try_from(program.take_link(id)?)?)
    })
}

/// TCX came with Linux 6.6.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// TC before TCX: a filter of the clsact qdisc. It stays when the daemon ends, but it
/// is no link: it can't be pinned, and is replaced by removing it and adding it again. In between
/// the socket lookup guards alone.
fn clsact(ebpf: &mut Ebpf, name: &str, interface: &str, way: TcAttachType) -> Result<()> {
    // There already, an operator's perhaps: then it is used, and never removed.
    let _ = tc::qdisc_add_clsact(interface);
    let _ = tc::qdisc_detach_program(interface, way, name);
    let program: &mut SchedClassifier = program(ebpf, name)?.try_into().on("use", name)?;
    if program.fd().is_err() {
        program.load().on("load", name)?;
    }
    let id = program
        .attach(interface, way)
        .on("attach", format!("{name} to {interface}"))?;
    std::mem::forget(program.take_link(id).on("attach", name)?);
    Ok(())
}

/// Removes what [`clsact`] added, from every interface; the qdiscs stay, which may not be ours.
pub(super) fn remove_clsact() -> Vec<String> {
    if has_tcx() {
        return Vec::new();
    }
    let interfaces = nix::net::if_::if_nameindex();
    let names = interfaces
        .iter()
        .flat_map(|all| all.iter())
        .map(|one| one.name().to_owned());
    names
        .filter_map(|name| name.into_string().ok())
        .flat_map(|name| {
            [
                (TcAttachType::Ingress, "totoro_tc_in"),
                (TcAttachType::Egress, "totoro_tc_out"),
            ]
            .map(|(way, program)| (name.clone(), way, program))
        })
        .filter(|(name, way, program)| tc::qdisc_detach_program(name, *way, program).is_ok())
        .map(|(name, _, program)| format!("{program} on {name}"))
        .collect()
}

fn unpin(pins: &PinDir, pin: &str) -> Result<()> {
    match std::fs::remove_file(pins.link(pin)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("unpin", pin, error))
        }
        _ => Ok(()),
    }
}

/// The kernel driver of an interface, where it has a device.
fn driver(interface: &str) -> Option<String> {
    let link = Path::new("/sys/class/net")
        .join(interface)
        .join("device/driver");
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}
