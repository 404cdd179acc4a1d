//! When sessions end by themselves, in their order: what is due is found without looking at the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The least instant: due in any case.
const SOON: i64 = i64::MIN;

/// Ends by session, Unix seconds.
#[derive(Debug, Default)]
pub(super) struct Ends {
    by_time: BTreeSet<(i64, Arc<str>)>,
    by_session: BTreeMap<Arc<str>, i64>,
}

impl Ends {
    /// Notes when a session ends (`None` = never); what was noted of it before holds no more.
    pub(super) fn set(&mut self, run_id: impl AsRef<str> + Into<Arc<str>>, end: Option<i64>) {
        if self.by_session.get(run_id.as_ref()).copied() == end {
            return;
        }
        self.forget(run_id.as_ref());
        if let Some(end) = end {
            let run_id: Arc<str> = run_id.into();
            self.by_session.insert(Arc::clone(&run_id), end);
            self.by_time.insert((end, run_id));
        }
    }

    /// It is not known when a session ends: it is due, and whoever looks finds out.
    pub(super) fn unknown(&mut self, run_id: &str) {
        self.set(run_id, Some(SOON));
    }

    /// There is no such session any more.
    pub(super) fn forget(&mut self, run_id: &str) {
        if let Some((run_id, end)) = self.by_session.remove_entry(run_id) {
            self.by_time.remove(&(end, run_id));
        }
    }

    /// The sessions that end at `now` or have ended before, the first first. They stay until they are
    /// set anew or forgotten.
    pub(super) fn due(&self, now: i64) -> impl Iterator<Item = &str> {
        let all = self.by_time.iter();
        all.take_while(move |(end, _)| *end <= now)
            .map(|(_, run_id)| &**run_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a plain table would answer, whatever was set, set anew and forgotten before.
        #[test]
        fn what_is_due_is_what_a_look_at_all_would_find(
            steps in prop::collection::vec((0..12u8, prop::option::of(0..20i64), 0..4u8), 0..200),
            now in -1..21i64,
        ) {
            let mut ends = Ends::default();
            let mut plain = BTreeMap::new();
            for (session, end, what) in steps {
                let run_id = format!("run-{session}");
                match what {
                    0 => {
                        ends.forget(&run_id);
                        plain.remove(&run_id);
                    }
                    1 => {
                        ends.unknown(&run_id);
                        plain.insert(run_id, SOON);
                    }
                    _ => {
                        ends.set(run_id.as_str(), end);
                        match end {
                            Some(end) => plain.insert(run_id, end),
                            None => plain.remove(&run_id),
                        };
                    }
                }
            }
            let mut due: Vec<_> = plain.iter().filter(|(_, end)| **end <= now).collect();
            due.sort_by_key(|(run_id, end)| (**end, *run_id));
            let expected: Vec<&str> = due.into_iter().map(|(run_id, _)| run_id.as_str()).collect();
            prop_assert_eq!(ends.due(now).collect::<Vec<_>>(), expected);
            prop_assert_eq!(ends.by_time.len(), ends.by_session.len());
            prop_assert_eq!(ends.by_session.len(), plain.len(), "nothing is left behind");
        }
    }
}
