//! TPROXY: a rule of the firewall's gives a packet to a socket before any lookup.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlaBuffer,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use procfs::{ConfigSetting, Current, KernelConfig};

use super::{Line, Status};

/// What can do it, as a module and as an option of the kernel's.
const MAKERS: [(&str, &str); 2] = [
    ("nft_tproxy", "CONFIG_NFT_TPROXY"),
    ("xt_TPROXY", "CONFIG_NETFILTER_XT_TARGET_TPROXY"),
];
/// The tables of `iptables-legacy` in this network namespace, and what their rules may do.
const LEGACY: [(&str, &str); 2] = [
    ("/proc/net/ip_tables_names", "/proc/net/ip_tables_targets"),
    ("/proc/net/ip6_tables_names", "/proc/net/ip6_tables_targets"),
];
/// What to do about it.
const ADVICE: &str =
    "what it takes goes past the socket lookup and its limits; see that it leaves the pool alone";

/// `NFT_MSG_GETRULE` of `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/).
const GET_RULE: u16 = 10 << 8 | 7;
/// Attributes of a rule (`NFTA_RULE_*`).
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
/// Attributes of an expression (`NFTA_EXPR_*`): its name, and what it is told.
const EXPRESSION: u16 = 1;
const DATA: u16 = 2;
/// The name of a target of iptables's (`NFTA_TARGET_NAME`).
const TARGET: u16 = 1;
/// Of a netlink message, and of netfilter's own behind it.
const HEADER: usize = 16;
const NETFILTER: usize = 4;
/// The kernel answers in microseconds; this bounds one that does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whether a rule of this network namespace does it.
pub(in crate::cli) fn line() -> Line {
    let line = |target: &str, status, detail: String| Line::new("tproxy", target, status, detail);
    if !may_be() {
        let detail = "this kernel has nothing that could do it loaded";
        return line("modules", Status::Ok, detail.to_owned());
    }
    let rules = match rules() {
        Ok(rules) => rules,
        Err(error) => {
            let detail = format!("rules can't be listed: {error:#}; {ADVICE} (nft list ruleset)");
            return line("rules", Status::Warn, detail);
        }
    };
    if !rules.is_empty() {
        let rules: Vec<String> = rules.into_iter().collect();
        let detail = format!("{}: {ADVICE} (nft list ruleset)", rules.join(", "));
        return line("rules", Status::Warn, detail);
    }
    if legacy() {
        let detail = format!(
            "iptables-legacy has a mangle table here, and TPROXY, which only there can be: {ADVICE} \
             (iptables-legacy -t mangle -S; ip6tables-legacy -t mangle -S)"
        );
        return line("rules", Status::Warn, detail);
    }
    line(
        "rules",
        Status::Ok,
        "no rule of this network namespace uses it".to_owned(),
    )
}

/// Whether a rule could do it. To ask for rules loads nf_tables, which is not for a look to do.
fn may_be() -> bool {
    let Ok(modules) = std::fs::read_to_string("/proc/modules") else {
        // A kernel without modules has all that it has built in.
        return true;
    };
    let built = KernelConfig::current()
        .map(|KernelConfig(built)| built)
        .unwrap_or_default();
    let loaded = |name: &str| {
        modules
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    MAKERS.iter().any(|(module, option)| {
        loaded(module) || matches!(built.get(*option), Some(ConfigSetting::Yes))
    })
}

/// Whether `iptables-legacy` may have such a rule: its tables are not read.
fn legacy() -> bool {
    let has = |path: &str, word: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|line| line == word)
    };
    LEGACY
        .iter()
        .any(|(tables, targets)| has(tables, "mangle") && has(targets, "TPROXY"))
}

/// The chains of nf_tables that have such a rule, iptables-nft's among them.
fn rules() -> Result<BTreeSet<String>> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("open netfilter netlink")?;
    socket.bind_auto().context("bind netfilter netlink")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("connect netfilter netlink")?;
    let timeout = nix::sys::time::TimeVal::new(ANSWER_WITHIN.as_secs() as i64, 0);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)
        .context("bound netfilter netlink")?;
    socket
        .send(&request(), 0)
        .context("ask netfilter netlink")?;
    let mut found = BTreeSet::new();
    let mut packet = vec![0u8; 64 * 1024];
    loop {
        let read = socket
            .recv(&mut &mut packet[..], 0)
            .context("read the rules")?;
        if !answer(&packet[..read], &mut found)? {
            return Ok(found);
        }
    }
}

/// For all rules of all tables.
fn request() -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = HEADER + NETFILTER;
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(GET_RULE.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence, port, and netfilter's own header: any family, no version, no resource.
    bytes.resize(length, 0);
    bytes
}

/// Reads one packet of answers; whether more are to come.
fn answer(packet: &[u8], found: &mut BTreeSet<String>) -> Result<bool> {
    let mut rest = packet;
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let body = rest
            .get(HEADER..length)
            .context("an answer was cut short")?;
        match u16::from_ne_bytes([rest[4], rest[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = body
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                bail!(std::io::Error::from_raw_os_error(-code));
            }
            _ => found.extend(takes(body.get(NETFILTER..).unwrap_or_default())),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Where a rule stands that gives packets to sockets; `None` for any other.
fn takes(rule: &[u8]) -> Option<String> {
    let is_one = attributes(part(rule, EXPRESSIONS)?).any(|(_, one)| {
        match text(one, EXPRESSION).as_deref() {
            Some("tproxy") => true,
            // iptables-nft's.
            Some("target") => {
                part(one, DATA)
                    .and_then(|data| text(data, TARGET))
                    .as_deref()
                    == Some("TPROXY")
            }
            _ => false,
        }
    });
    is_one.then(|| {
        let name = |kind| text(rule, kind).unwrap_or_default();
        format!("table {}, chain {}", name(TABLE), name(CHAIN))
    })
}

/// Attributes, by kind, up to the first that is broken.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let one = NlaBuffer::new_checked(rest).ok()?;
        let (kind, length) = (one.kind(), usize::from(one.length()));
        let value = rest.get(NLA_HEADER_SIZE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
fn part(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// The same as text, without its NUL.
fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = part(bytes, kind)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute as the kernel writes it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (NLA_HEADER_SIZE + value.len()) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn rule(expressions: &[Vec<u8>]) -> Vec<u8> {
        let all: Vec<u8> = expressions
            .iter()
            .flat_map(|one| attribute(1, one))
            .collect();
        [
            attribute(TABLE, b"mangle\0"),
            attribute(CHAIN, b"PREROUTING\0"),
            attribute(EXPRESSIONS, &all),
        ]
        .concat()
    }

    #[test]
    fn a_rule_of_iptables_is_told_by_its_target() {
        let target = |name: &[u8]| {
            let told = attribute(TARGET, name);
            [attribute(EXPRESSION, b"target\0"), attribute(DATA, &told)].concat()
        };
        let counter = attribute(EXPRESSION, b"counter\0");
        let of = |last: &[u8]| takes(&rule(&[counter.clone(), target(last)]));
        assert_eq!(
            of(b"TPROXY\0").as_deref(),
            Some("table mangle, chain PREROUTING")
        );
        assert_eq!(of(b"MARK\0"), None);
        assert_eq!(takes(&rule(&[counter])), None);
    }

    #[test]
    fn broken_attributes_are_no_rule() {
        let whole = rule(&[attribute(EXPRESSION, b"tproxy\0")]);
        assert!(takes(&whole).is_some());
        for end in 0..whole.len() - 4 {
            assert_eq!(takes(&whole[..end]), None, "{end}");
        }
        assert_eq!(takes(&[0; 64]), None);
    }
}
