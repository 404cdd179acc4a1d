//! Every input of the corpus, and thousands of changes to it, on the ordinary build.
//!
//! `TOTORO_BLESS=1` writes the seeds anew; `TOTORO_SEED` repeats a run's changes, and
//! `TOTORO_CASES` says how many there are for each target. `TOTORO_FOUND` names a directory of more inputs,
//! where `cargo xtask soak fuzz` keeps what it found.

use std::panic::catch_unwind;
use std::path::Path;

use totoro_fuzz::{TARGETS, Target, corpus, mutate};

/// Changes to a target's corpus, without `TOTORO_CASES`.
const CASES: u32 = 4000;

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let read = text.parse().ok();
    Some(read.unwrap_or_else(|| panic!("{name} = {text} is no number")))
}

fn run(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(|| (target.run)(input)).is_err() {
        let shown = String::from_utf8_lossy(input);
        panic!("{}: {what} does not hold:\n{shown}\n{input:?}", target.name);
    }
}

fn replay(name: &str) {
    let target = totoro_fuzz::find(name).expect("a target");
    if std::env::var_os("TOTORO_BLESS").is_some() {
        corpus::bless(name, &(target.seeds)());
    }
    let mut inputs = corpus::read(&corpus::dir(name));
    assert!(!inputs.is_empty(), "TOTORO_BLESS=1 writes the seeds");
    if let Some(found) = std::env::var_os("TOTORO_FOUND") {
        inputs.extend(corpus::read(&Path::new(&found).join(name)));
    }
    for (file, input) in &inputs {
        run(&target, input, &format!("{name}/{file}"));
    }
    let seed = number("TOTORO_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{name}: {} inputs, TOTORO_SEED={seed}", inputs.len());
    let mut rng = fastrand::Rng::with_seed(seed);
    let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, input)| input).collect();
    for case in 0..number("TOTORO_CASES").unwrap_or(CASES) {
        let input = mutate::next(&mut rng, &inputs);
        run(
            &target,
            &input,
            &format!("case {case} of TOTORO_SEED={seed}"),
        );
    }
}

/// A test for each target, so that they run beside each other.
macro_rules! replays {
    ($($name:ident $target:literal;)+) => {
        $(#[test]
        fn $name() {
            replay($target);
        })+

        #[test]
        fn every_target_is_replayed() {
            let names = TARGETS.map(|target| target.name);
            assert_eq!(names.as_slice(), [$($target),+]);
        }
    };
}

replays! {
    plugin "plugin";
    ticket "ticket";
    ticket_edited "ticket-edited";
    text "text";
    settings_node "settings-node";
    settings_control "settings-control";
    client_file "client-file";
    client_log "client-log";
    frps_proxies "frps-proxies";
    rest "rest";
    packet "packet";
    node_log "node-log";
    store "store";
    backup "backup";
    trail "trail";
}
