//! Heartbeats: what the machine and the desk have to tell, and the control plane's clock.

mod fit;
mod machine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::node::{Grade, Heartbeat, HeartbeatAnswer, InterfaceMetrics};

use crate::clock::{Clock, Kept, boot_ms};
use crate::control::{Backoff, CallError, Control};
use crate::frps::{Frps, ServerInfo};
use crate::health::{self, Health};
use crate::kernel::Kernel;
use crate::session::Desk;
use crate::spool::Spool;
use crate::store::{Changes, META, Store};
use machine::Sampler;

/// Key in `META`: what is [`Kept`] of the clock.
const CLOCK: &str = "clock";
/// Key in `META` of earlier builds: the control plane's clock less the machine's, ms.
const OFFSET: &str = "clock_offset_ms";
/// The clock is kept anew when it moved by more than this, ms.
const KEEP: i64 = 100;
/// The interval before the control plane said one.
const FIRST: Duration = Duration::from_secs(10);
/// How soon after a heartbeat it is looked whether what it told is still so.
const LOOK: Duration = Duration::from_secs(1);
/// What this version enforces at grade `kernel`.
const FEATURES: &[&str] = &[
    "max_conns",
    "max_flows",
    "max_conns_per_source",
    "max_clients",
    "max_proxies",
    "conn_rate",
    "types",
    "ports",
    "session_max",
];

/// What was kept of the clock. What an earlier build has kept is taken over, once.
///
/// # Errors
/// The store.
pub fn kept_clock(store: &Store) -> Result<Kept> {
    let Some(offset_ms) = store.get(META, OFFSET)? else {
        return Ok(store.get(META, CLOCK)?.unwrap_or_default());
    };
    let kept = store.get(META, CLOCK)?.unwrap_or_else(|| Kept {
        offset_ms,
        ..Kept::default()
    });
    let mut changes = Changes::default();
    changes.put(META, CLOCK, &kept);
    changes.remove(META, OFFSET);
    store.commit(&changes)?;
    Ok(kept)
}

/// What heartbeats are made of.
pub struct Pulse {
    /// Sessions and leases.
    pub desk: Arc<Desk>,
    /// The programs, and what of them is missing.
    pub kernel: Arc<Kernel>,
    /// Where they go.
    pub control: Arc<Control>,
    /// Events that wait.
    pub spool: Spool,
    /// Keeps the offset.
    pub store: Arc<Store>,
    /// Learns from the answers.
    pub clock: Arc<Clock>,
    /// Told of each answer.
    pub health: Health,
    /// frps beside us.
    pub frps: Frps,
    /// This installation.
    pub instance: String,
    /// frps's CA, PEM.
    pub tls_ca: String,
}

/// What a node lacks, a line each: by this the control plane tells whether it is well.
struct Lacks {
    /// Of its enforcement.
    enforced: Vec<String>,
    /// Of its frps.
    frps: Option<String>,
}

/// What a heartbeat is compared with: the one before.
#[derive(Default)]
struct Before {
    sampler: Sampler,
    /// How many tenants it had no room for, when that was told last.
    left: usize,
}

impl Pulse {
    /// Beats for ever: each interval, and as soon as something lacks that did not, or does no more. So
    /// whoever waits for a node that starts, whose frps comes last, waits no longer than it takes.
    pub async fn run(self) {
        let mut before = Before::default();
        let mut backoff = Backoff::default();
        let mut interval = FIRST;
        let mut look = LOOK;
        // What can't be read is kept anew.
        let mut kept = kept_clock(&self.store).unwrap_or_default();
        loop {
            let beaten = self.beat(&mut before).await;
            if let Err(error) = self.keep_clock(&mut kept).await {
                tracing::warn!(error = format!("{error:#}"), "the clock can't be kept");
            }
            match beaten {
                Ok((answer, told)) => {
                    backoff.reset();
                    interval = Duration::from_secs(u64::from(answer.interval_s.clamp(1, 300)));
                    let differs = || self.differs(&told);
                    // What comes and goes all the time is told ever less often, and no event each.
                    look = match pause(interval, look, tokio::time::sleep, differs).await {
                        Next::News => look * 2,
                        Next::Due => LOOK,
                    };
                }
                Err(error) => {
                    let call = error.downcast_ref::<CallError>();
                    let wait = backoff.next_within(call, interval.max(FIRST));
                    tracing::warn!(
                        error = format!("{error:#}"),
                        ?wait,
                        "no heartbeat got through"
                    );
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Sends one; what was answered, and what it told of what lacks.
    async fn beat(&self, before: &mut Before) -> Result<(HeartbeatAnswer, Lacks)> {
        let frps = self.frps.info().await.ok();
        let lacks = Lacks {
            enforced: health::missing(&self.kernel, &self.desk),
            frps: self.frps_lacks(frps.as_ref()),
        };
        let body = self.body(before, frps, &lacks).await?;
        if self.control.refresh() {
            tracing::info!("the node's key was rotated: this heartbeat is the new one's first use");
        }
        let sent = boot_ms();
        let answer: HeartbeatAnswer = self.control.post("/nodes/heartbeat", &body).await?;
        self.health.answered();
        if let Some(by_ms) = self.clock.learn(sent, boot_ms(), answer.now_ms) {
            let desk = Arc::clone(&self.desk);
            tokio::task::spawn_blocking(move || desk.reclock(by_ms))
                .await
                .context("the clock's task ended")?;
        }
        Ok((answer, lacks))
    }

    /// Whether something else lacks than was told. Only a frps that lacked is asked: that one has gone
    /// whose clients are gone too is soon enough told by the next heartbeat, and a question each second
    /// would cost more than all else that an idle node does.
    async fn differs(&self, told: &Lacks) -> bool {
        if health::missing(&self.kernel, &self.desk) != told.enforced {
            return true;
        }
        told.frps.is_some() && self.frps_lacks(self.frps.info().await.ok().as_ref()) != told.frps
    }

    /// What frps lacks by its answer; `None` = nothing.
    fn frps_lacks(&self, frps: Option<&ServerInfo>) -> Option<String> {
        let Some(frps) = frps else {
            return Some("frps's admin API does not answer".to_owned());
        };
        let pool = frps.lacks(&self.desk.pool())?;
        Some(format!(
            "frps's allowPorts lack ports of the pool ({pool}): run frps-config and restart frps"
        ))
    }

    /// Keeps the clock for the next start, when it moved: by an answer, or by a step of the machine's
    /// clock. What becomes more than is tolerated, or is it no more, is told.
    async fn keep_clock(&self, kept: &mut Kept) -> Result<()> {
        let now = self.clock.kept(&crate::machine::boot_id());
        let (differs, event) = news(kept, &now);
        if !differs {
            return Ok(());
        }
        let mut changes = Changes::default();
        changes.put(META, CLOCK, &now);
        if let Some(event) = event {
            tracing::warn!(
                offset_ms = now.offset_ms,
                far = now.is_far(),
                "this machine's clock against the control plane's, by which times are judged"
            );
            changes.tell(self.clock.now_ms(), &event);
        }
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || store.commit(&changes))
            .await
            .context("the clock's task ended")??;
        *kept = now;
        Ok(())
    }

    async fn body(
        &self,
        before: &mut Before,
        frps: Option<ServerInfo>,
        lacks: &Lacks,
    ) -> Result<Heartbeat> {
        let (desk, spool) = (Arc::clone(&self.desk), self.spool.clone());
        let (report, depth) = tokio::task::spawn_blocking(move || {
            let mut room = fit::Room::new();
            let report = desk.report(|tenant| room.take(tenant))?;
            Ok::<_, anyhow::Error>((report, spool.size()?.events))
        })
        .await
        .context("the report's task ended")??;
        // Not with each of them: it stays so for as long as the node has so many. When they doubled, again.
        if report.left > 2 * before.left {
            tracing::warn!(
                left = report.left,
                "more tenants than a heartbeat takes: the quietest are left out from now on, until all fit again"
            );
            before.left = report.left;
        } else if report.left == 0 {
            before.left = 0;
        }
        let sample = before.sampler.take();
        let filters = self.kernel.filters();
        let interfaces = sample.interfaces.into_iter().map(|interface| {
            let filter = filters
                .iter()
                .find(|filter| filter.interface == interface.name);
            InterfaceMetrics {
                filter: filter.map_or_else(String::new, |filter| filter.mode.to_owned()),
                ..interface
            }
        });
        Ok(Heartbeat {
            instance: self.instance.clone(),
            boot: crate::machine::boot_id(),
            uptime_s: sample.uptime_s,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            frps_version: frps.map_or_else(String::new, |frps| frps.version),
            kernel_version: crate::machine::kernel_release(),
            features: FEATURES.iter().map(ToString::to_string).collect(),
            grade: Grade::Kernel,
            missing: lacks.enforced.iter().chain(&lacks.frps).cloned().collect(),
            cpu_percent: sample.cpu_percent,
            load1: sample.load1,
            mem_total: sample.mem_total,
            mem_available: sample.mem_available,
            interfaces: interfaces.collect(),
            tcp_sockets: sample.tcp_sockets,
            udp_sockets: sample.udp_sockets,
            sessions: report.sessions,
            leases: report.leases,
            free_ports: report.free_ports,
            conns: report.conns,
            flows: report.flows,
            admitted: report.admitted,
            refused: report.refused,
            applied: self.desk.revision(),
            spool_depth: depth,
            clock_offset_ms: self.clock.offset_ms(),
            tls_ca: self.tls_ca.clone(),
            tenants: report.tenants,
        })
    }
}

/// Why the next heartbeat goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is time.
    Due,
    /// What was told is so no more.
    News,
}

/// Waits for the next heartbeat, and looks every so often whether there is news.
async fn pause<S: Future<Output = ()>, D: Future<Output = bool>>(
    interval: Duration,
    look: Duration,
    sleep: impl Fn(Duration) -> S,
    differs: impl Fn() -> D,
) -> Next {
    let mut left = interval;
    while left > look {
        sleep(look).await;
        // What is asked may keep us waiting, for which the heartbeat does not.
        let asked = Instant::now();
        if differs().await {
            return Next::News;
        }
        left = left.saturating_sub(look + asked.elapsed());
    }
    sleep(left).await;
    Next::Due
}

/// Whether the clock is to be kept anew, and what there is to tell of it.
fn news(kept: &Kept, now: &Kept) -> (bool, Option<Subject>) {
    let moved = |a: i64, b: i64| (a - b).abs() > KEEP;
    let event = (now.is_far() != kept.is_far()).then(|| Subject {
        kind: kind::NODE_CLOCK.to_owned(),
        detail: serde_json::json!({ "offset_ms": now.offset_ms, "far": now.is_far() }),
        ..Subject::default()
    });
    let differs = event.is_some()
        || now.boot != kept.boot
        || moved(now.offset_ms, kept.offset_ms)
        || moved(now.base_ms, kept.base_ms);
    (differs, event)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn what_an_earlier_build_kept_of_the_clock_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(kept_clock(&store).unwrap(), Kept::default());
        let mut changes = Changes::default();
        changes.put(META, OFFSET, &-7_200_000i64);
        store.commit(&changes).unwrap();
        let kept = kept_clock(&store).unwrap();
        assert_eq!(kept.offset_ms, -7_200_000);
        let clock = Clock::resume(&kept, "this");
        assert!((clock.offset_ms() + 7_200_000).abs() < 1_000);
        assert_eq!(store.get::<i64>(META, OFFSET).unwrap(), None, "once");
        assert_eq!(kept_clock(&store).unwrap(), kept, "and for good");
        // What this build has kept is newer than what another may have left.
        store.commit(&changes).unwrap();
        let last = clock.kept("this");
        let mut newer = Changes::default();
        newer.put(META, CLOCK, &last);
        store.commit(&newer).unwrap();
        assert_eq!(kept_clock(&store).unwrap(), last);
    }

    /// What a pause slept, s, when the look of this number finds news, and why it ended.
    async fn paused(look_s: u64, news: usize) -> (Vec<f64>, Next) {
        let (slept, looks) = (RefCell::new(Vec::new()), Cell::new(0));
        let sleep = |time: Duration| {
            slept.borrow_mut().push(time.as_secs_f64().round());
            std::future::ready(())
        };
        let differs = || {
            looks.set(looks.get() + 1);
            std::future::ready(looks.get() == news)
        };
        let (interval, look) = (Duration::from_secs(4), Duration::from_secs(look_s));
        let next = pause(interval, look, sleep, differs).await;
        (slept.into_inner(), next)
    }

    #[tokio::test]
    async fn news_is_told_before_its_time() {
        assert_eq!(paused(1, 0).await, (vec![1.0; 4], Next::Due));
        assert_eq!(paused(1, 1).await, (vec![1.0], Next::News));
        assert_eq!(paused(1, 3).await, (vec![1.0; 3], Next::News));
        // Nobody looks when it is time in any case.
        assert_eq!(paused(1, 4).await, (vec![1.0; 4], Next::Due));
        assert_eq!(paused(3, 0).await, (vec![3.0, 1.0], Next::Due));
        assert_eq!(paused(16, 1).await, (vec![4.0], Next::Due));
    }

    #[test]
    fn a_clock_that_is_far_off_is_told_when_it_begins_and_when_it_ends() {
        let at = |offset_ms| Kept {
            boot: "this".to_owned(),
            base_ms: 1_000_000,
            offset_ms,
        };
        let told = |kept, now| {
            let (differs, event) = news(&at(kept), &at(now));
            (differs, event.map(|event| event.detail["far"].clone()))
        };
        assert_eq!(told(0, 0), (false, None));
        assert_eq!(told(0, KEEP), (false, None), "within the doubt");
        assert_eq!(told(0, 60_000), (true, None), "tolerated");
        assert_eq!(told(60_000, 60_001), (true, Some(true.into())));
        assert_eq!(told(-90_000, -120_000), (true, None), "once");
        assert_eq!(told(-90_000, 500), (true, Some(false.into())));
    }
}
