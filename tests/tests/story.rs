//! What the lab's programs show, as tests: the story, and the fault run.

use std::io::Write as _;
use std::process::{Command, Stdio};

use totoro_tests::lab;

/// What the lab's program prints when it is given these words, in a process of its own; and how it
/// ended, with its errors.
fn played(words: &[&str], tag: Option<&str>) -> (String, Result<(), String>) {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_totoro-lab"));
    if let Some(tag) = tag {
        lab.env("TOTORO_TEST_TAG", format!("{}-{tag}", lab::run_tag()));
    }
    let output = lab.args(words).stdin(Stdio::null()).output();
    let output = output.expect("totoro-lab starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    let error = String::from_utf8_lossy(&output.stderr);
    // What failed goes into the panic's text: of a long run's output only the end may be kept.
    let bad: Vec<&str> = text.lines().filter(|line| line.contains('✘')).collect();
    let ended = match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}\n{error}", output.status, bad.join("\n"))),
    };
    (text, ended)
}

/// The short form of `cargo xtask soak headless`.
#[test]
fn users_do_not_notice_that_nobody_is_there() {
    if lab::skip("users_do_not_notice_that_nobody_is_there").is_none() {
        return;
    }
    let (text, ended) = played(&["headless"], Some("hl"));
    assert_eq!(ended, Ok(()), "{text}");
    assert!(text.trim_end().ends_with(" 0 failed"), "{text}");
}

/// Plays it in a process of its own, as `cargo xtask demo` does: exit code and last line count.
#[test]
fn the_story_holds() {
    if lab::skip("the_story_holds").is_none() {
        return;
    }
    let (text, ended) = played(&["demo", "--json"], None);
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("\"passed\":false"))
        .collect();
    let last = text.lines().next_back().unwrap_or_default();
    assert!(failed.is_empty(), "{}\n{last}", failed.join("\n"));
    assert_eq!(ended, Ok(()));
    assert!(
        last.ends_with(" passed, 0 failed"),
        "the last line is {last:?}"
    );
}

/// Twenty rounds with ten frpc, each awaited until all is well again. (`cargo xtask soak faults` makes
/// 1,000.) What it counted is told although it passes.
#[test]
fn what_is_killed_and_broken_converges() {
    if lab::skip("what_is_killed_and_broken_converges").is_none() {
        return;
    }
    let tag = format!("--tag={}-faults", lab::run_tag());
    // The time is there to end a run that would never end; 20 rounds take a tenth of it.
    let words = [
        "faults",
        "--rounds=20",
        "--seconds=900",
        "--clients=10",
        &tag,
    ];
    let (text, ended) = played(&words, None);
    assert_eq!(ended, Ok(()));
    let last = text.lines().next_back().unwrap_or_default();
    assert_eq!(last, "20 rounds well, 0 failed");
    // Not by `println!`, of which a test that passes shows nothing.
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// The control plane is killed under live tunnels, and comes back.
#[test]
fn an_outage_of_the_control_plane_cuts_nobody() {
    if lab::skip("an_outage_of_the_control_plane_cuts_nobody").is_none() {
        return;
    }
    let tag = format!("--tag={}-outage", lab::run_tag());
    let (_, ended) = played(&["outage", &tag], None);
    assert_eq!(ended, Ok(()));
}
