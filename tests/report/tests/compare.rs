//! Two runs beside each other.

use totoro_report::{Better, Figure, Goal, Outcome, Rules, Run, compare};

/// A run with one figure, beside a baseline of so much in each round.
fn run(samples: &[f64], baseline: f64) -> Run {
    let mut run = Run::new("example");
    run.baseline("empty", "1");
    let figure = Figure::new("xdp", "ours", "ns", Better::Less, samples.to_vec());
    run.add(figure.against("empty", &vec![baseline; samples.len()], None));
    run
}

/// A figure without a baseline.
fn bare(better: Better, samples: &[f64]) -> Run {
    let mut run = Run::new("example");
    let figure = Figure::new("all", "one", "", better, samples.to_vec());
    run.add(figure.goal(Goal::at_most(100.0).each()));
    run
}

fn outcome(before: &Run, after: &Run) -> Outcome {
    let comparison = compare(before, after, Rules::default());
    assert_eq!(comparison.changes.len(), 1);
    comparison.changes[0].outcome
}

/// `base`, and up to `noise` more, in an order of its own.
fn noisy(base: f64, noise: f64, count: u32) -> Vec<f64> {
    let spread = |nth: u32| f64::from(nth * 7 % count) / f64::from(count);
    (0..count).map(|nth| base + noise * spread(nth)).collect()
}

#[test]
fn a_regression_is_more_than_noise() {
    let before = run(&noisy(50.0, 4.0, 10), 30.0);
    assert_eq!(outcome(&before, &before), Outcome::Same);
    assert_eq!(
        outcome(&before, &run(&noisy(56.0, 4.0, 10), 30.0)),
        Outcome::Regression
    );
    assert_eq!(
        outcome(&before, &run(&noisy(44.0, 4.0, 10), 30.0)),
        Outcome::Better
    );
    // A tenth more, within a noise of twice as much.
    let (wild, wilder) = (noisy(50.0, 60.0, 10), noisy(58.0, 60.0, 10));
    assert_eq!(
        outcome(&run(&wild, 30.0), &run(&wilder, 30.0)),
        Outcome::Same
    );
    // Certain, and too little to matter.
    assert_eq!(
        outcome(&before, &run(&noisy(50.0, 0.1, 10), 30.0)),
        Outcome::Same
    );
}

#[test]
fn a_slower_machine_is_none() {
    let before = run(&noisy(50.0, 4.0, 10), 30.0);
    let slower: Vec<f64> = noisy(50.0, 4.0, 10).iter().map(|one| one * 2.0).collect();
    assert_eq!(outcome(&before, &run(&slower, 60.0)), Outcome::Same);
    assert_eq!(outcome(&before, &run(&slower, 30.0)), Outcome::Regression);
}

#[test]
fn which_side_is_worse_is_the_figures_word() {
    let (low, high) = (noisy(50.0, 4.0, 8), noisy(60.0, 4.0, 8));
    for (better, outcome_up) in [
        (Better::Less, Outcome::Regression),
        (Better::More, Outcome::Better),
    ] {
        assert_eq!(
            outcome(&bare(better, &low), &bare(better, &high)),
            outcome_up
        );
    }
    let told = compare(
        &bare(Better::Neither, &low),
        &bare(Better::Neither, &high),
        Rules::default(),
    );
    assert!(told.changes.is_empty() && !told.is_worse());
}

#[test]
fn two_values_can_tell_nothing_but_that_a_goal_of_each_is_lost() {
    let kept = bare(Better::Less, &[50.0]);
    assert_eq!(
        outcome(&kept, &bare(Better::Less, &[90.0])),
        Outcome::TooFew
    );
    assert_eq!(
        outcome(&kept, &bare(Better::Less, &[101.0])),
        Outcome::GoalLost
    );
    // One of many: no median moves.
    let lost = compare(
        &bare(Better::Less, &[0.0; 10]),
        &bare(
            Better::Less,
            &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 200.0],
        ),
        Rules::default(),
    );
    assert_eq!(lost.changes[0].outcome, Outcome::GoalLost);
    assert!(lost.is_worse());
}

#[test]
fn what_is_not_comparable_is_said() {
    let mut after = run(&noisy(50.0, 4.0, 10), 30.0);
    after.baselines[0].version = "2".to_owned();
    after.figures[0].name = "renamed".to_owned();
    let said = compare(&run(&noisy(50.0, 4.0, 10), 30.0), &after, Rules::default());
    assert!(said.changes.is_empty());
    assert_eq!(said.alone, ["xdp: ours (before)", "xdp: renamed (after)"]);
    assert_eq!(said.warnings, ["another empty: 1, then 2"]);
}

#[test]
fn the_exit_code_says_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1.json"), dir.path().join("2.json"));
    std::fs::write(&first, run(&noisy(50.0, 4.0, 10), 30.0).json()).unwrap();
    std::fs::write(&second, run(&noisy(60.0, 4.0, 10), 30.0).json()).unwrap();
    let code = |before, after| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_totoro-report"));
        program
            .args([before, after])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(code(&first, &second), Some(1));
    assert_eq!(code(&second, &first), Some(0));
    assert_eq!(code(&first, &dir.path().to_path_buf()), Some(2));
}
