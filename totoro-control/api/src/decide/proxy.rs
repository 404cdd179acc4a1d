//! What becomes of a proxy: its name, its type, its options, its port.

use crate::limits::Effective;
use crate::ports::{Pool, Protocol};
use crate::wire::plugin::NewProxy;
use crate::{Reason, Refusal};

/// The longest part of a proxy's name that is the tenant's to choose, bytes.
pub const MAX_NAME: usize = 64;

/// A proxy that is asked for, once it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The name without the user's prefix.
    pub name: String,
    /// The public port's protocol.
    pub protocol: Protocol,
    /// The public port; `None` = any.
    pub port: Option<u16>,
}

/// Why a login may not use this `user` (the prefix of its proxies' names), if it may not.
///
/// `must` is the invite's id; an anonymous visitor (`None`) may choose, but not what
/// `is_invite` says is an invite's.
#[must_use]
pub fn user_denied(
    user: &str,
    must: Option<&str>,
    is_invite: impl Fn(&str) -> bool,
) -> Option<Refusal> {
    let deny = |detail: String| Some(Refusal::with(Reason::ProxyNameDenied, detail));
    match must {
        Some(id) if user != id => deny(format!("frpc must log in with user = {id}")),
        Some(_) => None,
        None if user.len() > MAX_NAME || !user.bytes().all(is_name_byte) => {
            deny("the user is not made of letters, digits, - and _".to_owned())
        }
        None if is_invite(user) => deny("that user is somebody else's".to_owned()),
        None => None,
    }
}

/// Reads what is asked for under a session whose frpc logged in as `user`.
///
/// # Errors
/// `proxy_type_denied`, `proxy_option_denied`, `proxy_name_denied`, `request_malformed`.
pub fn read_proxy(body: &NewProxy, user: &str, limits: &Effective) -> Result<Asked, Refusal> {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.as_str() == body.proxy_type)
        .filter(|protocol| limits.types.contains(protocol));
    let Some(protocol) = protocol else {
        let allowed: Vec<&str> = limits.types.iter().map(|kind| kind.as_str()).collect();
        let detail = format!(
            "type {} is not allowed, only {}",
            shown(&body.proxy_type),
            allowed.join(" and ")
        );
        return Err(Refusal::with(Reason::ProxyTypeDenied, detail));
    };
    let group_key = &body.group_key;
    let has_key = !(group_key.is_null() || group_key.as_str().is_some_and(str::is_empty));
    // `group` shares one port among strangers' back ends; frps's own limiter in mode `server`
    // leaks work connections.
    let option = if !body.group.is_empty() || has_key {
        Some("group")
    } else if body.bandwidth_limit_mode == "server" {
        Some("bandwidthLimitMode = server")
    } else {
        None
    };
    if let Some(option) = option {
        let detail = format!("the option {option} is not allowed");
        return Err(Refusal::with(Reason::ProxyOptionDenied, detail));
    }
    let port = u16::try_from(body.remote_port).map_err(|_| {
        let detail = format!("remotePort = {} is no port", body.remote_port);
        Refusal::with(Reason::RequestMalformed, detail)
    })?;
    Ok(Asked {
        name: read_name(&body.proxy_name, user)?,
        protocol,
        port: (port != 0).then_some(port),
    })
}

/// frpc itself puts `{user}.` before each name.
fn read_name(wire: &str, user: &str) -> Result<String, Refusal> {
    let deny = |detail: String| Err(Refusal::with(Reason::ProxyNameDenied, detail));
    let name = if user.is_empty() {
        Some(wire)
    } else {
        wire.strip_prefix(user)
            .and_then(|rest| rest.strip_prefix('.'))
    };
    let Some(name) = name else {
        return deny(format!(
            "the proxy's name does not begin with \"{}.\"",
            shown(user)
        ));
    };
    if name.is_empty() || name.len() > MAX_NAME {
        return deny(format!(
            "the proxy's name is not 1 to {MAX_NAME} characters long"
        ));
    }
    if !name.bytes().all(is_name_byte) {
        return deny(format!(
            "the name {} is not made of letters, digits, - and _",
            shown(name)
        ));
    }
    Ok(name.to_owned())
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// What somebody sent, fit for a line: short, and nothing that a terminal or a log would obey.
/// Without quotes, which frpc's log would escape.
fn shown(text: &str) -> String {
    text.chars()
        .take(40)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

/// What is with a port, for one proxy of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Free,
    /// It waits for this very proxy to come back.
    Kept,
    /// It waits for another proxy of the same tenant.
    Sibling,
    /// A live proxy has it.
    Leased,
    /// It was another tenant's a moment ago.
    Cooling,
}

/// Everything that the choice of a port depends on.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// What is asked for.
    pub asked: &'a Asked,
    /// The tenant's limits.
    pub limits: &'a Effective,
    /// What the node lends.
    pub pool: &'a Pool,
    /// The port that this proxy had last.
    pub last: Option<u16>,
    /// Where the search for a free port begins: any number.
    pub start: usize,
}

/// Why a port is taken only where there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Avoided {
    /// Another invite names it. Who had it last has it back.
    Named,
    /// It is open in frps already, so that nobody is served there, not even who had it last.
    Open,
}

/// The port for a proxy. `held` tells what is with a port, `avoid` why it is one to avoid.
///
/// # Errors
/// `port_outside_pool`, `port_denied`, `port_in_use`, `port_cooling`, `pool_exhausted`.
pub fn choose_port(
    choice: Choice<'_>,
    held: impl Fn(u16) -> Held,
    avoid: impl Fn(u16) -> Option<Avoided>,
) -> Result<u16, Refusal> {
    let Choice {
        asked,
        limits,
        pool,
        last,
        start,
    } = choice;
    let pool = pool.of(asked.protocol);
    let ours = |port: u16| {
        limits
            .ports
            .as_ref()
            .is_none_or(|ports| ports.contains(port))
    };
    if let Some(port) = asked.port {
        let refuse = |reason: Reason, what: &str| {
            Err(Refusal::with(
                reason,
                format!("{} port {port} {what}", asked.protocol),
            ))
        };
        return if !pool.contains(port) {
            refuse(
                Reason::PortOutsidePool,
                &format!("is not lent here, only {pool}"),
            )
        } else if let Some(ports) = limits.ports.as_ref().filter(|ports| !ports.contains(port)) {
            refuse(
                Reason::PortDenied,
                &format!("is not one of this invite's, which are {ports}"),
            )
        } else {
            match held(port) {
                Held::Free | Held::Kept | Held::Sibling => Ok(port),
                Held::Leased => refuse(Reason::PortInUse, "is in use"),
                Held::Cooling => refuse(Reason::PortCooling, "was another tenant's a moment ago"),
            }
        };
    }
    let usable = |port: u16| pool.contains(port) && ours(port);
    let last = last.filter(|&port| usable(port) && matches!(held(port), Held::Free | Held::Kept));
    if let Some(port) = last.filter(|&port| avoid(port) != Some(Avoided::Open)) {
        return Ok(port);
    }
    let start = start % pool.len().max(1);
    let around = || {
        let (before, from) = (pool.iter().take(start), pool.iter().skip(start));
        from.chain(before).filter(|&port| ours(port))
    };
    let free = |port: &u16| held(*port) == Held::Free;
    around()
        .find(|port| free(port) && avoid(*port).is_none())
        .or_else(|| around().find(|port| free(port) && avoid(*port) == Some(Avoided::Named)))
        .or(last)
        .or_else(|| around().find(free))
        .or_else(|| around().find(|port| held(*port) == Held::Sibling))
        .ok_or_else(|| Reason::PoolExhausted.into())
}

#[cfg(test)]
mod tests;
