//! A run as a page that needs nothing else: no script, no font, no network.

use std::fmt::Write;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::figure::Figure;
use crate::goal::Verdict;
use crate::plot;
use crate::run::Run;
use crate::table::{called, machine, parts, rows};

/// Colours of ink, grid, goals and series, in the order of [`plot`], by daylight and at night; the
/// series' are Okabe and Ito's, which nearly everyone tells apart, a shade darker by daylight.
const LIGHT: [&str; 10] = [
    "#1b1b1f", "#d5d5dc", "#b00020", "#0072b2", "#b26b00", "#00795a", "#a8528a", "#5a5a66",
    "#a34a00", "#2f7fb0",
];
const DARK: [&str; 10] = [
    "#e8e8ee", "#3c3c46", "#ff6b7d", "#56b4e9", "#e69f00", "#2fc79b", "#dc94c0", "#a5a5b2",
    "#f07f3c", "#8ccbf2",
];

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem;
  color: var(--c0); background: var(--page) }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
p.machine { opacity: .85 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--c1);
  vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap }
.met { color: var(--c5) } .missed { color: var(--c2); font-weight: 700 }
.key { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; list-style: none }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 50%; margin-right: .4rem }
svg { width: 100%; height: auto; display: block }
";

/// The style, with the page's colours in place of what the plots have for them.
fn style() -> String {
    let mut text = String::new();
    let mut colors = |at: &str, page: &str, colors: [&str; 10]| {
        write!(text, "{at}:root {{ --page: {page};").expect("memory");
        for (nth, color) in colors.iter().enumerate() {
            write!(text, " --c{nth}: {color};").expect("memory");
        }
        text.push_str(" }");
        if !at.is_empty() {
            text.push('}');
        }
        text.push('\n');
    };
    colors("", "#ffffff", LIGHT);
    colors("@media (prefers-color-scheme: dark) {", "#17171b", DARK);
    let marks = [plot::INK, plot::GRID, plot::GOAL]
        .into_iter()
        .chain(plot::SERIES);
    for (nth, mark) in marks.enumerate() {
        let mark = plot::hex(mark);
        writeln!(
            text,
            "svg [fill=\"{mark}\"] {{ fill: var(--c{nth}) }} svg [stroke=\"{mark}\"] {{ stroke: \
             var(--c{nth}) }}"
        )
        .expect("memory");
    }
    text + STYLE
}

/// The page.
pub(crate) fn page(run: &Run) -> String {
    let goals = run.goals();
    let title = format!("Totoro: bench {}", run.suite);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(style())) }
            }
            body {
                h1 { (title) }
                p { (goals) }
                @if !goals.not_measured.is_empty() {
                    ul.missed { @for one in &goals.not_measured { li { (one) } } }
                }
                @for one in &run.only { p { "Only a part was measured: " code { (one) } "." } }
                p.machine { (machine(run)) }
                @if !run.baselines.is_empty() {
                    h2 { "Measured against" }
                    ul {
                        @for one in &run.baselines { li { b { (one.name) } ": " (one.version) } }
                    }
                }
                @if !run.notes.is_empty() {
                    h2 { "How" }
                    @for note in &run.notes { p { (note) } }
                }
                @for (name, figures) in parts(run) { (part(run, name, &figures)) }
            }
        }
    }
    .into_string()
}

/// One part: pictures, a unit each, and the table.
fn part(run: &Run, name: &str, figures: &[&Figure]) -> Markup {
    let baselines: Vec<&str> = run.baselines.iter().map(|one| one.name.as_str()).collect();
    let used = baselines.iter().filter(|name| {
        let mut against = figures.iter().flat_map(|figure| &figure.against);
        against.any(|one| one.baseline == **name)
    });
    let mut units: Vec<&str> = Vec::new();
    for figure in figures {
        if !units.contains(&figure.unit.as_str()) {
            units.push(&figure.unit);
        }
    }
    html! {
        section {
            h2 { (name) }
            ul.key {
                li { (dot(plot::SERIES[0])) "what is measured: median and range" }
                @for name in used { li { (dot(plot::series(&baselines, name))) (name) } }
                @if figures.iter().any(|figure| figure.verdicts().next().is_some()) {
                    li { (dot(plot::GOAL)) "goal" }
                }
            }
            @for unit in units { (picture(figures, unit, &baselines)) }
            div.wide { (table(figures)) }
        }
    }
}

fn picture(figures: &[&Figure], unit: &str, baselines: &[&str]) -> Markup {
    let of: Vec<&Figure> = figures
        .iter()
        .copied()
        .filter(|one| one.unit == unit && !one.samples.is_empty())
        .collect();
    if of.is_empty() {
        return html! { p { "No picture: nothing was measured." } };
    }
    html! {
        @match plot::svg(&of, unit, baselines) {
            Ok(svg) => (PreEscaped(svg)),
            Err(error) => p { "No picture: " (error) },
        }
    }
}

fn dot(color: plotters::style::RGBColor) -> Markup {
    let nth = usize::from(color.0) - 1;
    html! { i style=(format!("background: var(--c{nth})")) {} }
}

fn table(figures: &[&Figure]) -> Markup {
    html! {
        table {
            tr {
                th { "what" }
                @for head in ["median", "range"] { th.number { (head) } }
                th { "beside" }
                @for head in ["ratio", "goal"] { th.number { (head) } }
                th {}
            }
            @for (nth, row) in figures.iter().flat_map(|one| rows(one).into_iter().enumerate()) {
                tr {
                    td { @if nth == 0 { (row.name) } }
                    td.number { (row.is) }
                    td.number { (row.spread) }
                    td { (row.baseline) }
                    td.number { (row.ratio) }
                    td.number { (row.goal) }
                    td { @match row.verdict {
                        Some(Verdict::Met) => span.met { "✓ " (called(row.verdict)) },
                        Some(_) => span.missed { "✗ " (called(row.verdict)) },
                        None => {},
                    } }
                }
            }
        }
    }
}
