//! What a person wants to expose, and the proxies that it makes.

use serde::{Deserialize, Serialize};
use totoro_api::frpc::{Proxy, host_port};
use totoro_api::ports::Protocol;

use crate::error::Error;
use crate::lang::{Lang, say};
use crate::told::clean;

/// The most proxies of one tunnel: as many as any invite may allow is no use on a screen.
pub const MAX_PROXIES: usize = 64;
/// The longest name of a proxy, bytes (the node's own limit).
const MAX_NAME: usize = 64;
/// The longest part of a host's name in a proxy's name, bytes.
const MAX_HOST: usize = 24;

/// A local service: a port of this machine, or of another that it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Target {
    /// Reads `22`, `host:22`, `[::1]:22`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn read(text: &str, lang: Lang) -> Result<Self, Error> {
        let port = text.parse::<u16>().ok().filter(|&port| port != 0);
        let found = match port {
            Some(port) => Some(("127.0.0.1", port)),
            None => host_port(text),
        };
        let Some((host, port)) = found else {
            let text = clean(text);
            return Err(Error::Usage(say!(
                lang,
                "{text:?} is no local service: write a port (22) or host:port",
                "{text:?} 不是本地服务：请写端口（22）或 主机:端口"
            )));
        };
        Ok(Target {
            host: host.to_owned(),
            port,
        })
    }

    /// The proxy's name: the machine, the protocol, the service. It stays the same from run to run, so
    /// that the node gives the same port again, and differs between machines with the same invite.
    fn name(&self, machine: &str, protocol: Protocol) -> String {
        let plain = |text: &str| -> String {
            let plain = |symbol: char| {
                if symbol.is_ascii_alphanumeric() {
                    symbol
                } else {
                    '-'
                }
            };
            text.chars().take(MAX_HOST).map(plain).collect()
        };
        let machine = plain(machine);
        let host = match self.host.as_str() {
            "127.0.0.1" | "localhost" | "::1" => String::new(),
            other => format!("{}-", plain(other)),
        };
        let machine = if machine.is_empty() {
            "client"
        } else {
            &machine
        };
        format!("{machine}-{protocol}-{host}{}", self.port)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// One of several in a file or a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name; by default made of machine, protocol and service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `tcp` or `udp`.
    #[serde(rename = "type")]
    pub protocol: Protocol,
    /// The service: a port, or `host:port`.
    pub local: Local,
    /// The public port; 0 or absent = the node chooses.
    #[serde(default)]
    pub remote_port: u16,
}

/// A service as it is written: `22` or `"host:22"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Local {
    /// A port of this machine.
    Port(u16),
    /// A port, or `host:port`.
    Text(String),
}

impl Wanted {
    /// A service by what a person typed.
    #[must_use]
    pub fn new(protocol: Protocol, local: &str, remote_port: u16) -> Self {
        Wanted {
            name: None,
            protocol,
            local: Local::Text(local.to_owned()),
            remote_port,
        }
    }
}

/// The proxies for these services, on this machine.
///
/// # Errors
/// None, too many, one that is no service, or two with one name.
pub fn proxies(wanted: &[Wanted], machine: &str, lang: Lang) -> Result<Vec<Proxy>, Error> {
    if wanted.is_empty() || wanted.len() > MAX_PROXIES {
        return Err(Error::Usage(say!(
            lang,
            "1 to {MAX_PROXIES} services at once",
            "一次可暴露 1 到 {MAX_PROXIES} 个服务"
        )));
    }
    let mut proxies: Vec<Proxy> = Vec::with_capacity(wanted.len());
    for one in wanted {
        let target = match &one.local {
            Local::Port(port) => Target::read(&port.to_string(), lang)?,
            Local::Text(text) => Target::read(text, lang)?,
        };
        let name = match &one.name {
            Some(name) => checked(name, lang)?,
            None => target.name(machine, one.protocol),
        };
        if proxies.iter().any(|proxy| proxy.name == name) {
            return Err(Error::Usage(say!(
                lang,
                "{name} is there twice: give one of them another name",
                "{name} 重复：请为其中之一另取名称"
            )));
        }
        proxies.push(Proxy {
            name,
            protocol: one.protocol,
            local_ip: target.host,
            local_port: target.port,
            remote_port: one.remote_port,
        });
    }
    Ok(proxies)
}

fn checked(name: &str, lang: Lang) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name.to_owned());
    }
    let name = clean(name);
    Err(Error::Usage(say!(
        lang,
        "{name:?} is no proxy's name: letters, digits, - and _, at most {MAX_NAME}",
        "{name:?} 不是有效的代理名：仅限字母、数字、- 和 _，最多 {MAX_NAME} 个"
    )))
}

/// This machine's name, for the proxies'.
#[must_use]
pub fn machine() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    name.split('.').next().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let read = |text: &str| Target::read(text, Lang::En).map(|target| target.to_string());
        assert_eq!(read("22").unwrap(), "127.0.0.1:22");
        assert_eq!(read("nas.local:8080").unwrap(), "nas.local:8080");
        assert_eq!(read("[::1]:53").unwrap(), "[::1]:53");
        for bad in [
            "", "0", "70000", "ssh", "host:", ":22", "-1", "a b:1", "::1:53",
        ] {
            assert!(matches!(read(bad), Err(Error::Usage(_))), "{bad:?}");
        }
    }

    #[test]
    fn names_stay_and_differ_between_machines() {
        let of = |machine: &str, wanted: &[Wanted]| {
            let proxies = proxies(wanted, machine, Lang::En).unwrap();
            proxies
                .into_iter()
                .map(|proxy| proxy.name)
                .collect::<Vec<_>>()
        };
        let wanted = [
            Wanted::new(Protocol::Tcp, "22", 0),
            Wanted::new(Protocol::Udp, "22", 0),
            Wanted::new(Protocol::Tcp, "nas.local:22", 0),
        ];
        let names = ["box-tcp-22", "box-udp-22", "box-tcp-nas-local-22"];
        assert_eq!(of("box", &wanted), names);
        assert_eq!(of("", &wanted[..1]), ["client-tcp-22"]);
        let long = "é".repeat(200);
        assert!(
            of(&long, &wanted)
                .iter()
                .all(|name| checked(name, Lang::En).is_ok())
        );
    }

    #[test]
    fn none_too_many_or_twice_is_usage() {
        let one = Wanted::new(Protocol::Tcp, "22", 0);
        for wanted in [vec![], vec![one.clone(); 2], vec![one.clone(); 65]] {
            assert!(proxies(&wanted, "m", Lang::Zh).is_err());
        }
        let name = Some("a.b".to_owned());
        assert!(proxies(&[Wanted { name, ..one }], "m", Lang::En).is_err());
    }
}
