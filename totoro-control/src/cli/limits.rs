//! Limits as flags.

use clap::Args;
use totoro_api::limits::Limits;
use totoro_api::ports::{PortSet, Protocol};

use super::CliError;
use crate::duration::Span;

/// One flag per limit; `--limits` takes them as JSON, single flags win over it.
#[derive(Args, Default)]
pub(super) struct LimitFlags {
    /// All limits as JSON, e.g. '{"max_conns": 5}'.
    #[arg(long, value_name = "JSON")]
    limits: Option<String>,
    /// Concurrent TCP user connections.
    #[arg(long, value_name = "N")]
    max_conns: Option<u32>,
    /// Concurrent UDP flows.
    #[arg(long, value_name = "N")]
    max_flows: Option<u32>,
    /// Concurrent TCP connections of one IPv4 address or IPv6 /64.
    #[arg(long, value_name = "N")]
    max_conns_per_source: Option<u32>,
    /// Concurrent frpc sessions.
    #[arg(long, value_name = "N")]
    max_clients: Option<u32>,
    /// Concurrent proxies.
    #[arg(long, value_name = "N")]
    max_proxies: Option<u32>,
    /// New TCP connections per second.
    #[arg(long, value_name = "N")]
    conn_rate: Option<u32>,
    /// Allowed proxy types: tcp, udp.
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    types: Vec<String>,
    /// Allowed ports, e.g. 20000-20009,20050.
    #[arg(long, value_name = "PORTS")]
    ports: Option<PortSet>,
    /// The longest life of one session, e.g. 12h.
    #[arg(long, value_name = "DURATION")]
    session_max: Option<Span>,
}

impl LimitFlags {
    /// Whether any was given.
    pub(super) fn is_given(&self) -> bool {
        let LimitFlags {
            limits,
            max_conns,
            max_flows,
            max_conns_per_source,
            max_clients,
            max_proxies,
            conn_rate,
            types,
            ports,
            session_max,
        } = self;
        let numbers = [
            max_conns,
            max_flows,
            max_conns_per_source,
            max_clients,
            max_proxies,
            conn_rate,
        ];
        limits.is_some()
            || numbers.iter().any(|number| number.is_some())
            || !types.is_empty()
            || ports.is_some()
            || session_max.is_some()
    }

    /// These limits over `base`; with `--limits` over nothing.
    pub(super) fn over(&self, base: &Limits) -> Result<Limits, CliError> {
        let mut limits = match &self.limits {
            Some(text) => json("--limits", text)?,
            None => base.clone(),
        };
        let set = |field: &mut Option<u32>, to: Option<u32>| *field = to.or(*field);
        set(&mut limits.max_conns, self.max_conns);
        set(&mut limits.max_flows, self.max_flows);
        set(&mut limits.max_conns_per_source, self.max_conns_per_source);
        set(&mut limits.max_clients, self.max_clients);
        set(&mut limits.max_proxies, self.max_proxies);
        set(&mut limits.conn_rate, self.conn_rate);
        if !self.types.is_empty() {
            limits.types = Some(types(&self.types)?);
        }
        if let Some(ports) = &self.ports {
            limits.ports = Some(ports.clone());
        }
        if let Some(span) = self.session_max {
            limits.session_max = Some(span.secs());
        }
        Ok(limits)
    }
}

fn types(words: &[String]) -> Result<Vec<Protocol>, CliError> {
    let read = |word: &String| {
        Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.as_str() == word.trim())
            .ok_or_else(|| CliError::Usage(format!("--types: {word:?} is neither tcp nor udp")))
    };
    words.iter().map(read).collect()
}

/// JSON in a flag.
pub(super) fn json<T: serde::de::DeserializeOwned>(flag: &str, text: &str) -> Result<T, CliError> {
    serde_json::from_str(text).map_err(|error| CliError::Usage(format!("{flag}: {error}")))
}

/// A time as people give it: RFC 3339, a duration from now, or `never`, which is `""`.
pub(super) fn time(flag: &str, text: &str) -> Result<String, CliError> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    totoro_cli::end(text, now).map_err(|problem| CliError::Usage(format!("{flag}: {problem}")))
}
