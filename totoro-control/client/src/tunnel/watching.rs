//! What a tunnel's task looks at beside frpc: the invite's figures, whether the node drains, and
//! whether another way in holds by now.

use std::time::{Duration, Instant};

use totoro_api::ticket::unix;
use totoro_api::wire::invite::Usage;
use totoro_api::wire::node::NodeState;

use super::event::{Event, Stats};
use super::run::Runner;
use crate::access::Source;
use crate::error::Error;
use crate::nodes;

/// How often the figures are asked for: nodes report every 10 s.
const FIGURES: Duration = Duration::from_secs(10);
/// How often the list of public nodes is, for its own state.
const LIST: Duration = Duration::from_secs(30);
/// A node that does not let frpc in for so long may have another address or certificate by now.
const ANEW: Duration = Duration::from_secs(30);
/// The longest that a look may take: frpc is not listened to meanwhile.
const PATIENCE: Duration = Duration::from_secs(4);
/// So many other nodes are offered.
const OTHERS: usize = 3;

/// When it was last looked.
pub(super) struct Looks {
    figures: Option<Instant>,
    list: Option<Instant>,
    away: Instant,
    before: Option<(Instant, u64, u64)>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Looks {
            figures: None,
            list: None,
            away: Instant::now(),
            before: None,
        }
    }

    /// frpc is logged in: its figures come with the node's next report.
    pub(super) fn begin(&mut self) {
        self.figures = Some(Instant::now());
        self.list = Some(Instant::now());
    }
}

fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

impl Runner {
    /// Looks at what is due; whether frpc has to be started anew.
    pub(super) async fn look(&mut self) -> bool {
        if !self.runs() {
            return self.anew().await;
        }
        self.looks.away = Instant::now();
        let public = self.spec.source.is_public();
        if !public && due(&mut self.looks.figures, FIGURES) {
            self.look_at_figures().await;
        }
        if public && due(&mut self.looks.list, LIST) {
            self.look_at_list().await;
        }
        false
    }

    /// Asks for a way in again, where frpc has found none for long.
    async fn anew(&mut self) -> bool {
        if self.looks.away.elapsed() < ANEW {
            return false;
        }
        self.looks.away = Instant::now();
        let asked = self.spec.source.access(&self.spec.control);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(access)) => {
                let same = access.server_addr == self.access.server_addr
                    && access.tls_ca == self.access.tls_ca;
                let several = access.server_addr.len() > 1;
                self.machine.snapshot.admit(&access);
                let user = self.access.user.clone();
                self.access = access;
                // An anonymous visitor's is made up, and frpc has the first.
                self.access.user = user;
                !same || several || self.machine.session_is_over()
            }
            Ok(Err(Error::Refused(told))) => {
                self.machine.refused(*told);
                false
            }
            // It does not answer: frpc goes on trying.
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn look_at_figures(&mut self) {
        let Source::Invite(code) = &self.spec.source else {
            return;
        };
        let asked = self.spec.control.usage(code);
        let Ok(Ok(usage)) = tokio::time::timeout(PATIENCE, asked).await else {
            return;
        };
        let drains = usage.node_state == Some(NodeState::Draining);
        self.machine.snapshot.limits = usage.limits.clone();
        self.machine.snapshot.ends = usage.expires_at.as_deref().and_then(unix);
        let stats = self.stats(&usage);
        self.figures(stats);
        self.drains(drains).await;
    }

    fn stats(&mut self, usage: &Usage) -> Stats {
        let Usage { usage, age_s, .. } = usage;
        let now = Instant::now();
        let before = self
            .looks
            .before
            .replace((now, usage.bytes_in, usage.bytes_out));
        let rate = |count: u64, pick: fn((Instant, u64, u64)) -> u64| {
            let (at, was) = before.map(|before| (before.0, pick(before))).unzip();
            let seconds = at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
            let bytes = count.saturating_sub(was.unwrap_or(count));
            if seconds < 1.0 {
                0
            } else {
                (bytes as f64 / seconds) as u64
            }
        };
        let refused = usage.refused.iter();
        Stats {
            conns: usage.conns,
            flows: usage.flows,
            bytes_in: usage.bytes_in,
            bytes_out: usage.bytes_out,
            rate_in: rate(usage.bytes_in, |before| before.1),
            rate_out: rate(usage.bytes_out, |before| before.2),
            refused: refused
                .map(|(reason, count)| (reason.to_string(), *count))
                .collect(),
            left: self.machine.snapshot.left_of(Some(usage)),
            age_s: *age_s,
        }
    }

    async fn look_at_list(&mut self) {
        let asked = self.spec.control.public_nodes();
        let Ok(Ok(listed)) = tokio::time::timeout(PATIENCE, asked).await else {
            return;
        };
        let node = listed.iter().find(|node| node.id == self.access.node);
        let drains = node.is_some_and(|node| node.state == NodeState::Draining);
        self.drains(drains).await;
    }

    /// The node drains, or no longer does: told once.
    async fn drains(&mut self, drains: bool) {
        let was = std::mem::replace(&mut self.machine.snapshot.draining, drains);
        if was == drains {
            return;
        }
        if !drains {
            self.machine.snapshot.others.clear();
            self.tell([]);
            return;
        }
        let asked = nodes::others(&self.spec.control, &self.access.node, OTHERS);
        let others = tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_default();
        self.machine.snapshot.others.clone_from(&others);
        self.tell([Event::Draining { others }]);
    }
}
