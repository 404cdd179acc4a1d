//! A frame in words, however broken it is.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use totoro_ebpf::abi::{TCP, UDP};

use crate::build::{AUTHENTICATION, FRAGMENT, ICMP, ICMP6};

/// Says what is in a frame, up to where it is cut.
#[must_use]
pub fn words(frame: &[u8]) -> String {
    let mut said = String::new();
    if ethernet(frame, &mut said).is_none() {
        said.push_str(", cut short");
    }
    // How long, where that is not what anybody would think.
    write!(said, "; {} bytes", frame.len()).expect("a string");
    said
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    bytes(frame, at).map(u16::from_be_bytes)
}

fn ethernet(frame: &[u8], said: &mut String) -> Option<()> {
    let mut at = 12;
    loop {
        match word(frame, at)? {
            0x8100 => said.push_str("802.1Q, "),
            0x88a8 => said.push_str("802.1ad, "),
            0x0800 => return v4(frame, at + 2, said),
            0x86dd => return v6(frame, at + 2, said),
            other => {
                write!(said, "ethertype {other:#06x}").expect("a string");
                return Some(());
            }
        }
        at += 4;
    }
}

fn v4(frame: &[u8], at: usize, said: &mut String) -> Option<()> {
    said.push_str("IPv4");
    let [first] = bytes(frame, at)?;
    if first >> 4 != 4 {
        write!(said, " of version {}", first >> 4).expect("a string");
    }
    let length = 4 * usize::from(first & 15);
    match length {
        20 => {}
        0..20 => write!(said, " with a header of {length} bytes").expect("a string"),
        _ => write!(said, " with {} bytes of options", length - 20).expect("a string"),
    }
    if usize::from(word(frame, at + 2)?) != frame.len() - at {
        write!(said, " that says {} bytes", word(frame, at + 2)?).expect("a string");
    }
    fragment(word(frame, at + 6)?, 0x2000, 0, said);
    let [proto] = bytes(frame, at + 9)?;
    let from = Ipv4Addr::from(bytes::<4>(frame, at + 12)?).to_string();
    let to = Ipv4Addr::from(bytes::<4>(frame, at + 16)?).to_string();
    transport(frame, at + length, proto, [from, to], said)
}

fn v6(frame: &[u8], at: usize, said: &mut String) -> Option<()> {
    said.push_str("IPv6");
    let [first] = bytes(frame, at)?;
    if first >> 4 != 6 {
        write!(said, " of version {}", first >> 4).expect("a string");
    }
    if usize::from(word(frame, at + 4)?) + 40 != frame.len() - at {
        write!(said, " that says {} bytes", word(frame, at + 4)?).expect("a string");
    }
    let [mut next] = bytes(frame, at + 6)?;
    let from = format!("[{}]", Ipv6Addr::from(bytes::<16>(frame, at + 8)?));
    let to = format!("[{}]", Ipv6Addr::from(bytes::<16>(frame, at + 24)?));
    let mut at = at + 40;
    loop {
        let name = match next {
            0 => "hop-by-hop",
            43 => "routing",
            60 => "destination options",
            135 => "mobility",
            AUTHENTICATION => "authentication",
            FRAGMENT => "fragment",
            proto => return transport(frame, at, proto, [from, to], said),
        };
        write!(said, " + {name}").expect("a string");
        let [after, units] = bytes(frame, at)?;
        let size = match next {
            FRAGMENT => {
                fragment(word(frame, at + 2)?, 1, 3, said);
                8
            }
            AUTHENTICATION => 8 + 4 * usize::from(units),
            _ => 8 + 8 * usize::from(units),
        };
        if size != 8 {
            write!(said, " ({size} bytes)").expect("a string");
        }
        next = after;
        at += size;
    }
}

/// `more` is the flag for more fragments, below or above an offset that is shifted by `shift`.
fn fragment(word: u16, more: u16, shift: u32, said: &mut String) {
    let offset = if shift == 0 {
        word & 0x1fff
    } else {
        word >> shift
    };
    if word & more != 0 {
        said.push_str(" (more fragments)");
    }
    if offset != 0 {
        write!(said, " (fragment at {})", 8 * u32::from(offset)).expect("a string");
    }
}

fn transport(
    frame: &[u8],
    at: usize,
    proto: u8,
    [from, to]: [String; 2],
    said: &mut String,
) -> Option<()> {
    let name = match proto {
        TCP => "TCP",
        UDP => "UDP",
        ICMP => "ICMP",
        ICMP6 => "ICMPv6",
        50 => "ESP",
        132 => "SCTP",
        _ => {
            write!(said, ", protocol {proto}, {from} to {to}").expect("a string");
            return Some(());
        }
    };
    if !matches!(proto, TCP | UDP) {
        write!(said, ", {name}, {from} to {to}").expect("a string");
        return Some(());
    }
    let ports = word(frame, at).zip(word(frame, at + 2));
    let Some((from_port, to_port)) = ports else {
        write!(said, ", {name}, {from} to {to}").expect("a string");
        return None;
    };
    write!(said, ", {name} {from}:{from_port} to {to}:{to_port}").expect("a string");
    if proto == TCP {
        let [offset, flags] = bytes(frame, at + 12)?;
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let set: Vec<&str> = (names.iter().enumerate())
            .filter(|(bit, _)| flags >> bit & 1 != 0)
            .map(|(_, name)| *name)
            .collect();
        let set = if set.is_empty() {
            "no flags".to_owned()
        } else {
            set.join("+")
        };
        write!(said, ", {set}").expect("a string");
        if offset >> 4 != 5 {
            write!(said, ", a header of {} words", offset >> 4).expect("a string");
        }
        let data = frame
            .get(at + 4 * usize::from(offset >> 4)..)
            .unwrap_or_default();
        if data.starts_with(b"GET ") {
            let line = data.split(|byte| *byte == b'\r').next().unwrap_or_default();
            write!(said, ", {:?}", String::from_utf8_lossy(line)).expect("a string");
        }
    }
    Some(())
}
