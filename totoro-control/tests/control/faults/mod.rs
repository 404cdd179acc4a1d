//! Disks that are full and disks that break, with the real server: what it cannot make durable it
//! refuses, and ends rather than lie; what it has acknowledged is there afterwards.

mod broken;
mod full;
mod small_disk;

use std::time::Instant;

use serde_json::Value;

use crate::ledger::Ledger;
use crate::support::{Control, Node, PATIENCE, answer};

/// What the server ends with when its store has failed.
const STORE_FAILED: i32 = 74;

/// `/readyz`: its status and what it says.
async fn readiness(control: &Control) -> (u16, Value) {
    let ready = control.http.get(format!("{}/readyz", control.api));
    let said = answer(ready).await;
    (said.status.as_u16(), said.body)
}

/// Waits until it answers with this status.
async fn becomes(control: &Control, status: u16) -> Value {
    let began = Instant::now();
    loop {
        let (now, said) = readiness(control).await;
        if now == status {
            return said;
        }
        assert!(began.elapsed() < PATIENCE, "{now}: {said}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Audit events that wait for a segment.
async fn waiting(control: &Control) -> u64 {
    let metrics = control.http.get(format!("{}/metrics", control.api));
    let text = answer(metrics.bearer_auth(&control.admin)).await.text;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("totoro_audit_waiting "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// Writes until the server refuses or ends; it must say so, and end with its code.
async fn until_it_ends(control: &mut Control, node: &Node, ledger: &Ledger, round: u64) {
    let writing = ledger.write_out(control, node, round, || 0);
    tokio::time::timeout(PATIENCE, writing)
        .await
        .expect("no writer is refused");
    assert!(ledger.refused() > 0, "nobody was told");
    let ended = control.ended();
    assert_eq!(ended.code(), Some(STORE_FAILED), "{ended}");
    assert!(control.log().contains("the store failed; ending"));
}
