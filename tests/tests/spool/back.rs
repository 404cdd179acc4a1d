//! A node whose state was put back to an earlier copy of itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use totoro_api::wire::event::kind;

use crate::world::{NUMBERED, World};

fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).ok();
    let done = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(done.unwrap().success());
}

#[test]
fn what_comes_after_the_state_was_put_back_is_not_taken_for_what_came_before() {
    // Fewer events than were there before, and more.
    for more in [100, 400] {
        let mut world = World::new();
        let (state, kept) = (world.state(), world.dir.path().join("kept"));
        world.deliver(100);
        copy(&state, &kept);
        assert_eq!(world.deliver(200), 300);
        let before = world.trail();
        copy(&kept, &state);
        assert_eq!(world.deliver(more), 100 + more);

        let trail = world.trail();
        let (known, new) = trail.split_at(before.len());
        assert_eq!(known, before, "and nothing of that changed");
        let spools: BTreeSet<_> = trail.iter().map(|event| &event.spool).collect();
        assert_eq!(spools.len(), 2);
        let lost = &new[0].subject;
        assert_eq!(lost.kind, kind::AUDIT_LOST);
        assert_eq!(lost.detail["spool"], json!(before[0].spool));
        let told = new[1..]
            .iter()
            .filter(|event| event.subject.kind == NUMBERED);
        let numbers: Vec<_> = told
            .map(|event| event.subject.detail["number"].as_u64())
            .collect();
        let wanted: Vec<_> = (100..100 + more).map(Some).collect();
        assert_eq!(numbers, wanted, "each once, in order");
    }
}
