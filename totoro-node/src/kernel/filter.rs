//! The shield on each interface: XDP where it pays, else TC ingress; TC egress everywhere.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, Program, SchedClassifier, TcAttachType, Xdp, tc, xdp};
use aya_obj::generated::{bpf_attach_type, bpf_link_type};

use super::clsact;
use super::links::{Place, Stale, adopt_or, live, program};
use super::neighbours::holder;
use super::pins::{PinDir, pin_name};
use super::{Result, XdpMode, failed};

/// Drivers whose native XDP keeps throughput: they do large-receive work in hardware or have
/// XDP multi-buffer. Elsewhere (veth, virtio_net) native XDP turns the receive offloads off, which
/// was measured to cost 40 % of a tunnel's throughput.
const KEEPS_OFFLOADS: &[&str] = &["ice", "i40e", "ixgbe", "igc", "mlx5_core", "bnxt_en", "ena"];

/// ARPHRD types (include/uapi/linux/if_arp.h) whose frames begin with an Ethernet header.
const ETHERNET: [u16; 2] = [1, 772];

/// Attaches to an interface, or tries `again` what was stale there; how it is filtered now. What is
/// less than it could be goes to `missing`, a link that is to be tried again to `stale`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    mode: XdpMode,
    again: bool,
    (missing, stale): (&mut Vec<String>, &mut Vec<Stale>),
) -> Result<&'static str> {
    let index = index(interface).ok_or_else(|| {
        failed(
            "find the interface",
            interface,
            "there is none of this name; see: ip link",
        )
    })?;
    if !has_ethernet(interface) {
        let problem = "its packets have no Ethernet header, which the filter reads: a tunnel";
        return Err(failed("filter", interface, problem));
    }
    // Known first: what leaves must be on record before anything that answers it is judged. Below
    // Linux 6.6 it is no link and never stale, and to replace it is to go without for a moment.
    if !again || clsact::has_tcx() {
        let way = TcAttachType::Egress;
        stale.extend(traffic_control(ebpf, pins, interface, index, way)?);
    }
    let native = match mode {
        XdpMode::Native => true,
        XdpMode::Auto => keeps_offloads(interface),
        XdpMode::Generic | XdpMode::Off => false,
    };
    if native {
        match xdp(ebpf, pins, interface, index, xdp::XdpMode::Driver, "native") {
            Ok(before) => {
                stale.extend(before);
                return Ok("native");
            }
            Err(error) => missing.push(format!(
                "{interface}: no native XDP ({}{}); generic XDP instead, which costs more CPU under a \
                 flood",
                error.source,
                holder(index)
            )),
        }
    }
    if native || mode == XdpMode::Generic {
        match xdp(ebpf, pins, interface, index, xdp::XdpMode::Skb, "generic") {
            Ok(before) => {
                stale.extend(before);
                return Ok("generic");
            }
            Err(error) => missing.push(format!(
                "{interface}: no XDP ({}{}); TC instead",
                error.source,
                holder(index)
            )),
        }
    }
    stale.extend(traffic_control(
        ebpf,
        pins,
        interface,
        index,
        TcAttachType::Ingress,
    )?);
    // A filter of an earlier, other mode would judge everything twice.
    for kind in ["xdp-native", "xdp-generic"] {
        pins.unpin(&pin_name(kind, interface))?;
    }
    Ok("tc")
}

/// How an interface is going to be filtered.
#[derive(Clone, Debug)]
pub struct Planned {
    /// `native`, `generic`, `tc`, or `nothing`.
    pub mode: &'static str,
    /// Why so, and what it costs there.
    pub why: String,
    /// Whether it costs more than another mode would.
    pub costs: bool,
}

/// How an interface is going to be filtered in this mode. A driver may refuse native XDP at the
/// attachment; then it is generic XDP, and said.
#[must_use]
pub fn planned(interface: &str, mode: XdpMode) -> Planned {
    let keeps = keeps_offloads(interface);
    let driver = driver(interface).unwrap_or_else(|| "a driver without a device".to_owned());
    let of = |mode, costs, why: String| Planned { mode, why, costs };
    if !has_ethernet(interface) {
        let why = "its packets have no Ethernet header; the socket lookup guards alone";
        return of("nothing", true, why.to_owned());
    }
    match mode {
        XdpMode::Native | XdpMode::Auto if keeps => of(
            "native",
            false,
            format!("{driver} keeps its receive offloads; a flood costs least here"),
        ),
        XdpMode::Native => of(
            "native",
            true,
            format!(
                "{driver} gives its receive offloads up for it: 0.6 of the throughput through frps \
                 was left where it was measured; xdp = auto takes TC here"
            ),
        ),
        XdpMode::Generic => of(
            "generic",
            false,
            "offloads stay; a flood costs more processor time than native XDP would".to_owned(),
        ),
        XdpMode::Auto => of(
            "tc",
            false,
            format!(
                "{driver} would give its receive offloads up for native XDP; a flood costs more \
                 processor time this way"
            ),
        ),
        XdpMode::Off => of(
            "tc",
            false,
            "offloads stay; a flood costs more processor time than native XDP would".to_owned(),
        ),
    }
}

/// Whether its driver keeps the receive offloads under native XDP.
fn keeps_offloads(interface: &str) -> bool {
    driver(interface).is_some_and(|name| KEEPS_OFFLOADS.contains(&name.as_str()))
}

fn xdp(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    index: u32,
    mode: xdp::XdpMode,
    name: &str,
) -> Result<Option<Stale>> {
    let (kind, other) = match name {
        "native" => ("xdp-native", "xdp-generic"),
        _ => ("xdp-generic", "xdp-native"),
    };
    pins.unpin(&pin_name(other, interface))?;
    let pin = pin_name(kind, interface);
    let place = place_of(kind, index);
    let stale = adopt_or(ebpf, pins, "totoro_xdp", &pin, place, |program| {
        let program: &mut Xdp = program.try_into()?;
        let id = program.attach_to_if_index(index, mode)?;
        Ok(FdLink::try_from(program.take_link(id)?)?)
    })?;
    if !clsact::has_tcx() {
        // Not there when it was never attached.
        let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, "totoro_tc_in");
    }
    pins.unpin(&pin_name("tc-in", interface))?;
    Ok(stale)
}

fn traffic_control(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    interface: &str,
    index: u32,
    way: TcAttachType,
) -> Result<Option<Stale>> {
    let (name, kind) = match way {
        TcAttachType::Ingress => ("totoro_tc_in", "tc-in"),
        _ => ("totoro_tc_out", "tc-out"),
    };
    let pin = pin_name(kind, interface);
    let place = place_of(kind, index);
    // Checked first, for a clear word: below 6.6 the attachment can't be pinned.
    if !matches!(program(ebpf, name)?, Program::SchedClassifier(_)) {
        return Err(failed(
            "use",
            name,
            "the object's program is of another type",
        ));
    }
    if !clsact::has_tcx() {
        return clsact::attach(ebpf, pins, name, interface, way).map(|()| None);
    }
    adopt_or(ebpf, pins, name, &pin, place, |program| {
        let program: &mut SchedClassifier = program.try_into()?;
        // First, so that nobody's verdict passes what ours would drop; ours ends nobody's chain.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(interface, way, order)?;
        Ok(FdLink::try_from(program.take_link(id)?)?)
    })
}

/// The kernel driver of an interface, where it has a device.
fn driver(interface: &str) -> Option<String> {
    let link = Path::new("/sys/class/net")
        .join(interface)
        .join("device/driver");
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// The index of an interface; `None` when there is none of that name.
pub(super) fn index(interface: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(interface).ok()
}

/// Whether an interface of this thread's network namespace has Ethernet headers. Tunnels without
/// hardware addresses (tun, WireGuard) list none at all.
fn has_ethernet(interface: &str) -> bool {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return true;
    };
    all.filter(|one| one.interface_name == interface)
        .filter_map(|one| Some(one.address?.as_link_addr()?.hatype()))
        .any(|kind| ETHERNET.contains(&kind))
}

/// What an interface has that is filtered so.
fn kinds_of(mode: &str) -> [&'static str; 2] {
    let kind = match mode {
        "native" => "xdp-native",
        "generic" => "xdp-generic",
        _ => "tc-in",
    };
    [kind, "tc-out"]
}

/// The pins of an interface that is filtered so.
pub(super) fn pins_of(interface: &str, mode: &str) -> [String; 2] {
    kinds_of(mode).map(|kind| pin_name(kind, interface))
}

/// Whether all of it is there still: somebody may have detached it, or taken the qdisc away.
pub(super) fn lives(pins: &PinDir, interface: &str, index: u32, mode: &str) -> bool {
    kinds_of(mode).into_iter().all(|kind| {
        if kind.starts_with("tc") && !clsact::has_tcx() {
            return !matches!(clsact::add_qdisc(pins, interface), Ok(true));
        }
        let pin = pins.link(&pin_name(kind, interface));
        live(&pin, place_of(kind, index)).is_ok()
    })
}

/// Where a link of this kind is to be.
fn place_of(kind: &str, index: u32) -> Place {
    let (of, attach) = match kind {
        "tc-in" => (
            bpf_link_type::BPF_LINK_TYPE_TCX,
            Some(bpf_attach_type::BPF_TCX_INGRESS),
        ),
        "tc-out" => (
            bpf_link_type::BPF_LINK_TYPE_TCX,
            Some(bpf_attach_type::BPF_TCX_EGRESS),
        ),
        _ => (bpf_link_type::BPF_LINK_TYPE_XDP, None),
    };
    Place {
        kind: of,
        target: u64::from(index),
        attach,
    }
}
