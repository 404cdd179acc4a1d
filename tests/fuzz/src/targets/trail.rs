//! Lines of the audit trail's segments.

use serde_json::{Value, json};
use totoro_api::wire::event::AuditEvent;
use totoro_control::audit::{Line, Seal, Summary, read_line, write_event, write_id, write_seal};
use totoro_control::store::Position;

use crate::Target;

/// A line; the same bytes again as an event's JSON.
pub(crate) const TARGET: Target = Target {
    name: "trail",
    run,
    seeds,
};

fn run(data: &[u8]) {
    match read_line(data) {
        None => {}
        Some(Line::Event(position, json)) => {
            let id = format!("{{\"id\":\"{}\"", write_id(position));
            assert!(json.to_ascii_lowercase().starts_with(id.as_bytes()));
            cut(data);
        }
        Some(Line::Seal(seal)) => {
            let mut written = Vec::new();
            write_seal(&mut written, &seal).expect("a seal is JSON");
            assert_eq!(read_line(&written), Some(Line::Seal(seal)));
            cut(data);
        }
    }
    if let Ok(mut event) = serde_json::from_slice::<AuditEvent>(data) {
        event.id = write_id(POSITION);
        let mut line = Vec::new();
        write_event(&mut line, &event).expect("an event is JSON");
        assert_eq!(
            line.iter().position(|&byte| byte == b'\n'),
            Some(line.len() - 1),
            "one line"
        );
        let Some(Line::Event(position, json)) = read_line(&line) else {
            panic!("what was written is no event");
        };
        assert_eq!(position, POSITION);
        let read: AuditEvent = serde_json::from_slice(json).expect("what was written is an event");
        let again = serde_json::to_vec(&read).expect("an event is JSON");
        assert_eq!(again, json);
        cut(&line);
    }
}

/// No part of a line that holds is one.
fn cut(line: &[u8]) {
    for end in [0, 1, line.len() / 2, line.len() - 1] {
        assert_eq!(read_line(&line[..end]), None, "cut at {end}");
    }
}

const POSITION: Position = Position {
    day: 20_000,
    revision: 300,
    index: 7,
};

fn event() -> Value {
    json!({
        "id": write_id(POSITION), "at": "2026-01-02T03:04:05.678Z", "actor": {"kind": "node", "id": "nod_a"},
        "node": "nod_a", "spool": "00112233445566778899aabbccddeeff", "seq": 7, "boot": "b",
        "kind": "session.opened", "invite": "inv_1", "session": "r", "client": "192.0.2.1", "detail": {"n": 1},
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let event: AuditEvent = serde_json::from_value(event()).expect("an event");
    let mut line = Vec::new();
    write_event(&mut line, &event).expect("an event is JSON");
    let seal = Seal {
        summary: Summary {
            first: POSITION,
            last: POSITION,
            events: 1,
            earliest: event.at.clone(),
            latest: event.at.clone(),
        },
        prefixes_only: true,
    };
    let mut sealed = Vec::new();
    write_seal(&mut sealed, &seal).expect("a seal is JSON");
    let cut = line[..line.len() - 2].to_vec();
    vec![
        line,
        sealed,
        cut,
        serde_json::to_vec(&event).expect("an event is JSON"),
    ]
}
