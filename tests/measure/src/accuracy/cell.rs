//! One burst at a group's ports, and the same again while every other of the first one ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use totoro_tests::story::within;

use super::explain::with_data;
use super::field::{Ends, Field, LATE, PATIENCE, all};
use super::groups::{FEW, Group};
use super::refusals::Refused;
use crate::net::crowd::{Crowd, Outcome};
use crate::net::kinds::{KINDS, Mix};
use crate::net::spans::{Span, peak, too_soon};
use crate::net::truth::Sockets;

/// How long who left may take to be gone from the node, by way of the service, frpc and frps.
const GONE: Duration = Duration::from_secs(5);

/// What one cell of the table gave: how much there was of what must not be; and what is only told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) overshoot: u64,
    pub(super) unused: u64,
    /// The same where two limits bite at once.
    pub(super) torn: u64,
    pub(super) is_torn: bool,
    pub(super) leaked: u64,
    pub(super) cut: u64,
    pub(super) foreign: u64,
    pub(super) miscounted: u64,
    pub(super) uncounted: u64,
    pub(super) surplus: u64,
    /// What refusals and ends without a byte were allowed for, and how much of it there was.
    pub(super) strays: [u64; 2],
    pub(super) cookies: [u64; 2],
    /// Whether anybody must have been refused.
    pub(super) is_beyond: bool,
    /// What was there to go wrong.
    pub(super) shapes: Shapes,
}

/// How connections came and went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shapes {
    /// Whether so few may be that who comes first has them all.
    pub(super) is_few: bool,
    /// Users who were admitted and ended in their own way, by [`KINDS`].
    pub(super) ended: [u64; KINDS.len()],
    /// Half-open handshakes that ss had while everybody held on.
    pub(super) half_open: u64,
    /// Handshakes whose last ACK carried data, on the wire.
    pub(super) with_data: u64,
}

/// What ss and the kernel have while everybody holds on.
#[derive(Clone, Copy)]
struct Held {
    over: u64,
    /// By how many sockets ss has otherwise than users.
    miscounted: u64,
    half_open: u64,
}

impl Held {
    /// Looks, and again until those who left are gone, at most for `patience`.
    fn look(field: &Field, group: &Group, crowds: &[&[Crowd]], patience: Duration) -> Result<Held> {
        let crowds = || crowds.iter().copied().flatten();
        let deadline = Instant::now() + patience;
        let (mut over, mut half_open) = (0, 0);
        loop {
            let live = field.live(group)?;
            over = over
                .max(group.over_by_sockets(&live))
                .max(field.kept(group)?);
            half_open = half_open.max(live.iter().map(|of| of.half_open).sum());
            let sockets: u64 = live.iter().map(|of| of.live).sum();
            let miscounted = sockets.abs_diff(crowds().map(Crowd::here).sum());
            if miscounted == 0 || Instant::now() > deadline {
                return Ok(Held {
                    over,
                    miscounted,
                    half_open,
                });
            }
            std::thread::sleep(LATE);
        }
    }

    /// What both looks saw.
    fn and(self, other: Held) -> Held {
        Held {
            over: self.over.max(other.over),
            miscounted: self.miscounted + other.miscounted,
            half_open: self.half_open.max(other.half_open),
        }
    }
}

impl Group {
    /// By how much users were more at any moment than the group may have: of each tenant by itself, of each of
    /// its sources, and of all together.
    fn over(&self, crowds: &[&[Crowd]]) -> u64 {
        let mut over = 0;
        for (nth, tenant) in self.tenants.iter().enumerate() {
            let its = || crowds.iter().filter_map(move |crowd| crowd.get(nth));
            let at_once = peak(its().flat_map(Crowd::spans));
            over = over.max(at_once.saturating_sub(tenant.max.into()));
            let Some(max) = self.per_source else { continue };
            let mut sources: HashMap<IpAddr, Vec<Span>> = HashMap::new();
            for (source, (spans, _)) in its().flat_map(Crowd::sources) {
                sources.entry(source).or_default().extend(spans);
            }
            for spans in sources.into_values() {
                over = over.max(peak(spans.into_iter()).saturating_sub(max.into()));
            }
        }
        let every = crowds.iter().copied().flatten().flat_map(Crowd::spans);
        over.max(peak(every).saturating_sub(self.max.into()))
    }

    /// The same of ss's sockets.
    fn over_by_sockets(&self, live: &[Sockets]) -> u64 {
        let mut over = 0;
        for (tenant, its) in self.tenants.iter().zip(live) {
            over = over.max(its.live.saturating_sub(tenant.max.into()));
            let sources = its.sources.values().copied().max().unwrap_or(0);
            let max = self.per_source.map_or(u64::MAX, u64::from);
            over = over.max(sources.saturating_sub(max));
        }
        let all: u64 = live.iter().map(|of| of.live).sum();
        over.max(all.saturating_sub(self.max.into()))
    }

    /// How many of a first crowd there is room for.
    fn room(&self, crowds: &[Crowd]) -> u64 {
        let fit = |(tenant, crowd): (&super::groups::Tenant, &Crowd)| {
            let max = self.per_source.map_or(u64::MAX, u64::from);
            let sources = crowd.sources().into_values();
            let of_sources: u64 = sources.map(|(_, users)| users.min(max)).sum();
            of_sources.min(tenant.max.into())
        };
        let tenants: u64 = self.tenants.iter().zip(crowds).map(fit).sum();
        let at_once = self.rate.unwrap_or(u32::MAX).min(self.max);
        tenants.min(at_once.into())
    }
}

impl Field {
    /// One burst, and the same again while every other of the first one ends and the rest stay.
    ///
    /// # Errors
    /// Somebody never learns where it stands, or connections do not end.
    pub(super) fn cell(
        &self,
        group: &Group,
        count: usize,
        how: (Ends, Mix),
        name: u32,
    ) -> Result<Cell> {
        if group.rate.is_some() {
            // The whole burst is there again after a second, since it is what a second gives.
            std::thread::sleep(Duration::from_millis(1_100));
        }
        let (before, cookies) = (self.counts(group)?, self.cookies()?);
        let capture = self.capture(group)?;
        let stop = AtomicBool::new(false);
        let (played, counted) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(group, &stop));
            let played = (|| {
                let (start, mut first) = self.begin(group, count, how, 2 * name)?;
                all(&mut first, |crowd| crowd.hold(LATE))?;
                let held = Held::look(self, group, &[&first], Duration::ZERO)?;
                // Who is alone leaves in one of the two ways.
                let skip = usize::from(how.0 == Ends::Together);
                first.iter_mut().for_each(|crowd| crowd.leave(skip, 2));
                let (_, mut second) = self.begin(group, count, how, 2 * name + 1)?;
                let both = first.iter_mut().chain(&mut second);
                all(both, |crowd| crowd.hold(LATE))?;
                let held = held.and(Held::look(self, group, &[&first, &second], GONE)?);
                let both = first.iter_mut().chain(&mut second);
                both.for_each(|crowd| crowd.leave(0, 1));
                anyhow::Ok((start, first, second, held))
            })();
            stop.store(true, Ordering::SeqCst);
            let most = watch.join().ok().context("the watcher panicked")??;
            anyhow::Ok((played?, most))
        })?;
        let (start, first, second, held) = played;
        let words = self.service.words();
        let (one, other) = (Outcome::of(&first), Outcome::of(&second));
        for outcome in [one, other] {
            ensure!(
                outcome.unknown == 0,
                "some never learned where they stand: {outcome:?}"
            );
        }
        let mut over = group.over(&[&first, &second]).max(counted).max(held.over);
        let both = || first.iter().chain(&second);
        if let Some(rate) = group.rate {
            let heard = both().flat_map(Crowd::spans).map(|(from, _)| from);
            over = over.max(too_soon(start, heard, rate, rate));
        }
        let unused = group.room(&first).saturating_sub(one.admitted);
        let foreign = both().map(|crowd| crowd.foreign(&words)).sum();
        drop((first, second));
        within(PATIENCE, || {
            let live = self.live(group)?;
            Ok(live.iter().all(|of| of.live == 0).then_some(()))
        })
        .context("all have gone, and ss shows connections")?;
        let leaked = self.left(group)?;
        let frames = capture.finish()?;
        let wire = Refused::of(&frames);
        let after = self.counts(group)?;
        let both = |part: fn(&Outcome) -> u64| part(&one) + part(&other);
        let (muted, surplus) = (both(|of| of.muted), after.surplus - before.surplus);
        let refusals = after.refused - before.refused;
        // Those whose handshake ended by a cookie may have been refused, which looks the same to them.
        let unsure = self.cookies()? - cookies;
        let is_torn = group.has_two_limits();
        let (unused, torn) = if is_torn { (0, unused) } else { (unused, 0) };
        Ok(Cell {
            overshoot: over,
            unused,
            torn,
            is_torn,
            leaked,
            cut: both(|of| of.cut),
            foreign,
            miscounted: (after.admitted - before.admitted).abs_diff(both(|of| of.admitted))
                + surplus.saturating_sub(muted)
                + muted.saturating_sub(surplus + unsure)
                + held.miscounted,
            // Each user who was refused is one refusal at least.
            uncounted: wire
                .off(refusals, surplus)
                .max(both(|of| of.refused + of.muted).saturating_sub(refusals)),
            surplus,
            strays: [wire.strays, wire.of_strays(refusals, surplus)],
            cookies: [unsure, muted.saturating_sub(surplus).min(unsure)],
            is_beyond: group.is_beyond(count),
            shapes: Shapes {
                is_few: group.max <= FEW,
                ended: std::array::from_fn(|kind| one.ended[kind] + other.ended[kind]),
                half_open: held.half_open,
                with_data: with_data(&frames),
            },
        })
    }
}
