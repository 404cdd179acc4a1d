//! Other owners' programs on the hooks of an interface: whose they are, and what that means here.

use std::fmt;

use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{Context, Result, failed, filter};

/// How the names of our own programs begin.
pub(super) const OURS: &str = "totoro_";

/// A program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where it is: `xdp`, `tcx ingress` or `tcx egress`.
    pub hook: &'static str,
    /// Its id in the kernel.
    pub program: u32,
    /// What it is called; only root may see that.
    pub name: Option<String>,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name:?} (program {})", self.program),
            None => write!(
                f,
                "program {0} (as root: bpftool prog show id {0})",
                self.program
            ),
        }
    }
}

/// Programs on an interface that are not ours and come before ours: one in XDP, and those in TCX
/// that run first (all, where none of ours is there). Who may not list programs learns only of XDP.
///
/// # Errors
/// There is no such interface, or the kernel does not answer.
pub fn neighbours(interface: &str) -> Result<Vec<Neighbour>> {
    let index = filter::index(interface).ok_or_else(|| {
        failed(
            "find the interface",
            interface,
            "there is none of this name; see: ip link",
        )
    })?;
    let mut found = Vec::new();
    for program in xdp(index)? {
        let name = name_of(program);
        if !name.as_deref().is_some_and(|name| name.starts_with(OURS)) {
            found.push(Neighbour {
                hook: "xdp",
                program,
                name,
            });
        }
    }
    for (hook, way) in [
        ("tcx ingress", TcAttachType::Ingress),
        ("tcx egress", TcAttachType::Egress),
    ] {
        // Before 6.6 there is no TCX, and without CAP_SYS_ADMIN no list.
        let Ok((_, programs)) = SchedClassifier::query_tcx(interface, way) else {
            continue;
        };
        let named = programs
            .iter()
            .map(|program| (program.id(), program.name_as_str().unwrap_or_default()));
        found.extend(named.take_while(|(_, name)| !name.starts_with(OURS)).map(
            |(program, name)| Neighbour {
                hook,
                program,
                name: Some(name.to_owned()),
            },
        ));
    }
    Ok(found)
}

/// Who holds the XDP hook of an interface, for an error about it: nothing where it is free.
pub(super) fn holder(index: u32) -> String {
    let holders: Vec<String> = xdp(index)
        .unwrap_or_default()
        .into_iter()
        .map(|program| Neighbour {
            hook: "xdp",
            program,
            name: name_of(program),
        })
        .filter(|one| {
            !one.name
                .as_deref()
                .is_some_and(|name| name.starts_with(OURS))
        })
        .map(|one| one.to_string())
        .collect();
    match holders.is_empty() {
        true => String::new(),
        false => format!("; another owner's {} is on the hook", holders.join(", ")),
    }
}

fn name_of(program: u32) -> Option<String> {
    aya::programs::loaded_programs()
        .filter_map(|one| one.ok())
        .find(|one| one.id() == program)
        .and_then(|one| one.name_as_str().map(str::to_owned))
}

/// The ids of the programs in XDP, of whatever mode, as `ip link` gets them.
fn xdp(index: u32) -> Result<Vec<u32>> {
    const SUBJECT: &str = "the interface's XDP programs";
    let mut socket = Socket::new(NETLINK_ROUTE).on("ask for", SUBJECT)?;
    socket.bind_auto().on("ask for", SUBJECT)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(
        header,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetLink(link)),
    );
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).on("ask for", SUBJECT)?;
    let (answer, _) = socket.recv_from_full().on("ask for", SUBJECT)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).on("read", SUBJECT)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer.payload else {
        return Err(failed("read", SUBJECT, "the kernel's answer is no link"));
    };
    let mut found: Vec<u32> = link
        .attributes
        .into_iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(about) => Some(about),
            _ => None,
        })
        .flatten()
        .filter_map(|about| match about {
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => Some(id),
            _ => None,
        })
        .filter(|id| *id != 0)
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
