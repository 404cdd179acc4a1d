//! Telling of what repeats without drowning the audit: the first at once, then a count. Pure.

use std::collections::BTreeMap;

use totoro_api::wire::event::Subject;

/// The most kinds of refusals that are told apart at once, of everybody's and of one owner's; beyond
/// that an owner's share one entry per reason. With an interval of 10 s this is also the budget: no
/// owner is told of more than seven times a second, whatever it does.
const MAX_KEYS: usize = 4096;
const MAX_PER_OWNER: usize = 64;

/// Whose it is, and what.
type Key = (String, String);

#[derive(Clone, Debug)]
struct Entry {
    subject: Subject,
    interval_ms: i64,
    count: u64,
    first_ms: i64,
    last_ms: i64,
    told_ms: Option<i64>,
}

/// What happened since it was last told, by key.
#[derive(Clone, Debug, Default)]
pub struct Coalesce {
    entries: BTreeMap<Key, Entry>,
}

impl Coalesce {
    /// Counts `count` more of `what` under `owner`, which `subject` describes, first and last at
    /// these times; told at most once per `interval_ms`.
    pub fn add(
        &mut self,
        owner: &str,
        what: String,
        subject: Subject,
        count: u64,
        (first_ms, last_ms): (i64, i64),
        interval_ms: i64,
    ) {
        let mut key = (owner.to_owned(), what);
        let full = || self.entries.len() >= MAX_KEYS || self.owned(owner) >= MAX_PER_OWNER;
        if !self.entries.contains_key(&key) && full() {
            let reason = subject.reason.map_or("", |reason| reason.code());
            key.1 = format!("others/{}/{reason}", subject.kind);
            if self.entries.len() >= MAX_KEYS {
                key.0.clear();
            }
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            subject: subject.clone(),
            interval_ms,
            count: 0,
            first_ms,
            last_ms,
            told_ms: None,
        });
        if entry.count == 0 {
            entry.first_ms = first_ms;
            entry.subject = subject;
        }
        entry.count += count;
        entry.last_ms = last_ms.max(entry.last_ms);
    }

    /// How many entries are an owner's.
    fn owned(&self, owner: &str) -> usize {
        self.entries
            .range((owner.to_owned(), String::new())..)
            .take_while(|((of, _), _)| of == owner)
            .count()
    }

    /// How many of `what` under `owner` wait to be told.
    #[must_use]
    pub fn pending(&self, owner: &str, what: &str) -> u64 {
        let key = (owner.to_owned(), what.to_owned());
        self.entries.get(&key).map_or(0, |entry| entry.count)
    }

    /// What is to be told now, with when it first happened, oldest first. `detail` gets `count`,
    /// `first_ms` and `last_ms`.
    pub fn due(&mut self, now_ms: i64) -> Vec<(i64, Subject)> {
        let mut due: Vec<(i64, Subject)> = Vec::new();
        for entry in self.entries.values_mut() {
            let waits = entry
                .told_ms
                .is_some_and(|told| now_ms < told + entry.interval_ms);
            if entry.count == 0 || waits {
                continue;
            }
            let mut subject = entry.subject.clone();
            if !subject.detail.is_object() {
                subject.detail = serde_json::json!({});
            }
            subject.detail["count"] = entry.count.into();
            subject.detail["first_ms"] = entry.first_ms.into();
            subject.detail["last_ms"] = entry.last_ms.into();
            entry.count = 0;
            entry.told_ms = Some(now_ms);
            due.push((entry.first_ms, subject));
        }
        self.entries.retain(|_, entry| {
            entry.count > 0
                || entry
                    .told_ms
                    .is_some_and(|told| now_ms < told + entry.interval_ms)
        });
        due.sort_by_key(|(first, _)| *first);
        due
    }

    /// Nothing happened, or was told, in what is to come.
    pub fn no_later(&mut self, now_ms: i64) {
        for entry in self.entries.values_mut() {
            entry.first_ms = entry.first_ms.min(now_ms);
            entry.last_ms = entry.last_ms.min(now_ms);
            entry.told_ms = entry.told_ms.map(|told| told.min(now_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(coalesce: &mut Coalesce, now: i64) -> Vec<u64> {
        let due = coalesce.due(now);
        due.iter()
            .map(|(_, subject)| subject.detail["count"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn the_first_at_once_then_one_per_interval_and_none_is_lost() {
        let mut coalesce = Coalesce::default();
        let add = |coalesce: &mut Coalesce, count, at| {
            coalesce.add(
                "o",
                "k".to_owned(),
                Subject::default(),
                count,
                (at, at),
                100,
            );
        };
        add(&mut coalesce, 1, 1000);
        assert_eq!(counts(&mut coalesce, 1000), [1]);
        add(&mut coalesce, 3, 1010);
        add(&mut coalesce, 4, 1050);
        assert!(coalesce.due(1099).is_empty());
        let due = coalesce.due(1100);
        let (at, subject) = &due[0];
        assert_eq!(*at, 1010);
        assert_eq!(subject.detail["count"], 7);
        assert_eq!(
            (&subject.detail["first_ms"], &subject.detail["last_ms"]),
            (&1010.into(), &1050.into())
        );
        assert!(coalesce.due(5000).is_empty());
        assert!(coalesce.entries.is_empty(), "what is quiet is forgotten");
    }

    #[test]
    fn keys_are_bounded_and_counts_survive() {
        let mut coalesce = Coalesce::default();
        let mut add = |owner: &str, n: i64| {
            coalesce.add(owner, n.to_string(), Subject::default(), 1, (n, n), 100);
        };
        for n in 0..MAX_KEYS as i64 {
            add("loud", n);
        }
        for n in 0..MAX_KEYS as i64 {
            add(&n.to_string(), n);
        }
        assert!(coalesce.entries.len() <= MAX_KEYS + 1);
        assert_eq!(coalesce.owned("loud"), MAX_PER_OWNER + 1);
        assert_eq!(coalesce.owned("7"), 1, "others have their room");
        let total: u64 = counts(&mut coalesce, 10_000).iter().sum();
        assert_eq!(total, 2 * MAX_KEYS as u64);
    }
}
