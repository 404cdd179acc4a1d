//! What gives way in a full spool: first the oldest samples and sums, then the oldest of all. One
//! `audit.lost` stands where the first of them was and says up to where some are missing, and how
//! many of each kind; what is left in between follows it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use redb::ReadableTable;
use totoro_api::wire::event::{NodeEvent, Subject, kind};

use super::{LOSS, MAX_BATCH, Tables, number};

/// How much room is made at once: this part of the bound, and so many bytes at most.
const PART: u64 = 16;
const MOST: u64 = 4 << 20;
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
    let mut lost = Vec::new();
    // What was lost before and is not told of yet is told of together with what is lost now.
    let earlier = number(&tables.meta, LOSS)?.filter(|seq| *seq > kept);
    if let Some(seq) = earlier {
        lost.extend(tables.take(seq)?);
    }
    let (begun, wanted) = (lost.len(), max - (max / PART).min(MOST));
    while tables.bytes > wanted {
        let mut chosen = samples(tables, kept)?;
        if chosen.is_empty() {
            chosen = oldest(tables, kept)?;
        }
        if chosen.is_empty() {
            break;
        }
        for seq in chosen {
            lost.extend(tables.take(seq)?);
            if tables.bytes <= wanted {
                break;
            }
        }
    }
    tracing::error!(
        events = lost.len() - begun,
        left_bytes = tables.bytes,
        "the spool is full; its oldest events give way, samples first"
    );
    tell(tables, &lost)
}

/// Puts one event where the first of the lost ones was.
fn tell(tables: &mut Tables<'_>, lost: &[NodeEvent]) -> Result<()> {
    let Some(first) = lost.iter().min_by_key(|event| event.seq) else {
        return Ok(());
    };
    let to = lost.iter().map(end).max().unwrap_or(first.seq);
    let by_kind = by_kind(lost.iter().map(|event| &event.subject));
    let told = NodeEvent {
        subject: Subject {
            kind: kind::AUDIT_LOST.to_owned(),
            detail: serde_json::json!({ "from": first.seq, "to": to, "by_kind": by_kind }),
            ..Subject::default()
        },
        ..first.clone()
    };
    tables.insert(&told)?;
    tables.put_number(LOSS, told.seq)
}

/// Up to where something is missing that an event tells of; of any other, its own place.
fn end(event: &NodeEvent) -> u64 {
    match event.subject.detail["to"].as_u64() {
        Some(to) if event.subject.kind == kind::AUDIT_LOST => to.max(event.seq),
        _ => event.seq,
    }
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
