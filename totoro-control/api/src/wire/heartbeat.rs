//! Heartbeats: what a node says of itself every few seconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Reason;
use crate::ports::Protocol;
use crate::ticket::Revision;

/// The longest text of a heartbeat, characters.
const MAX_TEXT: usize = 120;
/// The longest reason code, bytes.
const MAX_CODE: usize = 40;
/// Features, interfaces, reasons and missing things in one heartbeat at most.
const MAX_LIST: usize = 100;
/// Tenants in one heartbeat at most.
const MAX_TENANTS: usize = 10_000;
/// Sessions and leases of one tenant at most.
const MAX_SESSIONS: usize = 4096;
/// Sessions and leases of all tenants together at most. More do not fit a body of 1 MiB, as a node
/// writes them; written as `{}` they would be small there, and large here.
const MAX_ALL: Left = Left {
    sessions: 12_500,
    leases: 12_500,
};
/// frps's CA, bytes at most.
const MAX_CA: usize = 16 * 1024;

/// How a node's limits are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Our programs run in the node's kernel.
    Kernel,
    /// A stock frps asks the control plane; no kernel limits. A grade that this version does not
    /// know promises no more.
    #[default]
    #[serde(other)]
    Callback,
}

/// `POST /nodes/heartbeat`. Held in memory by the control plane, with coalesced snapshots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Heartbeat {
    /// This installation.
    pub instance: String,
    /// The machine's boot id.
    pub boot: String,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// The daemon's version.
    pub agent_version: String,
    /// frps's version, from its admin API; empty when it does not answer.
    pub frps_version: String,
    /// The kernel's release.
    pub kernel_version: String,
    /// What this node can enforce: `max_conns`, `max_flows`, …
    pub features: Vec<String>,
    /// How limits are enforced.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub grade: Grade,
    /// What is missing for a better grade, one line each.
    pub missing: Vec<String>,
    /// CPU in use, percent of all cores.
    pub cpu_percent: f32,
    /// One-minute load average.
    pub load1: f32,
    /// Memory, bytes.
    pub mem_total: u64,
    /// Memory that could be had, bytes.
    pub mem_available: u64,
    /// Per interface.
    pub interfaces: Vec<InterfaceMetrics>,
    /// TCP sockets in use.
    pub tcp_sockets: u64,
    /// UDP sockets in use.
    pub udp_sockets: u64,
    /// frpc sessions now.
    pub sessions: u32,
    /// Leases now.
    pub leases: u32,
    /// Free ports of the pool now: `tcp`, `udp`.
    pub free_ports: BTreeMap<String, u32>,
    /// User connections now.
    pub conns: u64,
    /// UDP flows now.
    pub flows: u64,
    /// User connections admitted since the programs were loaded.
    pub admitted: u64,
    /// Refusals by reason since the programs were loaded.
    pub refused: BTreeMap<String, u64>,
    /// What of the desired state is applied.
    pub applied: Revision,
    /// Events waiting to be delivered.
    pub spool_depth: u64,
    /// The control plane's clock less the node's, ms, as the node knows it.
    pub clock_offset_ms: i64,
    /// frps's CA, PEM, for clients to verify it; public.
    pub tls_ca: String,
    /// What each tenant does now, for `invites/usage`.
    pub tenants: Vec<TenantUsage>,
}

impl Heartbeat {
    /// The heartbeat within bounds: a node may say what it likes, but what it says is kept, and
    /// shown to everyone, so it must be short, finite and of known names.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for text in [
            &mut self.instance,
            &mut self.boot,
            &mut self.agent_version,
            &mut self.frps_version,
            &mut self.kernel_version,
        ] {
            shorten(text);
        }
        for figure in [&mut self.cpu_percent, &mut self.load1] {
            *figure = if figure.is_finite() {
                figure.max(0.0)
            } else {
                0.0
            };
        }
        shorten_all(&mut self.features);
        shorten_all(&mut self.missing);
        cut(&mut self.interfaces, MAX_LIST);
        for interface in &mut self.interfaces {
            shorten(&mut interface.name);
            shorten(&mut interface.filter);
        }
        self.free_ports
            .retain(|protocol, _| Protocol::ALL.iter().any(|known| known.as_str() == protocol));
        self.refused.retain(|code, _| code.len() <= MAX_CODE);
        while self.refused.len() > MAX_LIST {
            self.refused.pop_last();
        }
        // Half a certificate is none.
        if self.tls_ca.len() > MAX_CA {
            self.tls_ca = String::new();
        }
        cut(&mut self.tenants, MAX_TENANTS);
        let mut left = MAX_ALL;
        for tenant in &mut self.tenants {
            tenant.bound(&mut left);
        }
        self
    }
}

/// What the tenants that come next may have.
struct Left {
    sessions: usize,
    leases: usize,
}

impl TenantUsage {
    fn bound(&mut self, left: &mut Left) {
        shorten(&mut self.tenant);
        cut(&mut self.sessions, MAX_SESSIONS.min(left.sessions));
        left.sessions -= self.sessions.len();
        for session in &mut self.sessions {
            shorten(&mut session.id);
            shorten(&mut session.client);
            shorten(&mut session.since);
            shorten(&mut session.frpc_version);
        }
        cut(&mut self.leases, MAX_SESSIONS.min(left.leases));
        left.leases -= self.leases.len();
        for lease in &mut self.leases {
            shorten(&mut lease.proxy);
            shorten(&mut lease.protocol);
            shorten(&mut lease.address);
            shorten(&mut lease.since);
        }
    }
}

/// Cuts a text, and takes out what would move a terminal's cursor.
fn shorten(text: &mut String) {
    if text.chars().any(char::is_control) {
        text.retain(|symbol| !symbol.is_control());
    }
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
    }
    text.shrink_to_fit();
}

/// Cuts a list, and gives back the memory that it had grown to.
fn cut<T>(list: &mut Vec<T>, most: usize) {
    list.truncate(most);
    list.shrink_to_fit();
}

fn shorten_all(texts: &mut Vec<String>) {
    cut(texts, MAX_LIST);
    texts.iter_mut().for_each(shorten);
}

/// Counts by reason without those that this version does not know: a newer node must not be
/// unreadable for one new reason.
fn known_reasons<'de, D>(deserializer: D) -> Result<BTreeMap<Reason, u64>, D::Error>
where
    D: Deserializer<'de>,
{
    let counts = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let known = |(code, count): (String, u64)| Some((Reason::from_code(&code)?, count));
    Ok(counts.into_iter().filter_map(known).collect())
}

/// One interface's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct InterfaceMetrics {
    /// Its name.
    pub name: String,
    /// Received, bytes/s over the last heartbeat interval.
    pub rx_bytes_s: u64,
    /// Sent, bytes/s over the last heartbeat interval.
    pub tx_bytes_s: u64,
    /// Dropped since boot, both ways.
    pub drops: u64,
    /// `native`, `generic`, `tc`, or empty when no filter of ours is on it.
    pub filter: String,
}

/// What one invite (or one anonymous prefix) does on the node now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TenantUsage {
    /// The invite's id, or `public:<prefix>`.
    pub tenant: String,
    /// TCP user connections now.
    pub conns: u64,
    /// UDP flows now.
    pub flows: u64,
    /// TCP user connections admitted so far.
    pub admitted: u64,
    /// Bytes from users so far.
    pub bytes_in: u64,
    /// Bytes to users so far.
    pub bytes_out: u64,
    /// Refusals by reason so far, the kernel's and the plugin's; those that the reader does not know
    /// are left out.
    #[serde(deserialize_with = "known_reasons")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub refused: BTreeMap<Reason, u64>,
    /// Sessions now.
    pub sessions: Vec<SessionUsage>,
    /// Leases now.
    pub leases: Vec<LeaseUsage>,
}

/// One frpc session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct SessionUsage {
    /// The session's id.
    pub id: String,
    /// Where frpc comes from.
    pub client: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// frpc's version.
    pub frpc_version: String,
}

/// One leased port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct LeaseUsage {
    /// The proxy's name, without the user prefix.
    pub proxy: String,
    /// `tcp` or `udp`.
    #[serde(rename = "type")]
    pub protocol: String,
    /// The node's address for users.
    pub address: String,
    /// The public port.
    pub port: u16,
    /// Since when, RFC 3339.
    pub since: String,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeartbeatAnswer {
    /// The node's newest policy revision: a hint to watch again.
    #[serde(flatten)]
    pub revision: Revision,
    /// The control plane's clock, Unix milliseconds.
    pub now_ms: i64,
    /// When to send the next, seconds.
    pub interval_s: u32,
}

#[cfg(test)]
mod tests;
