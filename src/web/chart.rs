//! Charts drawn on the server, as SVG that a page carries, with the same figures as a table for
//! everybody. plotters does the drawing; it writes colours as presentation attributes, which the
//! policy allows and the stylesheet replaces by the theme's own (see "Charts" there).
//!
//! A page hands a [`Drawing`] to `partials/chart.html` under the name `chart`.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::clock::Timestamp;
use crate::i18n::Lang;

/// Coordinates are whole numbers: pictures are drawn this much larger, so that bars stay even.
const FINENESS: u32 = 4;

const GRID: RGBColor = RGBColor(0xdb, 0xe2, 0xdc);
const LABEL: RGBColor = RGBColor(0x54, 0x61, 0x5a);

/// Bars stand in this part of their column; the rest is the gap to the next.
const GAP: f64 = 0.14;
/// Of so few columns each is marked by a point; of a single one there would be nothing to see.
const FEW: usize = 7;

/// One picture's measures. Each chart is drawn twice, since text that is scaled down with a wide
/// picture cannot be read on a telephone; the stylesheet shows the one that fits.
struct Size {
    width: u32,
    height: u32,
    /// The largest that the stylesheet asks for at this size.
    font: u32,
    /// How many columns are named at most.
    labels: usize,
}

const WIDE: Size = Size {
    width: 760,
    height: 230,
    font: 17,
    labels: 7,
};
const NARROW: Size = Size {
    width: 300,
    height: 190,
    font: 13,
    labels: 4,
};

/// How values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Counts of something: series stand on each other, and their totals are told.
    Bars,
    /// A measure that goes up and down.
    Lines,
}

/// What a series means, which settles its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Main,
    Bad,
    Quiet,
}

impl Tone {
    /// The name in the stylesheet.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }

    /// The light theme's colour, by which the stylesheet finds what to repaint.
    const fn colour(self) -> RGBColor {
        match self {
            Self::Main => RGBColor(0x1b, 0x6b, 0x4d),
            Self::Bad => RGBColor(0xa1, 0x2a, 0x1c),
            Self::Quiet => RGBColor(0x7d, 0x8a, 0x83),
        }
    }
}

/// One place on the axis, a day for instance.
#[derive(Clone, Debug)]
pub struct Column {
    /// Below the axis: short, "21 Nov".
    pub label: String,
    /// In the table: "21 November 2026".
    pub exact: String,
}

impl Column {
    /// A day.
    pub fn of_day(day: Timestamp, lang: Lang) -> Self {
        Self {
            label: lang.short_day(day),
            exact: lang.day(day),
        }
    }
}

/// One to three of these make a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub tone: Tone,
    /// One for each column; what is missing, negative or no number is drawn and told as 0.
    pub values: Vec<f64>,
}

/// What is to be drawn.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub shape: Shape,
    /// What the columns are: "Day".
    pub axis: String,
    pub columns: Vec<Column>,
    pub series: Vec<Series>,
    /// Written after every figure ("ms"); empty for counts.
    pub unit: &'static str,
}

/// A chart that has been drawn: everything that `partials/chart.html` shows.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub title: String,
    pub axis: String,
    /// Nothing but zeros is no picture: a sentence stands there instead.
    pub empty: Option<String>,
    pub wide: String,
    pub narrow: String,
    /// What the picture is called where it cannot be seen.
    pub spoken: String,
    pub legend: Vec<Entry>,
    pub as_table: String,
    pub rows: Vec<Row>,
}

/// A series in the legend.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub tone: &'static str,
    /// The sum, where there is sense in one.
    pub total: Option<String>,
}

/// A column of the chart is a row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub exact: String,
    pub figures: Vec<String>,
}

impl Chart {
    /// Draws it, with numbers as `lang` writes them.
    pub fn draw(&self, lang: Lang) -> Drawing {
        let figure = |value: f64| self.figure(value, lang);
        let legend: Vec<Entry> = self
            .series
            .iter()
            .map(|one| self.entry(one, lang))
            .collect();
        let told = legend.iter().map(|entry| match &entry.total {
            Some(total) => format!("{}: {total}", entry.name),
            None => entry.name.clone(),
        });
        let rows = self.columns.iter().enumerate().map(|(at, column)| Row {
            exact: column.exact.clone(),
            figures: self.series.iter().map(|one| figure(one.at(at))).collect(),
        });
        let is_empty = self.highest() <= 0.0;
        let picture = |size| match is_empty {
            true => String::new(),
            false => self.picture(size, lang),
        };
        Drawing {
            title: self.title.clone(),
            axis: self.axis.clone(),
            empty: is_empty.then(|| lang.text("chart.empty").into_owned()),
            wide: picture(&WIDE),
            narrow: picture(&NARROW),
            spoken: format!("{}. {}.", self.title, told.collect::<Vec<_>>().join(", ")),
            as_table: lang.text("chart.as_table").into_owned(),
            rows: rows.collect(),
            legend,
        }
    }

    fn entry(&self, series: &Series, lang: Lang) -> Entry {
        let sum = || (0..self.columns.len()).map(|at| series.at(at)).sum();
        Entry {
            name: series.name.clone(),
            tone: series.tone.name(),
            total: (self.shape == Shape::Bars).then(|| self.figure(sum(), lang)),
        }
    }

    fn figure(&self, value: f64, lang: Lang) -> String {
        let number = lang.number(value);
        match self.unit {
            "" => number,
            unit => format!("{number} {unit}"),
        }
    }

    fn highest(&self) -> f64 {
        let columns = 0..self.columns.len();
        let height = |at| {
            let values = self.series.iter().map(|one| one.at(at));
            match self.shape {
                Shape::Bars => values.sum(),
                Shape::Lines => values.fold(0.0, f64::max),
            }
        };
        columns.map(height).fold(0.0, f64::max)
    }

    fn is_whole(&self) -> bool {
        let mut values = self.series.iter().flat_map(|one| &one.values);
        values.all(|value| value.fract() == 0.0)
    }

    fn picture(&self, size: &Size, lang: Lang) -> String {
        let mut svg = String::new();
        // Only writing to a file fails; the figures are in the table all the same.
        if let Err(error) = self.paint(&mut svg, size, lang) {
            tracing::error!(%error, "a chart was not drawn");
        }
        svg
    }

    fn paint(
        &self,
        svg: &mut String,
        size: &Size,
        lang: Lang,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let ticks = ticks(self.highest(), self.is_whole());
        let top = ticks.last().copied().unwrap_or(1.0);
        let labels = ticks.iter().map(|tick| self.figure(*tick, lang));
        let longest = labels.map(|label| label.chars().count()).max();
        let margin = u32::try_from(longest.unwrap_or(1))? * size.font * 5 / 8 + 10;
        let named: Vec<f64> = named(self.columns.len(), size.labels)
            .map(|at| at as f64 + 0.5)
            .collect();
        let label = (
            "sans-serif",
            // The library writes the size in points of its own.
            f64::from(size.font * FINENESS) * 1.24,
            &LABEL,
        );

        let dimensions = (size.width * FINENESS, size.height * FINENESS);
        let area = SVGBackend::with_string(svg, dimensions).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(size.font * FINENESS)
            .margin_right(size.font * FINENESS * 3 / 2)
            .x_label_area_size(size.font * FINENESS * 2)
            .y_label_area_size(margin * FINENESS)
            .build_cartesian_2d(
                Axis::new(self.columns.len() as f64, named),
                Axis::new(top, ticks),
            )?;
        let name = |at: &f64| {
            let column = self.columns.get(at.floor() as usize);
            column.map_or_else(String::new, |column| column.label.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(FINENESS))
            .axis_style(TRANSPARENT)
            // Unseen; they keep the labels off the bars.
            .set_tick_mark_size(LabelAreaPosition::Bottom, size.font * FINENESS / 2)
            .x_label_style(label)
            .y_label_style(label)
            .x_label_formatter(&name)
            .y_label_formatter(&|tick| self.figure(*tick, lang))
            .draw()?;
        match self.shape {
            Shape::Bars => {
                chart.draw_series(self.bars())?;
            }
            Shape::Lines => {
                for one in &self.series {
                    let style = one.tone.colour().stroke_width(FINENESS * 2);
                    let points = (0..self.columns.len()).map(|at| (at as f64 + 0.5, one.at(at)));
                    chart.draw_series(LineSeries::new(points.clone(), style))?;
                    if self.columns.len() <= FEW {
                        let filled = one.tone.colour().filled();
                        let point = |at| Circle::new(at, FINENESS * 4, filled);
                        chart.draw_series(points.map(point))?;
                    }
                }
            }
        }
        area.present()?;
        Ok(())
    }

    fn bars(&self) -> impl Iterator<Item = Rectangle<(f64, f64)>> {
        (0..self.columns.len()).flat_map(move |at| {
            let (left, right) = (at as f64 + GAP, at as f64 + 1.0 - GAP);
            let mut ground = 0.0;
            self.series.iter().filter_map(move |one| {
                let value = one.at(at);
                let bottom = ground;
                ground += value;
                (value > 0.0).then(|| {
                    let corners = [(left, ground), (right, bottom)];
                    Rectangle::new(corners, one.tone.colour().filled())
                })
            })
        })
    }
}

impl Series {
    fn at(&self, column: usize) -> f64 {
        let value = self.values.get(column).copied().unwrap_or(0.0);
        if value.is_finite() {
            value.max(0.0)
        } else {
            0.0
        }
    }
}

/// From 0 to an end, marked where we say. (The library's own combinator for this cannot be labelled.)
struct Axis {
    range: RangedCoordf64,
    marks: Vec<f64>,
}

impl Axis {
    fn new(end: f64, marks: Vec<f64>) -> Self {
        let range = (0.0..end).into();
        Self { range, marks }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.range()
    }
}

/// Round marks from 0 to no less than `highest`, at most five steps; whole ones for counts.
fn ticks(highest: f64, whole: bool) -> Vec<f64> {
    let least = highest.max(f64::MIN_POSITIVE) / 4.0;
    let magnitude = 10f64.powf(least.log10().floor());
    let rounds = [1.0, 2.0, 5.0, 10.0].map(|round| round * magnitude);
    let step = rounds.into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(least);
    let step = if whole { step.max(1.0) } else { step };
    let count = (highest / step).ceil().clamp(1.0, 5.0) as u32;
    (0..=count).map(|at| f64::from(at) * step).collect()
}

/// Which of `columns` are named: evenly, `most` at most, and always the last, which is now.
fn named(columns: usize, most: usize) -> impl Iterator<Item = usize> {
    let step = columns.div_ceil(most).max(1);
    (0..columns).rev().step_by(step)
}

#[cfg(test)]
mod tests {
    use askama::Template;

    use super::*;

    #[derive(Template)]
    #[template(path = "partials/chart.html")]
    struct Partial {
        chart: Drawing,
    }

    fn series(name: &str, tone: Tone, values: &[f64]) -> Series {
        Series {
            name: name.to_owned(),
            tone,
            values: values.to_vec(),
        }
    }

    fn chart(shape: Shape, days: usize, series: Vec<Series>) -> Chart {
        let column = |day| Column {
            label: format!("{day} <Nov>"),
            exact: format!("{day} November 2026"),
        };
        Chart {
            title: "Logins & failures".to_owned(),
            shape,
            axis: "Day".to_owned(),
            columns: (1..=days).map(column).collect(),
            series,
            unit: "",
        }
    }

    fn html(chart: &Chart) -> String {
        let chart = chart.draw(Lang::English);
        Partial { chart }.render().unwrap()
    }

    #[test]
    fn a_chart_obeys_the_content_security_policy_and_escapes_what_it_names() {
        for shape in [Shape::Bars, Shape::Lines] {
            let html = html(&chart(
                shape,
                30,
                vec![series("Logged <in>", Tone::Main, &[3.0; 30])],
            ));
            assert!(html.contains("<svg"));
            assert!(!html.contains("style"), "{html}");
            assert!(!html.contains("<script"));
            assert!(!html.contains("<in>") && !html.contains("<Nov>"), "{html}");
        }
    }

    #[test]
    fn every_value_above_zero_is_a_bar_and_series_stand_on_each_other() {
        let drawing = chart(
            Shape::Bars,
            3,
            vec![
                series("Logins", Tone::Main, &[2.0, 0.0, 1.0]),
                series("Failures", Tone::Bad, &[2.0, 0.0, 0.0]),
            ],
        )
        .draw(Lang::English);
        for svg in [&drawing.wide, &drawing.narrow] {
            let bars: Vec<_> = svg
                .lines()
                .filter(|line| line.starts_with("<rect"))
                .collect();
            assert_eq!(bars.len(), 3, "{svg}");
            let number = |bar: &str, name: &str| -> i32 {
                let (_, rest) = bar.split_once(&format!(" {name}=\"")).unwrap();
                rest.split('"').next().unwrap().parse().unwrap()
            };
            let (logins, failures) = (bars[0], bars[1]);
            assert!(logins.contains("#1B6B4D") && failures.contains("#A12A1C"));
            assert_eq!(number(logins, "x"), number(failures, "x"));
            let foot = number(failures, "y") + number(failures, "height");
            assert_eq!(foot, number(logins, "y"));
        }
        assert_eq!(drawing.spoken, "Logins & failures. Logins: 3, Failures: 2.");
    }

    #[test]
    fn the_table_holds_the_same_figures_and_is_marked_up_as_one() {
        let html = html(&chart(
            Shape::Bars,
            2,
            vec![
                series("Logins", Tone::Main, &[1234.0, 5.0]),
                series("Failures", Tone::Bad, &[7.0, f64::NAN]),
            ],
        ));
        let flat: String = html.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat.contains("<caption>Logins &#38; failures</caption>"),
            "{flat}"
        );
        for head in ["Day", "Logins", "Failures"] {
            assert!(
                flat.contains(&format!("<th scope=\"col\">{head}</th>")),
                "{flat}"
            );
        }
        assert!(
            flat.contains(
                "<tr><th scope=\"row\">1 November 2026</th><td>1,234</td><td>7</td></tr>"
            ),
            "{flat}"
        );
        assert!(
            flat.contains("<tr><th scope=\"row\">2 November 2026</th><td>5</td><td>0</td></tr>"),
            "{flat}"
        );
        assert!(flat.contains(
            "role=\"img\" aria-label=\"Logins &#38; failures. Logins: 1,239, Failures: 7.\""
        ));
    }

    #[test]
    fn nothing_but_zeros_is_a_sentence() {
        for values in [&[0.0, 0.0][..], &[]] {
            let chart = chart(
                Shape::Bars,
                values.len(),
                vec![series("Logins", Tone::Main, values)],
            );
            let html = html(&chart);
            assert!(
                !html.contains("role=\"img\"") && !html.contains("<table"),
                "{html}"
            );
            assert!(html.contains(&*Lang::English.text("chart.empty")), "{html}");
        }
    }

    #[test]
    fn a_line_of_a_single_day_can_be_seen() {
        let line = |values: &[f64]| {
            let series = vec![series("Success", Tone::Main, values)];
            html(&chart(Shape::Lines, values.len(), series))
        };
        assert_eq!(
            line(&[99.0]).matches("<circle").count(),
            2,
            "wide and narrow"
        );
        assert_eq!(line(&[99.0, 98.0]).matches("<circle").count(), 4);
        assert!(!line(&[99.0; 30]).contains("<circle"));
    }

    #[test]
    fn marks_are_round_whole_for_counts_and_few() {
        assert_eq!(ticks(1.0, true), [0.0, 1.0]);
        assert_eq!(ticks(3.0, true), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(ticks(17.0, true), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(ticks(0.8, false), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8]);
        for highest in [1.0, 2.0, 9.0, 11.0, 99.0, 101.0, 12_345.0, 1e12] {
            let ticks = ticks(highest, true);
            assert!(
                ticks.len() <= 6 && ticks.last() >= Some(&highest),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn few_columns_are_named_and_the_last_always() {
        for columns in [1, 2, 7, 8, 30, 31, 365] {
            let named: Vec<_> = named(columns, 7).collect();
            assert_eq!(named.first(), Some(&(columns - 1)));
            assert!(named.len() <= 7, "{columns}: {named:?}");
        }
    }
}
