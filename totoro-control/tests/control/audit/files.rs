//! Segments that are old or damaged.

use std::time::{Duration, Instant};

use serde_json::json;
use totoro_api::wire::event::{Actor, AuditEvent, Subject};
use totoro_control::audit::{read_id, write_event, write_id};
use totoro_control::store::Position;

use super::{all_moved, everything, export, ids, moving, segments};
use crate::support::{Control, PATIENCE};

/// An old segment as an earlier version of this process left it: three events.
fn old_segment(control: &Control, day: u32, name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut ids = Vec::new();
    for index in 0..3 {
        let position = Position {
            day,
            revision: 1,
            index,
        };
        ids.push(write_id(position));
        let event = AuditEvent {
            id: write_id(position),
            at: format!("2020-01-01T00:00:00.00{index}Z"),
            actor: Actor {
                kind: "anyone".to_owned(),
                id: String::new(),
                address: "198.51.100.77".to_owned(),
            },
            request_id: None,
            node: None,
            spool: None,
            seq: None,
            boot: None,
            subject: Subject {
                kind: "ticket.issued".to_owned(),
                client: Some("198.51.100.77".to_owned()),
                ..Subject::default()
            },
        };
        write_event(&mut lines, &event).unwrap();
    }
    std::fs::write(control.at().join("data/audit").join(name), lines).unwrap();
    ids
}

#[tokio::test]
async fn old_segments_lose_addresses_and_then_go() {
    let mut control = Control::start();
    control.node("n1").await;
    moving(&mut control);
    let all = all_moved(&control).await;
    let today = read_id(&all[0]).unwrap().day;
    assert!(control.terminate().success());
    let date = |day: u32| {
        let at = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(i64::from(day));
        format!("{}.0001.ndjson", at.date())
    };
    let (ancient, old) = (today - 402, today - 200);
    old_segment(&control, ancient, &date(ancient));
    let kept = old_segment(&control, old, &date(old));
    control.restart();
    let began = Instant::now();
    let told = loop {
        let told = everything(&control, 1000).await;
        let dropped = told.iter().any(|event| event["kind"] == "audit.dropped");
        let path = control.at().join("data/audit").join(date(old));
        let cut = std::fs::read_to_string(path)
            .unwrap()
            .contains("\"198.51.100.0/24\"");
        if dropped && cut && !control.at().join("data/audit").join(date(ancient)).exists() {
            break told;
        }
        assert!(began.elapsed() < PATIENCE, "{}", control.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ids(&told)[..3], kept);
    assert_eq!(told[0]["client"], "198.51.100.0/24");
    assert_eq!(told[0]["actor"]["address"], "198.51.100.0/24");
    let dropped = told.last().unwrap();
    assert_eq!(dropped["detail"]["events"], 3);
    assert_eq!(dropped["detail"]["why"], "age");
    assert_eq!(dropped["detail"]["up_to"], date(ancient));
    // Once, and not again after a restart.
    control.terminate();
    control.restart();
    let dropped = control.kinds("&kind=audit.dropped").await;
    assert_eq!(dropped.len(), 1);
}

#[tokio::test]
async fn a_damaged_segment_is_named_and_the_rest_is_served() {
    let mut control = Control::start();
    control.enrolled("n1", json!({})).await;
    moving(&mut control);
    let all = all_moved(&control).await;
    // An orderly end: the store has then recorded all of it as moved.
    assert!(control.terminate().success());
    control.restart();
    let path = segments(&control).pop().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for when in ["while it runs", "after a restart"] {
        let page = control
            .get("/admin/audit?limit=1000", &control.admin)
            .await
            .with(200);
        assert_eq!(page["damaged"], json!([name]), "{when}");
        assert_eq!(
            page["items"].as_array().unwrap().len(),
            all.len() - 1,
            "{when}"
        );
        let (events, last) = export(&control, "").await;
        assert_eq!(events.len(), all.len() - 1, "{when}");
        assert_eq!(last.unwrap()["damaged"], json!([name]), "{when}");
        assert!(control.log().contains(&name), "{when}");
        assert!(control.terminate().success());
        control.restart();
    }
    control.enrolled("n2", json!({})).await;
    assert!(
        control.kinds("").await.len() > all.len(),
        "it goes on in another segment"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "left as it is");
}
