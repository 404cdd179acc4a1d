//! Bursts of users at a limit's ports: never more than it allows, never fewer than there is room for, and a
//! count of 0 when all have gone.
//!
//! Each burst is made in two ways: as fast as two processors connect; and with every handshake ending at
//! once, because the node's answers reach nobody until all SYNs were judged. Half-open handshakes and last
//! ACKs with data are among them both times. When all know where they stand, every other of those who were
//! admitted ends, each in its own way, while the same burst comes again and the rest stay.

use anyhow::{Context, Result};
use totoro_report::{Better, Figure, Goal, Run};

use super::Args;
use super::cell::Cell;
use super::field::{Ends, Field};
use super::groups::{FEW, plans};
use crate::Progress;
use crate::net::kinds::{KINDS, Mix};

/// Measures.
///
/// # Errors
/// The lab can't be had, or a crowd does not come to rest.
pub(crate) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let mut cells = Vec::new();
    let (mut names, mut mends) = (Vec::new(), Vec::new());
    for plan in plans(&args.limits) {
        let field = Field::raise(&plan)?;
        let groups: Vec<&str> = field.groups.iter().map(|one| one.name.as_str()).collect();
        progress.says(&format!("bursts at {}", groups.join("; ")));
        for round in 1..=args.rounds {
            for count in &args.bursts {
                field.burst(*count, &mut cells)?;
                progress.says(&format!(
                    "bursts, round {round} of {}: {count} connects",
                    args.rounds
                ));
            }
        }
        names.extend(groups.into_iter().map(str::to_owned));
        let mended = field.world.mended()?.into_iter();
        let hidden = mended.filter(|(what, _)| HIDES.contains(&what.as_str()));
        mends.push(hidden.map(|(_, count)| count).sum::<u64>() as f64);
        field.end();
    }
    let what = "counts that the daemon found wrong meanwhile, and mended";
    let figure = Figure::new("bursts", what, "", Better::Less, mends);
    run.add(figure.goal(Goal::at_most(0.0).each()));
    tell(args, &names, &cells, run);
    Ok(())
}

/// What the daemon mends by itself of counts that are off: a leak that none of ours would see.
const HIDES: [&str; 4] = ["lost_close", "untracked", "drift", "orphan"];
/// The largest burst that each kind of user is alone in.
const FEWEST: usize = 10;

impl Field {
    /// Bursts of so many at each group that they are for, in each way.
    fn burst(&self, count: usize, cells: &mut Vec<Of>) -> Result<()> {
        let wanted = self.groups.iter().filter(|one| one.bursts.contains(&count));
        for group in wanted {
            // Where places are few, who is slow to come in has none beside others: each kind comes alone, too.
            let alone = KINDS.map(|kind| (Ends::AsTheyCome, Mix::Only(kind)));
            let alone = alone
                .into_iter()
                .filter(|_| group.max <= FEW && count <= FEWEST);
            let together = [Ends::AsTheyCome, Ends::Together].map(|ends| (ends, Mix::All));
            for how in together.into_iter().chain(alone) {
                let name = u32::try_from(cells.len()).context("too many bursts")?;
                let cell = self
                    .cell(group, count, how, name)
                    .with_context(|| format!("{}, {count} connects", group.name))?;
                cells.push((group.name.clone(), count, cell));
            }
        }
        Ok(())
    }
}

/// A cell, whose it is, and how many connects it is of.
type Of = (String, usize, Cell);

/// What must not be, but where two limits bite at once.
const FREE: &str = "places left free while users were refused";

fn tell(args: &Args, names: &[String], cells: &[Of], run: &mut Run) {
    run.note(
        "Bursts: each is made twice, as fast as two processors connect, and with all handshakes ending \
         together; a fifth each of the users ends normally, by RST, by FIN, with data in the handshake's last \
         ACK, and idle, in any order, and a fifth as many half-open handshakes come beside \
         them; where at most 5 may be, 10 of each kind come alone, too. Every other of those who were admitted ends then, while the same burst comes again and the rest \
         stay. Overshoot: the most of what users held at any moment (a byte had \
         come and they had not ended), of ss's sockets when all of a burst were judged, and of the kernel's own count, \
         beyond max_conns. Leaked: what the kernel still counts (tenant, port, sources, table) when ss \
         shows no connection any more. Refusals: the kernel's count by reasons, which must have each reset \
         that answered a SYN on the wire (half-open handshakes' and repeats among them) and each connection \
         that was one too many, and may have what a bare reset answered, since what comes to no socket is \
         looked up too. Of two tenants a burst goes to both ports at once, half of it to each. Where the limit is \
         a source's, overshoot is also the most that one of them had beyond it; where it is a rate, how many \
         more were admitted between any two looks at the kernel's count than the rate and its burst give, and \
         more by users' own clocks.",
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
                // Not each burst is for each group.
                if samples.is_empty() {
                    continue;
                }
                // What can't be reached can't be exceeded either.
                let beyond = cells.iter().find(|(g, c, _)| g == group && c == count);
                let is_beyond = beyond.is_some_and(|(.., cell)| cell.is_beyond);
                if what == "overshoot" && !is_beyond {
                    let name = format!("{name}, which do not reach it");
                    run.add(Figure::new(what, &name, "", Better::Less, samples));
                    continue;
                }
                run.add(Figure::new(what, &name, "", Better::Less, samples).goal(none()));
            }
        }
    }
    let all: [(&str, Part); 5] = [
        (FREE, |cell| cell.unused),
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
    let torn = samples(
        |cell| cell.torn,
        &mut cells.iter().filter(|(.., cell)| cell.is_torn),
    );
    if !torn.is_empty() {
        let what = format!("{FREE}, two limits at once");
        run.add(Figure::new("bursts", &what, "", Better::Less, torn));
    }
    let told: [(&str, Part); 5] = [
        (
            "established one too many, and ended without a byte",
            |cell| cell.surplus,
        ),
        (
            "packets to no socket, which refusals are allowed for",
            |cell| cell.strays[0],
        ),
        ("of them counted as refusals", |cell| cell.strays[1]),
        (
            "cookies, which ends without a byte are allowed for",
            |cell| cell.cookies[0],
        ),
        ("of them ended without a byte", |cell| cell.cookies[1]),
    ];
    for (what, part) in told {
        let samples = samples(part, &mut cells.iter());
        run.add(Figure::new("bursts", what, "", Better::Neither, samples));
    }
    tell_shapes(cells, run);
}

/// What was there at all of that which might go wrong: where there was none, a count of 0 says nothing.
fn tell_shapes(cells: &[Of], run: &mut Run) {
    let mut add = |what: &str, of: &mut dyn Iterator<Item = u64>| {
        let figure = Figure::new(
            "bursts",
            what,
            "",
            Better::Neither,
            vec![of.sum::<u64>() as f64],
        );
        run.add(figure.goal(Goal::at_least(1.0)));
    };
    let all = || cells.iter().map(|(.., cell)| cell);
    let few = || all().filter(|cell| cell.shapes.is_few);
    for (nth, kind) in KINDS.into_iter().enumerate() {
        let what = format!("admitted, and ended in their own way: {}", kind.name());
        add(&what, &mut all().map(|cell| cell.shapes.ended[nth]));
        if few().next().is_some() {
            let what = format!("{what}, where at most {FEW} may be");
            add(&what, &mut few().map(|cell| cell.shapes.ended[nth]));
        }
    }
    let what = "half-open handshakes that ss had, while all held on";
    add(what, &mut all().map(|cell| cell.shapes.half_open));
    let what = "handshakes whose last ACK carried data, on the wire";
    add(what, &mut all().map(|cell| cell.shapes.with_data));
    let what = "established one too many, in all bursts";
    add(what, &mut all().map(|cell| cell.surplus));
}
