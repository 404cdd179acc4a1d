//! Reading the trail as one ordered sequence: segments first, then what waits in the store.
//!
//! An event is published in the index before it leaves the store, so a look at the store and then
//! an unchanged index together miss nothing; and what both have is told once, by its position.

use std::io;
use std::ops::ControlFlow;

use totoro_api::Reason;
use totoro_api::wire::event::AuditEvent;

use super::error::TrailError;
use super::file::SegmentFile;
use super::line::{self, Line};
use super::segment::Segment;
use super::{Trail, address, outbox, rfc3339_ms};
use crate::store::Position;

/// Events looked at for one page at most, so that a rare filter cannot hold a thread for long: the
/// page then ends early and its cursor goes on.
const MAX_SCAN: usize = 100_000;
/// Events read from the store at once.
const CHUNK: usize = 1000;

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this node.
    pub node: Option<String>,
    /// Of this invite.
    pub invite: Option<String>,
    /// Of this session.
    pub session: Option<String>,
    /// Of this kind, or of all that begin with it where it ends in `.`: `session.`.
    pub kind: Option<String>,
    /// Refused for this reason.
    pub reason: Option<Reason>,
    /// Not before, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Before, Unix milliseconds.
    pub until_ms: Option<i64>,
}

/// Which page of them.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Which events.
    pub filter: Filter,
    /// Only those after it; with `newest`, only those before it.
    pub cursor: Option<Position>,
    /// How many at most.
    pub limit: usize,
    /// The last ones instead of the first.
    pub newest: bool,
}

/// A page and where the next one begins.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<AuditEvent>,
    /// The cursor of the next page, where there is one.
    pub next: Option<Position>,
    /// The cursor of what comes after everything that is there now.
    pub follow: Option<Position>,
    /// Segments that could not be read as a whole.
    pub damaged: Vec<String>,
}

/// A search under way.
struct Search<'a> {
    trail: &'a Trail,
    ask: &'a Ask,
    since: Option<String>,
    until: Option<String>,
    /// Events from before keep the prefix of an address only, rewritten or not.
    cut_before: String,
    scanned: usize,
    page: Page,
}

impl Trail {
    /// Reads one page.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) fn find(&self, ask: &Ask) -> Result<Page, TrailError> {
        let kept = i64::try_from(self.settings.addresses_for.0.as_millis()).unwrap_or(i64::MAX);
        let mut search = Search {
            trail: self,
            ask,
            since: ask.filter.since_ms.map(rfc3339_ms),
            until: ask.filter.until_ms.map(rfc3339_ms),
            cut_before: rfc3339_ms(Self::now_ms().saturating_sub(kept)),
            scanned: 0,
            page: Page::default(),
        };
        if ask.newest {
            search.backward()?;
            search.page.events.reverse();
        } else {
            search.forward()?;
        }
        Ok(search.page)
    }
}

impl Search<'_> {
    fn forward(&mut self) -> Result<(), TrailError> {
        let mut at = self.ask.cursor.unwrap_or(self.ask.filter.first());
        loop {
            let index = self.trail.index();
            for segment in index.segments() {
                let passed = segment.last().is_some_and(|last| last <= at);
                if passed || !self.may_hold(segment) {
                    continue;
                }
                if self.segment_forward(segment, &mut at).is_break() {
                    self.page.next = Some(at);
                    return Ok(());
                }
                at = at.max(segment.last().unwrap_or(at));
            }
            at = at.max(index.end);
            let chunk = outbox::after(&*self.trail.store, at, CHUNK)?;
            if self.trail.index().end != index.end {
                // Some were moved meanwhile: they are in segments now.
                continue;
            }
            let end = chunk.len() < CHUNK;
            for (position, event) in chunk {
                at = position;
                if self.look(event).is_break() {
                    self.page.next = Some(at);
                    return Ok(());
                }
            }
            if end {
                self.page.follow = Some(at);
                return Ok(());
            }
        }
    }

    fn backward(&mut self) -> Result<(), TrailError> {
        let mut before = self.ask.cursor;
        let index = loop {
            let index = self.trail.index();
            let chunk = outbox::before(&*self.trail.store, index.end, before, CHUNK)?;
            if self.trail.index().end != index.end {
                continue;
            }
            if before.is_none() {
                let newest = chunk.first().map(|(position, _)| *position);
                self.page.follow = Some(newest.unwrap_or(index.end));
            }
            let end = chunk.len() < CHUNK;
            for (position, event) in chunk {
                before = Some(position);
                if self.look(event).is_break() {
                    self.page.next = before;
                    return Ok(());
                }
            }
            if end {
                break index;
            }
        };
        for segment in index.segments().rev() {
            let first = segment.summary.as_ref().map(|summary| summary.first);
            let passed = before
                .zip(first)
                .is_some_and(|(before, first)| first >= before);
            if passed || !self.may_hold(segment) {
                continue;
            }
            if self.segment_backward(segment, &mut before).is_break() {
                self.page.next = before;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether to open it: not one that is only just made. Of a damaged one without any event it is
    /// at least told.
    fn may_hold(&self, segment: &Segment) -> bool {
        (segment.summary.is_some() || segment.damaged)
            && segment.may_hold(self.since.as_deref(), self.until.as_deref())
    }

    /// Looks at what is in the segment after `at`, which moves along.
    fn segment_forward(&mut self, segment: &Segment, at: &mut Position) -> ControlFlow<()> {
        let mut sealed = false;
        let walked = self.open(segment).and_then(|file| {
            let Some(file) = file else {
                sealed = true;
                return Ok(ControlFlow::Continue(()));
            };
            let mut flow = ControlFlow::Continue(());
            let from = file.around(*at)?.from;
            file.forward(from, &mut |_, text| {
                match self.read(segment, text) {
                    Some(Line::Event(position, json)) if position > *at => {
                        *at = position;
                        flow = self.look_at(segment, json);
                    }
                    Some(Line::Seal(_)) => sealed = true,
                    _ => {}
                }
                flow
            })?;
            Ok(flow)
        });
        match walked {
            Ok(ControlFlow::Continue(())) if segment.sealed && !sealed => {
                self.damaged(segment, &"its end is missing");
                ControlFlow::Continue(())
            }
            Ok(flow) => flow,
            Err(error) => {
                self.damaged(segment, &error);
                ControlFlow::Continue(())
            }
        }
    }

    /// Looks at what is in the segment before `before`, which moves along.
    fn segment_backward(
        &mut self,
        segment: &Segment,
        before: &mut Option<Position>,
    ) -> ControlFlow<()> {
        let walked = self.open(segment).and_then(|file| {
            let mut flow = ControlFlow::Continue(());
            let Some(file) = file else {
                return Ok(flow);
            };
            let to = match *before {
                Some(before) => file.around(before)?.to,
                None => file.len(),
            };
            file.backward(to, &mut |_, text| {
                if let Some(Line::Event(position, json)) = self.read(segment, text)
                    && before.is_none_or(|before| position < before)
                {
                    *before = Some(position);
                    flow = self.look_at(segment, json);
                }
                flow
            })?;
            Ok(flow)
        });
        walked.unwrap_or_else(|error| {
            self.damaged(segment, &error);
            ControlFlow::Continue(())
        })
    }

    /// Opens a segment; `None` when it was dropped meanwhile.
    fn open(&mut self, segment: &Segment) -> io::Result<Option<SegmentFile>> {
        if segment.damaged {
            self.damaged(segment, &"found at the start");
        }
        let path = self.trail.dir.join(segment.name.to_string());
        let opened = SegmentFile::open(&path);
        // Looked at once it is open: a closed one may have been rewritten meanwhile, and is read as
        // long as it is; the active one only as far as it is durable.
        let index = self.trail.index();
        let active = index.active.as_ref();
        match (opened, active.filter(|active| active.name == segment.name)) {
            (Ok(file), Some(active)) => Ok(Some(file.up_to(active.bytes))),
            (Ok(file), None) => Ok(Some(file)),
            (Err(error), _) => {
                let there = index.segments().any(|other| other.name == segment.name);
                if there { Err(error) } else { Ok(None) }
            }
        }
    }

    /// A line of the segment, where it holds and belongs to it.
    fn read<'b>(&mut self, segment: &Segment, text: &'b [u8]) -> Option<Line<'b>> {
        match line::read(text) {
            // Beyond what was ever acknowledged there: it is told from elsewhere.
            Some(Line::Event(position, _)) if Some(position) > segment.last() => None,
            Some(line) => Some(line),
            None => {
                self.damaged(segment, &"a line does not hold");
                None
            }
        }
    }

    fn look_at(&mut self, segment: &Segment, json: &[u8]) -> ControlFlow<()> {
        match serde_json::from_slice(json) {
            Ok(event) => self.look(event),
            Err(error) => {
                self.damaged(segment, &error);
                ControlFlow::Continue(())
            }
        }
    }

    /// Takes the event in if it matches; breaks when the page is complete.
    fn look(&mut self, mut event: AuditEvent) -> ControlFlow<()> {
        self.scanned += 1;
        if self.matches(&event) {
            if event.at < self.cut_before {
                address::cut(&mut event);
            }
            self.page.events.push(event);
        }
        if self.page.events.len() >= self.ask.limit || self.scanned >= MAX_SCAN {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn damaged(&mut self, segment: &Segment, problem: &dyn std::fmt::Display) {
        self.trail.note_damage(segment.name, problem);
        let name = segment.name.to_string();
        if !self.page.damaged.contains(&name) {
            self.page.damaged.push(name);
        }
    }

    fn matches(&self, event: &AuditEvent) -> bool {
        let filter = &self.ask.filter;
        let same = |want: &Option<String>, is: &Option<String>| want.is_none() || want == is;
        let subject = &event.subject;
        let kind = filter.kind.as_ref().is_none_or(|kind| {
            subject.kind == *kind || kind.ends_with('.') && subject.kind.starts_with(kind.as_str())
        });
        // RFC 3339 with fixed width sorts as text.
        same(&filter.node, &event.node)
            && same(&filter.invite, &subject.invite)
            && same(&filter.session, &subject.session)
            && (filter.reason.is_none() || filter.reason == subject.reason)
            && kind
            && self.since.as_ref().is_none_or(|since| event.at >= *since)
            && self.until.as_ref().is_none_or(|until| event.at < *until)
    }
}

impl Filter {
    /// Where to begin: nothing that happened since then can have arrived a day before it.
    fn first(&self) -> Position {
        let day = self.since_ms.unwrap_or(0).div_euclid(86_400_000);
        Position {
            day: u32::try_from(day.saturating_sub(1).max(0)).unwrap_or(u32::MAX),
            ..Position::default()
        }
    }
}
