//! The story as an end-to-end test: what the demo shows must hold.

use std::process::{Command, Stdio};

use totoro_tests::lab;

/// Plays it in a process of its own, as `cargo xtask demo` does: exit code and last line count.
#[test]
fn the_story_holds() {
    if lab::skip("the_story_holds").is_none() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_totoro-lab"))
        .args(["demo", "--json"])
        .stdin(Stdio::null())
        .output()
        .expect("totoro-lab starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("\"passed\":false"))
        .collect();
    let last = text.lines().next_back().unwrap_or_default();
    println!("{text}");
    assert!(failed.is_empty(), "{}\n{last}", failed.join("\n"));
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        last.ends_with(" passed, 0 failed"),
        "the last line is {last:?}"
    );
}
