//! Two runs beside each other.

use totoro_report::{Answer, Better, Figure, Goal, Outcome, Relative, Rules, Run, compare};

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
fn what_an_empty_program_takes_as_well_dilutes_nothing() {
    // Rounds are fast and slow for both; of ours, so much is our own.
    let with = |own: f64, machine: f64, goal: bool| {
        let mut run = Run::new("example");
        run.baseline("empty", "1");
        let empty: Vec<f64> = noisy(30.0, 6.0, 10)
            .iter()
            .map(|one| one * machine)
            .collect();
        let own = noisy(own, 0.4, 9).into_iter().cycle();
        let ours: Vec<f64> = empty
            .iter()
            .zip(own)
            .map(|(empty, own)| empty + own * machine)
            .collect();
        let figure = Figure::new("xdp", "ours", "ns", Better::Less, ours);
        run.add(match goal {
            true => figure.against("empty", &empty, Some(Relative::over(1_000.0))),
            false => figure.against_empty("empty", &empty, None),
        });
        run
    };
    for goal in [true, false] {
        let (before, worse) = (with(3.0, 1.0, goal), with(4.0, 1.0, goal));
        assert_eq!(outcome(&before, &before), Outcome::Same);
        assert_eq!(outcome(&before, &worse), Outcome::Regression);
        assert_eq!(outcome(&worse, &before), Outcome::Better);
        assert_eq!(outcome(&before, &with(3.0, 2.0, goal)), Outcome::Same);
        assert_eq!(outcome(&before, &with(4.0, 2.0, goal)), Outcome::Regression);
        // Less than nothing, as what drops a packet at once may cost, is no other case.
        let (before, worse) = (with(-20.0, 1.0, goal), with(-13.0, 1.0, goal));
        assert_eq!(outcome(&before, &worse), Outcome::Regression);
        let text = compare(&before, &worse, Rules::default()).to_string();
        assert!(
            text.contains("ours, beyond empty, as a part of it |"),
            "{text}"
        );
    }
    // An earlier run did not say what its baseline is; as ratios these differ by less than a twentieth.
    let (mut before, mut worse) = (with(3.0, 1.0, false), with(4.0, 1.0, false));
    before.figures[0].against[0].empty = false;
    assert_eq!(outcome(&before, &worse), Outcome::Regression);
    worse.figures[0].against[0].empty = false;
    assert_eq!(outcome(&before, &worse), Outcome::Same);
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

/// What became of a run with one figure and one goal: of both, as far as there is something to say.
fn outcomes(before: &Run, after: &Run) -> (Vec<Outcome>, Answer) {
    let comparison = compare(before, after, Rules::default());
    let all = comparison.changes.iter().map(|change| change.outcome);
    (all.collect(), comparison.answer())
}

#[test]
fn two_values_can_tell_nothing_but_that_a_goal_is_lost() {
    use Outcome::{GoalLost, Same, TooFew};
    let kept = bare(Better::Less, &[50.0]);
    for is in [10.0, 50.0, 90.0] {
        let after = bare(Better::Less, &[is]);
        assert_eq!(outcomes(&kept, &after), (vec![TooFew], Answer::CantTell));
    }
    let after = bare(Better::Less, &[101.0]);
    let lost = (vec![TooFew, GoalLost], Answer::Worse);
    assert_eq!(outcomes(&kept, &after), lost);
    // One of many: no median moves.
    let (before, mut after) = ([0.0; 10], [0.0; 10]);
    after[9] = 200.0;
    let (before, after) = (bare(Better::Less, &before), bare(Better::Less, &after));
    assert_eq!(
        outcomes(&before, &after),
        (vec![Same, GoalLost], Answer::Worse)
    );
    // What was missed before can't be lost.
    assert_eq!(outcomes(&after, &after), (vec![Same], Answer::NotWorse));
}

#[test]
fn nothing_in_common_is_not_the_same() {
    let mut after = bare(Better::Less, &[50.0; 10]);
    after.figures[0].name = "another".to_owned();
    after.only("--only", "another");
    let before = bare(Better::Less, &[50.0; 10]);
    assert_eq!(outcomes(&before, &after), (vec![], Answer::CantTell));
}

#[test]
fn what_is_exact_needs_no_second_sample() {
    let exact = |is: f64| {
        let mut run = Run::new("example");
        run.add(Figure::new("memory", "maps", "MiB", Better::Less, vec![is]).exact());
        run
    };
    for (is, outcome, answer) in [
        (60.0, Outcome::Same, Answer::NotWorse),
        (62.9, Outcome::Same, Answer::NotWorse),
        (63.0, Outcome::Regression, Answer::Worse),
        (56.0, Outcome::Better, Answer::NotWorse),
    ] {
        assert_eq!(
            outcomes(&exact(60.0), &exact(is)),
            (vec![outcome], answer),
            "{is}"
        );
    }
    // An earlier run, which did not say so, is not known to be.
    let mut before = exact(60.0);
    before.figures[0].exact = false;
    assert_eq!(
        outcomes(&before, &exact(60.0)),
        (vec![Outcome::TooFew], Answer::CantTell)
    );
}

#[test]
fn a_goal_of_any_kind_can_be_lost() {
    // By less than the smallest effect, and by less than noise.
    let run = |samples: &[f64], goal: Option<Goal>, beside: Option<Relative>| {
        let mut run = Run::new("example");
        run.baseline("empty", "1");
        let mut figure = Figure::new("all", "one", "ns", Better::Less, samples.to_vec());
        figure.goals.extend(goal);
        let empty = vec![100.0; samples.len()];
        run.add(figure.against("empty", &empty, beside));
        run
    };
    let (kept, missed) = (noisy(98.0, 4.0, 10), noisy(99.0, 4.0, 10));
    for (goal, beside) in [
        (Some(Goal::at_most(100.0)), None),
        (None, Some(Relative::over(0.0))),
        (None, Some(Relative::at_most(1.0))),
    ] {
        let before = run(&kept, goal.clone(), beside.clone());
        let after = run(&missed, goal, beside.clone());
        let said = compare(&before, &after, Rules::default());
        let lost: Vec<_> = said.changes.iter().skip(1).collect();
        assert_eq!(lost.len(), 1, "{said}");
        assert_eq!(lost[0].outcome, Outcome::GoalLost);
        assert_eq!(lost[0].beside.is_some(), beside.is_some());
        assert_eq!(said.answer(), Answer::Worse);
        assert_eq!(said.changes[0].outcome, Outcome::Same);
        assert_eq!(outcomes(&after, &before).1, Answer::NotWorse);
    }
    // A figure that is neither better nor worse has its goals all the same.
    let (mut before, mut after) = (
        run(&kept, Some(Goal::at_most(100.0)), None),
        run(&missed, Some(Goal::at_most(100.0)), None),
    );
    before.figures[0].better = Better::Neither;
    after.figures[0].better = Better::Neither;
    let lost = (vec![Outcome::GoalLost], Answer::Worse);
    assert_eq!(outcomes(&before, &after), lost);
}

#[test]
fn a_goal_that_asks_less_is_said() {
    use Outcome::{GoalGone, GoalLoosened, GoalLost};
    let with = |base: f64, goal: Goal, beside: Relative| {
        let mut run = Run::new("example");
        run.baseline("empty", "1");
        let samples = noisy(base, 4.0, 10);
        let figure = Figure::new("all", "one", "ns", Better::Neither, samples);
        run.add(
            figure
                .goal(goal)
                .against("empty", &[100.0; 10], Some(beside)),
        );
        run
    };
    let usual = |base| with(base, Goal::at_most(100.0), Relative::at_most(1.0));
    let before = usual(90.0);
    let said = |after: &Run| outcomes(&before, after).0;
    assert!(said(&usual(90.0)).is_empty());
    // Stricter ones, which may be missed: what was asked for then is kept.
    let after = with(90.0, Goal::at_most(50.0), Relative::at_most(0.5));
    assert!(said(&after).is_empty());
    let after = with(90.0, Goal::at_most(110.0), Relative::at_most(1.0));
    assert_eq!(said(&after), [GoalLoosened]);
    let after = with(90.0, Goal::at_most(100.0), Relative::at_most(1.1));
    assert_eq!(said(&after), [GoalLoosened]);
    let text = compare(&before, &after, Rules::default()).to_string();
    assert!(text.contains("goal ≤ 1×, then ≤ 1.1×"), "{text}");
    assert!(text.contains("\nWorse"), "{text}");
    // So that it is met: by what was asked for it is not.
    let after = with(105.0, Goal::at_most(110.0), Relative::at_most(1.1));
    assert_eq!(
        said(&after),
        [GoalLoosened, GoalLost, GoalLoosened, GoalLost]
    );
    // Of something else, or the other side: another goal.
    let after = with(90.0, Goal::at_least(1.0), Relative::over(1_000.0));
    assert_eq!(said(&after), [GoalGone, GoalGone]);
    let after = with(90.0, Goal::at_most(100.0), Relative::at_least(0.1));
    assert_eq!(said(&after), [GoalGone]);
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

/// A run with a goal of its own, and one beside a baseline.
fn judged() -> Run {
    let mut run = Run::new("example");
    run.baseline("empty", "1");
    let samples = noisy(50.0, 4.0, 10);
    let figure = Figure::new("xdp", "ours", "ns", Better::Neither, samples.clone());
    let figure = figure.goal(Goal::at_most(100.0));
    run.add(figure.against("empty", &[30.0; 10], Some(Relative::over(30.0))));
    run.add(Figure::new("xdp", "told", "ns", Better::Less, samples));
    run
}

/// What is gone, and whether that makes a run worse.
fn gone(after: &Run) -> (Vec<Option<String>>, bool) {
    let comparison = compare(&judged(), after, Rules::default());
    let gone = comparison.changes.iter();
    let gone = gone.filter(|change| change.outcome == Outcome::GoalGone);
    let beside = gone.map(|change| change.beside.clone()).collect();
    (beside, comparison.is_worse())
}

#[test]
fn a_goal_that_is_not_judged_any_more_is_worse() {
    let whole = vec![None, Some("empty".to_owned())];
    let baseline = vec![Some("empty".to_owned())];
    assert_eq!(gone(&judged()), (vec![], false));
    // What never had a goal may go, and what is new may come.
    let mut after = judged();
    let mut told = after.figures.pop().unwrap();
    told.name = "new".to_owned();
    told.goals.push(Goal::at_most(1.0));
    after.figures.push(told);
    assert_eq!(gone(&after), (vec![], false));
    // The figure is not there, or has another name; or nothing was measured.
    let mut after = judged();
    after.figures.remove(0);
    assert_eq!(gone(&after), (whole.clone(), true));
    let mut after = judged();
    after.figures[0].name = "renamed".to_owned();
    assert_eq!(gone(&after), (whole.clone(), true));
    let mut after = judged();
    after.figures[0].samples.clear();
    assert_eq!(gone(&after), (whole.clone(), true));
    // The baseline is not there, was not measured, or has no goal any more.
    let mut after = judged();
    after.figures[0].against.clear();
    assert_eq!(gone(&after), (baseline.clone(), true));
    let mut after = judged();
    after.figures[0].against[0].samples.clear();
    assert_eq!(gone(&after), (baseline.clone(), true));
    let mut after = judged();
    after.figures[0].against[0].goal = None;
    assert_eq!(gone(&after), (baseline, true));
    // A goal of the median is kept by one of each sample, and not the other way round.
    let mut after = judged();
    after.figures[0].goals = vec![Goal::at_most(100.0).each()];
    assert_eq!(gone(&after), (vec![], false));
    assert!(!compare(&after, &after, Rules::default()).is_worse());
    assert!(compare(&after, &judged(), Rules::default()).is_worse());
    let mut after = judged();
    after.figures[0].goals.clear();
    assert_eq!(gone(&after), (vec![None], true));
}

#[test]
fn what_was_not_asked_for_is_not_missing() {
    let mut after = judged();
    after.only("--only", "");
    assert!(after.only.is_empty(), "the default restricts nothing");
    after.only("--only", "others");
    after.figures.clear();
    let said = compare(&judged(), &after, Rules::default());
    assert!(!said.is_worse() && said.changes.is_empty());
    assert_eq!(said.alone, ["xdp: ours (before)", "xdp: told (before)"]);
    assert_eq!(
        said.warnings,
        ["the second is only of a part: --only others"]
    );
    // Asked for in both runs, and not there under its name: that hides what became of its goals.
    let (mut before, mut after) = (judged(), judged());
    for run in [&mut before, &mut after] {
        run.only("--only", "xdp");
    }
    after.figures[0].name = "renamed".to_owned();
    assert!(compare(&before, &after, Rules::default()).is_worse());
    // It was asked for, and has lost its baseline.
    let mut after = judged();
    after.only("--only", "xdp");
    after.figures[0].against[0].samples.clear();
    assert_eq!(gone(&after), (vec![Some("empty".to_owned())], true));
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
    let third = dir.path().join("3.json");
    let mut without = judged();
    std::fs::write(&first, without.json()).unwrap();
    let few = dir.path().join("4.json");
    std::fs::write(&few, bare(Better::Less, &[50.0; 3]).json()).unwrap();
    assert_eq!(code(&few, &few), Some(3), "nobody knows");
    without.figures.remove(0);
    std::fs::write(&third, without.json()).unwrap();
    assert_eq!(code(&first, &third), Some(1));
    assert_eq!(code(&third, &first), Some(0), "what is new is a note");
    assert_eq!(code(&first, &dir.path().to_path_buf()), Some(2));
}
