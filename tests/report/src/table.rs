//! A run as a table in Markdown, which `docs/` can take as it stands.

use std::fmt::Write;

use crate::figure::{Against, Figure};
use crate::goal::Verdict;
use crate::run::Run;
use crate::stats::{median, range};

/// One line of the table: a figure by itself, or beside one baseline.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) is: String,
    pub(crate) spread: String,
    pub(crate) baseline: String,
    pub(crate) ratio: String,
    pub(crate) goal: String,
    pub(crate) verdict: Option<Verdict>,
}

/// A number with as many digits as say something, and a dash for none.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        0.0 => 0,
        size if size < 0.1 => 4,
        size if size < 10.0 => 2,
        size if size < 1_000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    match text.split_once('.') {
        Some((whole, part)) if part.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    }
}

fn measured(samples: &[f64], unit: &str) -> String {
    if samples.is_empty() {
        return "not measured".to_owned();
    }
    format!("{} {unit}", number(median(samples)))
        .trim_end()
        .to_owned()
}

fn spread(samples: &[f64]) -> String {
    let (least, most) = range(samples);
    match samples.len() {
        0 | 1 => String::new(),
        _ if least == most => number(least),
        _ => format!("{} to {}", number(least), number(most)),
    }
}

/// All rows of a figure: one for each baseline and each goal, one at least.
pub(crate) fn rows(figure: &Figure) -> Vec<Row> {
    let empty = || Row {
        name: figure.name.clone(),
        is: measured(&figure.samples, &figure.unit),
        spread: spread(&figure.samples),
        baseline: String::new(),
        ratio: String::new(),
        goal: String::new(),
        verdict: None,
    };
    let own = figure.goals.iter().map(|goal| Row {
        goal: goal.to_string(),
        verdict: Some(goal.verdict(&figure.samples)),
        ..empty()
    });
    let beside = figure.against.iter().map(|against| Row {
        baseline: format!(
            "{}: {}",
            against.baseline,
            measured(&against.samples, &figure.unit)
        ),
        ratio: ratio(figure, against),
        goal: against
            .goal
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        verdict: against.verdict(figure),
        ..empty()
    });
    let mut rows: Vec<Row> = own.chain(beside).collect();
    if rows.is_empty() {
        rows.push(empty());
    }
    for row in rows.iter_mut().skip(1) {
        row.is.clear();
        row.spread.clear();
    }
    rows
}

fn ratio(figure: &Figure, against: &Against) -> String {
    let over = against.over(figure);
    if over.is_nan() {
        return String::new();
    }
    let sign = if over < 0.0 { '−' } else { '+' };
    let over = format!("{sign}{}", number(over.abs()));
    match against.ratio(figure) {
        Some(ratio) => format!("{ratio:.2}× ({over})"),
        None => over,
    }
}

/// What a goal's verdict is called.
pub(crate) fn called(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "",
        Some(Verdict::Met) => "met",
        Some(Verdict::Missed) => "missed",
        Some(Verdict::NotMeasured) => "not measured",
    }
}

/// What the run ran on, in one line.
pub(crate) fn machine(run: &Run) -> String {
    let machine = &run.machine;
    let build = if machine.release {
        "release"
    } else {
        "not a release build"
    };
    format!(
        "{} × {}, {} MiB, Linux {}, {}, commit {}, {build}, load {} when it began, {}",
        machine.cores,
        machine.cpu,
        machine.memory_mib,
        machine.kernel,
        machine.rustc,
        machine.commit,
        machine.load,
        run.at,
    )
}

/// The parts of a run, in the order in which they came.
pub(crate) fn parts(run: &Run) -> Vec<(&str, Vec<&Figure>)> {
    let mut parts: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in &run.figures {
        match parts.iter_mut().find(|(name, _)| *name == figure.part) {
            Some((_, figures)) => figures.push(figure),
            None => parts.push((&figure.part, vec![figure])),
        }
    }
    parts
}

/// The whole table.
pub(crate) fn table(run: &Run) -> String {
    let mut text = format!("{}\n", machine(run));
    for baseline in &run.baselines {
        writeln!(text, "- {}: {}", baseline.name, baseline.version).expect("memory");
    }
    for (part, figures) in parts(run) {
        writeln!(
            text,
            "\n| {part} | median | range | beside | ratio | goal | |\n|---|---:|---|---|---|---|---|"
        )
        .expect("memory");
        for row in figures.into_iter().flat_map(rows) {
            let bold = match row.verdict {
                Some(Verdict::Missed | Verdict::NotMeasured) => "**",
                _ => "",
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {bold}{}{bold} |",
                row.name,
                row.is,
                row.spread,
                row.baseline,
                row.ratio,
                row.goal,
                called(row.verdict)
            )
            .expect("memory");
        }
    }
    for note in &run.notes {
        writeln!(text, "\n{note}").expect("memory");
    }
    for one in &run.only {
        writeln!(text, "\nOnly a part was measured: {one}.").expect("memory");
    }
    let goals = run.goals();
    writeln!(text, "\n{goals}").expect("memory");
    for one in &goals.not_measured {
        writeln!(text, "- {one}").expect("memory");
    }
    text
}
