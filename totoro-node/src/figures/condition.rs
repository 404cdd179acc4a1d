//! How the daemon is, in one answer: for `doctor`.

use serde::{Deserialize, Serialize};
use totoro_api::ticket::Revision;

use super::Sources;
use crate::health::{Problem, missing};
use crate::kernel::Lost;
use crate::spool::Size;

/// How a running daemon is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Parts of the enforcement that are not there, one line each.
    pub missing: Vec<String>,
    /// In what the kernel is not in line with what is decided; tried again until it is.
    pub untidy: Option<String>,
    /// Interfaces and how they are filtered.
    pub filters: Vec<(String, String)>,
    /// Audit events that wait for the control plane.
    pub spool: Size,
    /// The applied policy.
    pub applied: Revision,
    /// The control plane's clock less this machine's, ms.
    pub clock_offset_ms: i64,
    /// Since the control plane last took a heartbeat, seconds; `None` = not since the start.
    pub silent_s: Option<u64>,
    /// Since frps, which did answer, last did, seconds; `None` while it does, and where it never did.
    #[serde(default)]
    pub frps_gone_s: Option<u64>,
    /// Proxies of frps's that no lease covers, and that nothing here can end.
    #[serde(default)]
    pub stuck: Vec<String>,
    /// Since the canary last came through, seconds; `None` = not since the start.
    #[serde(default)]
    pub canary_s: Option<u64>,
    /// What differed and was brought in line since the start, by kind.
    pub mended: Vec<(String, u64)>,
    /// Events of the kernel's that were lost since the start; `None` = a daemon of before does not say.
    #[serde(default)]
    pub lost: Option<Lost>,
    /// The last warnings and errors, oldest first.
    pub problems: Vec<Problem>,
}

impl Sources {
    /// How this daemon is.
    ///
    /// # Errors
    /// The spool can't be read.
    pub fn condition(&self) -> anyhow::Result<Condition> {
        let filters = self.kernel.filters().into_iter();
        let mended = self.desk.mended.counts().into_iter();
        Ok(Condition {
            missing: missing(&self.kernel, &self.desk),
            untidy: self.desk.untidy(),
            filters: filters
                .map(|filter| (filter.interface, filter.mode.to_owned()))
                .collect(),
            spool: self.spool.size()?,
            applied: self.desk.revision(),
            clock_offset_ms: self.clock.offset_ms(),
            silent_s: self.health.silent_s(),
            frps_gone_s: self.health.frps_gone_s(),
            stuck: self.desk.stuck(),
            canary_s: self.desk.canary_s(),
            mended: mended
                .map(|(what, count)| (what.to_owned(), count))
                .collect(),
            lost: Some(self.kernel.lost()?),
            problems: self.health.problems(),
        })
    }
}
