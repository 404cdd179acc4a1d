//! The trail across its boundary: what waits in the store and what is in segments is one sequence,
//! whatever is killed or damaged meanwhile.

mod command;
mod files;
mod moving;
mod reading;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Control, PATIENCE};

/// Settings under which events are moved all the time.
fn moving(control: &mut Control) {
    control.reconfigure(&[("move_every = \"1s\"", "move_every = \"10ms\"")]);
}

fn segments(control: &Control) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(control.at().join("data/audit")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The ids in all segment files, in order.
fn moved(control: &Control) -> Vec<String> {
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let text: String = segments(control).iter().map(read).collect();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    events
        .filter_map(|line: Value| Some(line["event"]["id"].as_str()?.to_owned()))
        .collect()
}

/// Waits until everything that was recorded is in segments.
async fn all_moved(control: &Control) -> Vec<String> {
    let began = Instant::now();
    loop {
        let (told, moved) = (ids(&everything(control, 1000).await), moved(control));
        if told == moved {
            return told;
        }
        assert!(began.elapsed() < PATIENCE, "it is not moved");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All events, by pages of this size.
async fn everything(control: &Control, limit: usize) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/admin/audit?limit={limit}{cursor}");
        let page = control.get(&path, &control.admin).await.with(200);
        assert!(page["damaged"].is_null(), "{page}");
        all.extend(page["items"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// All events of an export, and its last line if that is no event.
async fn export(control: &Control, query: &str) -> (Vec<Value>, Option<Value>) {
    let accept = [("accept", "application/x-ndjson")];
    let path = format!("/admin/audit?{query}");
    let admin = &control.admin;
    let answer = control.call_with("GET", &path, admin, None, &accept).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let lines = answer.text.lines();
    let mut lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.pop_if(|last| last["damaged"].is_array());
    (lines, last)
}

fn ids(events: &[Value]) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    events.iter().map(id).collect()
}

/// Waits until it holds.
async fn until(holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
