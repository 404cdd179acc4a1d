//! A part's figures as a picture: one row each, with medians, ranges, baselines and goals.

use std::error::Error;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figure::Figure;
use crate::goal::Relative;
use crate::stats::{median, range};
use crate::table::number;

/// What stands for a colour until the page's style gives it its own, light or dark.
pub(crate) const INK: RGBColor = RGBColor(1, 0, 0);
pub(crate) const GRID: RGBColor = RGBColor(2, 0, 0);
pub(crate) const GOAL: RGBColor = RGBColor(3, 0, 0);
/// The figure's, then the baselines' in the order in which the run names them.
pub(crate) const SERIES: [RGBColor; 7] = [
    RGBColor(4, 0, 0),
    RGBColor(5, 0, 0),
    RGBColor(6, 0, 0),
    RGBColor(7, 0, 0),
    RGBColor(8, 0, 0),
    RGBColor(9, 0, 0),
    RGBColor(10, 0, 0),
];

const WIDTH: u32 = 960;
/// Height of a row, and of what stands around all of them, pixels.
const ROW: u32 = 34;
const AROUND: u32 = 48;
/// Room for names, and pixels that a letter takes of it at most.
const NAMES: u32 = 300;
const LETTER: u32 = 7;
/// From this ratio of the largest to the smallest value on, the axis is logarithmic.
const WIDE: f64 = 30.0;

/// A colour as SVG has it.
pub(crate) fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// The colour of a baseline.
pub(crate) fn series(baselines: &[&str], name: &str) -> RGBColor {
    let at = baselines.iter().position(|one| *one == name);
    let at = at.unwrap_or(0) % (SERIES.len() - 1);
    SERIES[at + 1]
}

/// The picture of figures of one unit, as an SVG element.
pub(crate) fn svg(
    figures: &[&Figure],
    unit: &str,
    baselines: &[&str],
) -> Result<String, Box<dyn Error>> {
    let values: Vec<f64> = figures.iter().flat_map(|figure| points(figure)).collect();
    let (least, most) = range(&values);
    if least > 0.0 && most / least > WIDE {
        let axis = (least / 1.3..most * 1.3).log_scale();
        draw(figures, unit, baselines, axis)
    } else {
        let from = least.min(0.0);
        let room = (most - from).max(f64::MIN_POSITIVE) * 0.05;
        let axis = from..if most == from {
            from + 1.0
        } else {
            most + room
        };
        draw(figures, unit, baselines, axis)
    }
}

/// All values that a figure's row has.
fn points(figure: &Figure) -> Vec<f64> {
    let beside = figure.against.iter().flat_map(|one| one.samples.iter());
    let own = figure.samples.iter().chain(beside).copied();
    own.chain(goals(figure)).collect()
}

/// Where the goals lie, in the figure's unit.
fn goals(figure: &Figure) -> Vec<f64> {
    let own = figure.goals.iter().map(|goal| goal.value);
    let beside = figure.against.iter().filter_map(|one| {
        if one.samples.is_empty() {
            return None;
        }
        let baseline = median(&one.samples);
        Some(match one.goal.as_ref()? {
            Relative::Over { value } => baseline + value,
            Relative::Ratio { value, .. } => baseline * value,
        })
    });
    own.chain(beside).collect()
}

fn draw<X>(
    figures: &[&Figure],
    unit: &str,
    baselines: &[&str],
    axis: impl AsRangedCoord<Value = f64, CoordDescType = X>,
) -> Result<String, Box<dyn Error>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let count = u32::try_from(figures.len())?;
    let mut text = String::new();
    {
        let size = (WIDTH, ROW * count + AROUND);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_right(24)
            .margin_top(6)
            .x_label_area_size(AROUND - 6)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(axis, 0.0..f64::from(count))?;
        let small = ("sans-serif", 12).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(small.clone())
            .x_desc(unit)
            .x_label_formatter(&|value| number(*value))
            .draw()?;
        let label = small.pos(Pos::new(HPos::Right, VPos::Center));
        for (nth, figure) in (0..count).zip(figures) {
            let top = f64::from(count - nth);
            let mut lines = vec![(SERIES[0], figure.samples.as_slice())];
            for one in figure.against.iter().filter(|one| !one.samples.is_empty()) {
                lines.push((series(baselines, &one.baseline), &one.samples));
            }
            let step = 1.0 / (lines.len() + 1) as f64;
            let at = |line: usize| top - step * (line + 1) as f64;
            for (line, (color, samples)) in lines.iter().enumerate() {
                let (least, most) = range(samples);
                let ends = [(least, at(line)), (most, at(line))];
                chart.draw_series([PathElement::new(ends, color.stroke_width(3))])?;
                let middle = (median(samples), at(line));
                chart.draw_series([Circle::new(middle, 4, color.filled())])?;
            }
            for goal in goals(figure) {
                let ends = [(goal, top - 0.12), (goal, top - 0.88)];
                chart.draw_series([PathElement::new(ends, GOAL.stroke_width(2))])?;
            }
            let (_, y) = chart.backend_coord(&(median(&figure.samples), top - 0.5));
            let most = (NAMES / LETTER) as usize;
            let name: String = if figure.name.chars().count() > most {
                figure.name.chars().take(most - 1).chain(['…']).collect()
            } else {
                figure.name.clone()
            };
            let x = i32::try_from(NAMES)? - 10;
            area.draw(&Text::new(name, (x, y), label.clone()))?;
        }
        area.present()?;
    }
    Ok(text)
}
