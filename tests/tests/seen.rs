//! What an operator sees of a node while it is at work.

use totoro_tests::{lab, seen};

#[test]
fn a_node_at_work_is_watched_and_its_log_read_by_programs() {
    if lab::skip("a_node_at_work_is_watched").is_some() {
        seen::play().expect("all of it is to be seen");
    }
}
