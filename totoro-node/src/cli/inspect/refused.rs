//! Single refusals, of which the daemon remembers the last that the kernel told of.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;

use super::rows::{name, protocol};
use super::{Names, Row};
use crate::clock::machine_ms;
use crate::kernel::{Sample, boot_ns};
use crate::local::{Ask, NotRunning, ask};

#[derive(Serialize)]
pub(super) struct RefusedLine {
    /// By this machine's clock, RFC 3339.
    at: String,
    ago_s: u64,
    number: u32,
    tenant: String,
    user: SocketAddr,
    proto: &'static str,
    port: u16,
    /// 0: none.
    lease: u64,
    reason: Reason,
}

impl RefusedLine {
    /// `boot_ns` and `unix_ms` are one moment by both clocks.
    fn of(sample: &Sample, names: &Names, boot_ns: u64, unix_ms: i64) -> RefusedLine {
        let ago_ns = boot_ns.saturating_sub(sample.at_ns);
        let ago_ms = i64::try_from(ago_ns / 1_000_000).unwrap_or(i64::MAX);
        RefusedLine {
            at: rfc3339(unix_ms.saturating_sub(ago_ms).div_euclid(1000)),
            ago_s: ago_ns / 1_000_000_000,
            number: sample.tenant,
            tenant: name(names, sample.tenant),
            user: (sample.source, sample.source_port).into(),
            proto: protocol(sample.proto),
            port: sample.port,
            lease: sample.lease,
            reason: sample.reason,
        }
    }
}

impl Row for RefusedLine {
    const HEAD: &'static [&'static str] = &["WHEN", "TENANT", "USER", "PROTO", "PORT", "REASON"];

    fn cells(self) -> Vec<String> {
        vec![
            self.at,
            self.tenant,
            self.user.to_string(),
            self.proto.to_owned(),
            self.port.to_string(),
            self.reason.to_string(),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

/// The newest first.
pub(super) async fn rows(socket: &Path, names: &Names) -> Result<Vec<RefusedLine>> {
    let samples: Vec<Sample> = match ask(socket, &Ask::Refused).await {
        Err(error) if error.is::<NotRunning>() => Err(error).context(
            "single refusals are in the daemon's memory: start it (systemctl start totoro-node), \
             and those from then on are shown; how many there were, inspect reasons says without it",
        ),
        answer => answer,
    }?;
    let (boot_ns, unix_ms) = (boot_ns(), machine_ms());
    let line = |sample| RefusedLine::of(sample, names, boot_ns, unix_ms);
    Ok(samples.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tenant: u32, at_ns: u64) -> Sample {
        Sample {
            at_ns,
            source: "2001:db8::7".parse().unwrap(),
            source_port: 50_000,
            port: 20_000,
            proto: totoro_ebpf::abi::UDP,
            tenant,
            lease: 9,
            reason: Reason::ConnRate,
        }
    }

    #[test]
    fn a_line_says_when_by_this_machines_clock() {
        let names: Names = [(3, "inv-4k2v9x0c7m1p".to_owned())].into();
        let line = |tenant, at_ns| {
            RefusedLine::of(&sample(tenant, at_ns), &names, 70_000_000_000, 100_500).cells()
        };
        assert_eq!(
            line(3, 60_000_000_000),
            [
                "1970-01-01T00:01:30Z",
                "inv-4k2v9x0c7m1p",
                "[2001:db8::7]:50000",
                "udp",
                "20000",
                "conn_rate",
            ]
        );
        assert_eq!(line(0, 70_000_000_001)[..2], ["1970-01-01T00:01:40Z", "-"]);
        assert_eq!(line(4, 0)[1], "#4", "one that is gone");
    }

    #[tokio::test]
    async fn without_a_daemon_it_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = rows(&dir.path().join("none.sock"), &Names::new())
            .await
            .err()
            .unwrap();
        assert!(error.is::<NotRunning>(), "the exit code is by that");
        let said = format!("{error:#}");
        for part in [
            "systemctl start totoro-node",
            "inspect reasons",
            "none.sock",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
