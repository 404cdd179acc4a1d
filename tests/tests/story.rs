//! The story as an end-to-end test: what the demo shows must hold.

use std::process::{Command, Stdio};

use totoro_tests::lab;

/// The short form of `cargo xtask soak headless`.
#[test]
fn users_do_not_notice_that_nobody_is_there() {
    if lab::skip("users_do_not_notice_that_nobody_is_there").is_none() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_totoro-lab"))
        .arg("headless")
        .env("TOTORO_TEST_TAG", format!("{}-hl", lab::run_tag()))
        .stdin(Stdio::null())
        .output()
        .expect("totoro-lab starts");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{said}");
    assert!(text.trim_end().ends_with(" 0 failed"), "{text}");
}

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
