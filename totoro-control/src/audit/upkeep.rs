//! What the passing of time does to segments: they are sealed, dropped, and lose addresses.

use std::sync::Arc;

use totoro_api::wire::event::kind;

use super::error::TrailError;
use super::marks::{DROPPED, Dropped, Marks};
use super::retention::choose;
use super::rewrite::cut_addresses;
use super::segment::Segment;
use super::{Author, Trail, record};
use crate::store::Tx;

impl Trail {
    /// Does what is due. Whether more is due at once: addresses are cut one segment at a time, so
    /// that events are moved in between.
    pub(super) async fn upkeep(self: &Arc<Self>) -> Result<bool, TrailError> {
        self.upkeep_at(Self::now_ms() / 1000).await
    }

    pub(super) async fn upkeep_at(self: &Arc<Self>, now: i64) -> Result<bool, TrailError> {
        self.blocking(move |trail| {
            let mut writer = trail.writer();
            let ended = |segment: &Segment| segment.name.ends_at() <= now;
            if writer.index().active.as_ref().is_some_and(ended) {
                let sealed = writer.seal();
                trail.publish(writer.index());
                sealed?;
            }
            Ok(())
        })
        .await?;
        self.drop_segments(now).await?;
        self.cut_one(now).await
    }

    /// Drops what is too old or too much. The mark and the event are one commit, and the files go
    /// after it: a crash in between leaves files that the next start removes, and no second event.
    async fn drop_segments(self: &Arc<Self>, now: i64) -> Result<(), TrailError> {
        let mut dropped = Marks::read(&*self.store)?.dropped;
        let before = dropped.map(|dropped| dropped.up_to);
        let keep_for = i64::try_from(self.settings.keep_for.secs()).unwrap_or(i64::MAX);
        if let Some(drop) = choose(&self.index(), before, now, keep_for, self.room()) {
            let last = dropped.map_or(drop.last, |dropped| dropped.last.max(drop.last));
            let mark = Dropped {
                up_to: drop.up_to,
                last,
            };
            let mut tx = Tx::new(&*self.store);
            tx.put(DROPPED, &mark)?;
            let event = Author::system().event(kind::AUDIT_DROPPED);
            record(&mut tx, event.detail(drop.detail()), Self::now_ms())?;
            self.store.commit(tx.into_commit()).await?;
            tracing::info!(detail = %drop.detail(), "dropped audit segments");
            dropped = Some(mark);
        }
        let Some(Dropped { up_to, .. }) = dropped else {
            return Ok(());
        };
        if self
            .index()
            .closed
            .first()
            .is_none_or(|oldest| oldest.name > up_to)
        {
            return Ok(());
        }
        self.blocking(move |trail| {
            let mut writer = trail.writer();
            let removed = writer.remove(up_to);
            trail.publish(writer.index());
            removed
        })
        .await
    }

    /// Cuts the addresses in the oldest segment whose time has come; whether there are more.
    async fn cut_one(self: &Arc<Self>, now: i64) -> Result<bool, TrailError> {
        let keep_for = i64::try_from(self.settings.addresses_for.secs()).unwrap_or(i64::MAX);
        let due = |segment: &&Segment| {
            let kept_until = segment.name.ends_at().saturating_add(keep_for);
            !segment.prefixes_only && !segment.damaged && kept_until <= now
        };
        let index = self.index();
        let mut due = index.closed.iter().filter(due);
        let Some(segment) = due.next().cloned() else {
            return Ok(false);
        };
        let more = due.next().is_some();
        self.blocking(move |trail| {
            let rewritten = match cut_addresses(&trail.dir, &segment) {
                Ok(rewritten) => rewritten,
                Err(error @ (TrailError::Damaged { .. } | TrailError::Failed(_))) => {
                    // It keeps its addresses, and those behind it are not held up.
                    trail.note_damage(segment.name, &error);
                    Segment {
                        damaged: true,
                        ..segment
                    }
                }
                Err(error) => return Err(error),
            };
            let mut writer = trail.writer();
            writer.replace(rewritten);
            trail.publish(writer.index());
            Ok(())
        })
        .await?;
        Ok(more)
    }
}
