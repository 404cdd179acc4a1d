//! What gives way in a full spool: first the oldest samples and sums, then the oldest of all. One
//! `audit.lost` closes each gap, and says what was in it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use redb::ReadableTable;
use totoro_api::wire::event::{NodeEvent, Subject, kind};

use super::{MAX_BATCH, Tables, parse};

/// How much room is made at once: this part of the bound.
const PART: u64 = 16;
/// How many events give way in one go.
const GO: usize = 1000;

/// Whether events of this kind are samples or sums of what repeats: they go first.
pub(crate) fn is_sampled(of: &str) -> bool {
    [
        kind::CONN_REFUSED,
        kind::CONN_CLOSED,
        kind::SESSION_REFUSED,
        kind::PROXY_REFUSED,
    ]
    .contains(&of)
}

/// How many events of each kind, those among them that an earlier loss counted.
pub(crate) fn by_kind<'a>(subjects: impl Iterator<Item = &'a Subject>) -> BTreeMap<String, u64> {
    let mut by_kind = BTreeMap::<String, u64>::new();
    for subject in subjects {
        if subject.kind != kind::AUDIT_LOST {
            *by_kind.entry(subject.kind.clone()).or_default() += 1;
            continue;
        }
        let earlier = subject.detail["by_kind"].as_object();
        for (kind, count) in earlier.into_iter().flatten() {
            *by_kind.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
    by_kind
}

/// Makes room in a spool that takes more than `max` bytes. The oldest batch stays: it may be under
/// way, and an event that arrived is not lost.
pub(super) fn give_way(tables: &mut Tables<'_>, max: u64) -> Result<()> {
    let Some(kept) = last_of_batch(tables)? else {
        return Ok(());
    };
    let wanted = max - max / PART;
    let mut lost = 0;
    while tables.bytes > wanted {
        let before = tables.bytes;
        let mut chosen = samples(tables, kept)?;
        let no_samples = chosen.is_empty();
        if no_samples {
            chosen = oldest(tables, kept)?;
        }
        lost += chosen.len();
        for run in runs(tables, &chosen)? {
            replace(tables, &run, kept)?;
        }
        // What is left is one batch, and one event that tells of all the rest.
        if no_samples && tables.bytes >= before {
            break;
        }
    }
    tracing::error!(
        events = lost,
        left_bytes = tables.bytes,
        "the spool is full; its oldest events give way, samples first"
    );
    Ok(())
}

/// The seq of the oldest batch's last event; `None` where there is no more than that.
fn last_of_batch(tables: &Tables<'_>) -> Result<Option<u64>> {
    let mut events = tables.events.iter().context("read the spool")?;
    let last = events.nth(MAX_BATCH - 1).transpose();
    let last = last.context("read the spool")?;
    Ok(last.map(|(seq, _)| seq.value()))
}

/// The oldest samples that may give way, in order.
fn samples(tables: &Tables<'_>, kept: u64) -> Result<Vec<u64>> {
    let all = tables.sampled.range(kept + 1..);
    let first = all.context("read the spool")?.take(GO);
    let seqs = first.map(|entry| Ok(entry.context("read the spool")?.0.value()));
    seqs.collect()
}

/// The oldest events of any kind that may give way, in order.
fn oldest(tables: &Tables<'_>, kept: u64) -> Result<Vec<u64>> {
    let all = tables.events.range(kept + 1..);
    let first = all.context("read the spool")?.take(GO);
    let seqs = first.map(|entry| Ok(entry.context("read the spool")?.0.value()));
    seqs.collect()
}

/// The chosen ones in runs between which something stays.
fn runs(tables: &Tables<'_>, chosen: &[u64]) -> Result<Vec<Vec<u64>>> {
    let mut runs = Vec::<Vec<u64>>::new();
    for seq in chosen {
        let mut before = tables.events.range(..*seq).context("read the spool")?;
        let before = before.next_back().transpose().context("read the spool")?;
        let before = before.map(|(seq, _)| seq.value());
        match runs.last_mut() {
            Some(run) if run.last().copied() == before => run.push(*seq),
            _ => runs.push(vec![*seq]),
        }
    }
    Ok(runs)
}

/// Replaces a run, and the losses on both sides of it, by one event that counts them.
fn replace(tables: &mut Tables<'_>, run: &[u64], kept: u64) -> Result<()> {
    let (Some(&first), Some(&last)) = (run.first(), run.last()) else {
        return Ok(());
    };
    let mut gone = Vec::with_capacity(run.len() + 2);
    gone.extend(loss(tables, kept + 1..first, true)?);
    gone.extend(run);
    gone.extend(loss(tables, last + 1..u64::MAX, false)?);
    let mut events = Vec::with_capacity(gone.len());
    for seq in gone {
        events.extend(tables.take(seq)?);
    }
    let (Some(oldest), Some(newest)) = (events.first(), events.last()) else {
        return Ok(());
    };
    let (from, to) = (beginning(oldest), newest.seq);
    let by_kind = by_kind(events.iter().map(|event| &event.subject));
    let lost = NodeEvent {
        subject: Subject {
            kind: kind::AUDIT_LOST.to_owned(),
            detail: serde_json::json!({ "from": from, "to": to, "by_kind": by_kind }),
            ..Subject::default()
        },
        ..newest.clone()
    };
    tables.insert(&lost)
}

/// The seq of the event at one end of a range, if it is a loss.
fn loss(tables: &Tables<'_>, range: std::ops::Range<u64>, at_end: bool) -> Result<Option<u64>> {
    if range.is_empty() {
        return Ok(None);
    }
    let mut events = tables.events.range(range).context("read the spool")?;
    let event = if at_end {
        events.next_back()
    } else {
        events.next()
    };
    let Some((seq, value)) = event.transpose().context("read the spool")? else {
        return Ok(None);
    };
    let event = parse(seq.value(), value.value())?;
    Ok((event.subject.kind == kind::AUDIT_LOST).then_some(event.seq))
}

/// Where the gap begins that an event closes; an event that is there begins at itself.
fn beginning(event: &NodeEvent) -> u64 {
    match event.subject.detail["from"].as_u64() {
        Some(from) if event.subject.kind == kind::AUDIT_LOST => from.min(event.seq),
        _ => event.seq,
    }
}
