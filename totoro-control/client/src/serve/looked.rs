//! Ways in that wait to be used.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::access::{Access, Source};
use crate::control::Control;

/// How many at most, and for how long.
const LOOKED: (usize, Duration) = (16, Duration::from_secs(600));

/// Ways in that wait to be used: the page has a number in place of the code.
#[derive(Default)]
pub(super) struct Looked(Mutex<VecDeque<(String, Instant, Way)>>);

/// A way in that was looked up: with which secret, and what it is good for.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) control: Control,
    pub(super) source: Source,
    pub(super) access: Access,
}

impl Looked {
    /// Keeps one; its number.
    pub(super) fn keep(&self, way: Way) -> String {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, at, _)| at.elapsed() < LOOKED.1);
        while all.len() >= LOOKED.0 {
            all.pop_front();
        }
        let id = format!("{:016x}", fastrand::u64(..));
        all.push_back((id.clone(), Instant::now(), way));
        id
    }

    /// One that is still kept.
    pub(super) fn find(&self, id: &str) -> Option<Way> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |(_, at, _): &&(String, Instant, Way)| at.elapsed() < LOOKED.1;
        let found = all.iter().filter(fresh).find(|(known, ..)| known == id);
        found.map(|(.., way)| way.clone())
    }
}
