//! Bursts of users at one invite's port: never more than it may have, never fewer than there is room for,
//! and a count of 0 when all have gone.
//!
//! Each burst is made in two ways: as fast as two processors connect; and with every handshake ending at
//! once, because the node's answers reach nobody until all SYNs were judged. Half-open handshakes and last
//! ACKs with data are among them both times. When all know where they stand, those who were admitted end,
//! each in its own way, while the same burst comes again.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use totoro_report::{Better, Figure, Goal, Run};
use totoro_tests::story::within;

use super::Args;
use super::field::{Ends, Field, Group, LATE, PATIENCE, all};
use crate::Progress;
use crate::net::crowd::{Crowd, Outcome, peak};

/// What one cell of the table gave: how much there was of what must not be; and the surplus.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    overshoot: u64,
    unused: u64,
    leaked: u64,
    cut: u64,
    foreign: u64,
    miscounted: u64,
    uncounted: u64,
    surplus: u64,
}

/// Measures.
///
/// # Errors
/// The lab can't be had, or a crowd does not come to rest.
pub(crate) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let field = Field::raise(&args.limits)?;
    progress.says("bursts: a node, an invite for each limit, and two visitors");
    let mut cells = Vec::new();
    for round in 1..=args.rounds {
        for count in &args.bursts {
            for group in &field.groups {
                for ends in [Ends::AsTheyCome, Ends::Together] {
                    let name = u32::try_from(cells.len()).context("too many bursts")?;
                    let cell = field
                        .cell(group, *count, ends, name)
                        .with_context(|| format!("{}, {count} connects", group.name))?;
                    cells.push((group.name.clone(), *count, cell));
                }
            }
            progress.says(&format!(
                "bursts, round {round} of {}: {count} connects",
                args.rounds
            ));
        }
    }
    let names: Vec<&str> = field.groups.iter().map(|one| one.name.as_str()).collect();
    tell(args, &names, &cells, run);
    field.end();
    Ok(())
}

/// A cell, whose it is, and how many connects it is of.
type Of = (String, usize, Cell);

fn tell(args: &Args, names: &[&str], cells: &[Of], run: &mut Run) {
    run.note(
        "Bursts: each is made twice, as fast as two processors connect, and with all handshakes ending \
         together; a fifth each of the users ends normally, by RST, by FIN, with data in the handshake's last \
         ACK, and idle, and a fifth as many half-open handshakes come beside them. Overshoot: the most of what users held at any moment (a byte had \
         come and they had not ended), of ss's sockets when all were judged, and of the kernel's own count, \
         beyond max_conns. Leaked: what the kernel still counts (tenant, port, sources, table) when ss \
         shows no connection any more. Refusals: the kernel's count by reasons, which must have each reset \
         that answered a SYN on the wire (half-open handshakes' and repeats among them) and each connection \
         that was one too many, and may have what a bare reset answered, since what comes to no socket is \
         looked up too. Of two visitors a burst goes to both ports at once, half of it to each.",
    );
    type Part = fn(&Cell) -> u64;
    let samples = |part: Part, of: &mut dyn Iterator<Item = &Of>| -> Vec<f64> {
        of.map(|(.., cell)| part(cell) as f64).collect()
    };
    let none = || Goal::at_most(0.0).each();
    let parts: [(&str, Part); 2] = [
        ("overshoot", |cell| cell.overshoot),
        ("leaked", |cell| cell.leaked),
    ];
    for (what, part) in parts {
        for group in names {
            for count in &args.bursts {
                let mut of = cells.iter().filter(|(g, c, _)| g == group && c == count);
                let name = format!("{group}, {count} connects");
                let samples = samples(part, &mut of);
                run.add(Figure::new(what, &name, "", Better::Less, samples).goal(none()));
            }
        }
    }
    let all: [(&str, Part); 5] = [
        ("places left free while users were refused", |cell| {
            cell.unused
        }),
        ("admitted, and ended by the node", |cell| cell.cut),
        ("words of refused users that arrived", |cell| cell.foreign),
        (
            "connections that counters have otherwise than users and ss",
            |cell| cell.miscounted,
        ),
        ("refusals counted otherwise than on the wire", |cell| {
            cell.uncounted
        }),
    ];
    for (what, part) in all {
        let samples = samples(part, &mut cells.iter());
        run.add(Figure::new("bursts", what, "", Better::Less, samples).goal(none()));
    }
    let surplus = samples(|cell| cell.surplus, &mut cells.iter());
    let what = "established one too many, and ended without a byte";
    run.add(Figure::new("bursts", what, "", Better::Neither, surplus));
}

impl Field {
    /// One burst, and the same again while the first one ends.
    fn cell(&self, group: &Group, count: usize, ends: Ends, name: u32) -> Result<Cell> {
        let (before, cookies) = (self.counts(group)?, self.cookies()?);
        let capture = self.capture(group)?;
        let stop = AtomicBool::new(false);
        let ((first, second, live), counted) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(group, &stop));
            let played = (|| {
                let mut first = self.begin(group, count, ends, 2 * name)?;
                all(&mut first, |crowd| crowd.hold(LATE))?;
                let live = self.live(group)?;
                first.iter_mut().for_each(Crowd::leave);
                let mut second = self.begin(group, count, ends, 2 * name + 1)?;
                all(&mut second, |crowd| crowd.hold(LATE))?;
                second.iter_mut().for_each(Crowd::leave);
                anyhow::Ok((first, second, live))
            })();
            stop.store(true, Ordering::SeqCst);
            let most = watch.join().ok().context("the watcher panicked")??;
            anyhow::Ok((played?, most))
        })?;
        let words = self.service.words();
        let (one, other) = (Outcome::of(&first), Outcome::of(&second));
        for outcome in [one, other] {
            ensure!(
                outcome.unknown == 0,
                "some never learned where they stand: {outcome:?}"
            );
        }
        // Of each tenant by itself, and of all together.
        let mut over = counted;
        for (nth, tenant) in group.tenants.iter().enumerate() {
            let at_once = peak(first[nth].spans().chain(second[nth].spans()));
            over = over.max(at_once.max(live[nth]).saturating_sub(tenant.max.into()));
        }
        let both = || first.iter().chain(&second);
        let live: u64 = live.iter().sum();
        let at_once = peak(both().flat_map(Crowd::spans)).max(live);
        over = over.max(at_once.saturating_sub(group.max.into()));
        let foreign = both().map(|crowd| crowd.foreign(&words)).sum();
        drop((first, second));
        within(PATIENCE, || {
            let live = self.live(group)?;
            Ok((live.iter().sum::<u64>() == 0).then_some(()))
        })
        .context("all have gone, and ss shows connections")?;
        let leaked = self.left(group)?;
        let wire = self.refused(capture)?;
        let after = self.counts(group)?;
        let both = |part: fn(&Outcome) -> u64| part(&one) + part(&other);
        let (muted, surplus) = (both(|of| of.muted), after.surplus - before.surplus);
        let refusals = after.refused - before.refused;
        // Those whose handshake ended by a cookie may have been refused, which looks the same to them.
        let unsure = self.cookies()? - cookies;
        let most = u64::from(group.max);
        Ok(Cell {
            overshoot: over,
            unused: most.min(one.connects).saturating_sub(one.admitted),
            leaked,
            cut: both(|of| of.cut),
            foreign,
            miscounted: (after.admitted - before.admitted).abs_diff(both(|of| of.admitted))
                + surplus.saturating_sub(muted)
                + muted.saturating_sub(surplus + unsure)
                + live.abs_diff(one.admitted),
            // Each user who was refused is one refusal at least.
            uncounted: wire
                .off(refusals, surplus)
                .max(both(|of| of.refused + of.muted).saturating_sub(refusals)),
            surplus,
        })
    }
}
