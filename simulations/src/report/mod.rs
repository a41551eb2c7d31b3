//! The page that people look at: `report.html`, and each of its pictures as a file.
//!
//! The page is one file without scripts and without anything from elsewhere, and says so in its
//! content security policy. It is made from a directory of results alone, so it can be made again.
//! All that grows with a run is bounded here by name: curves by points, strips by cells, tables by
//! rows, so that a run of a million gets has a page as small as one of a thousand.

mod chart;
mod envelope;
mod format;
mod markup;
mod page;
mod plots;
mod tables;
mod value;

pub use envelope::{Envelope, MeasuredError, Range, ReplayedRun};

use crate::outcome::Outcome;
use crate::output::{Error, Kind, Record, file, write_file};
use chart::Chart;

pub(crate) use chart::{Caption, picture};
pub(crate) use format::{Unit, rounded};
pub(crate) use markup::{Markup, Path, Px, shortened};
pub(crate) use plots::{fetch_times, finish_times};

/// The colours and the style of pictures, for pages and pictures on their own.
const PALETTE: &str = include_str!("palette.css");

/// Is a page and its pictures.
#[derive(Clone, Debug)]
pub struct Report {
    /// The page.
    pub html: String,
    /// The pictures: file name and SVG.
    pub pictures: Vec<(String, String)>,
}

/// Writes the page and the pictures of a directory of results into it.
///
/// # Errors
/// Those of reading the results and of writing.
pub fn write(path: &std::path::Path, envelope: Option<&Envelope>) -> Result<(), Error> {
    let record = Record::open(path)?;
    let report = match (record.manifest.kind, record.manifest.runs.first()) {
        (Kind::Run, Some(run)) => render(&record, record.outcome(run)?.as_ref(), envelope),
        (Kind::Run | Kind::Sweep, _) => render(&record, None, envelope),
    };
    for (name, svg) in &report.pictures {
        write_file(&path.join(name), svg.as_bytes())?;
    }
    write_file(&path.join(file::REPORT), report.html.as_bytes())
}

/// Makes the page; `outcome` is the rows of a run, where they were kept.
pub fn render(record: &Record, outcome: Option<&Outcome>, envelope: Option<&Envelope>) -> Report {
    let charts = match record.manifest.kind {
        Kind::Run => outcome.map(charts_of_run).unwrap_or_default(),
        Kind::Sweep => plots::sweep::charts(record),
    };
    let html = page::page(record, &charts, envelope);
    let pictures = charts.iter().map(|chart| (format!("{}.svg", chart.name), chart.standalone()));
    Report { html, pictures: pictures.collect() }
}

fn charts_of_run(outcome: &Outcome) -> Vec<Chart> {
    let charts = [
        plots::cdf::finish(outcome),
        plots::cdf::fetch(&outcome.fetches),
        plots::times::bytes_by_tier(&outcome.series),
        plots::heat::finish(outcome),
        plots::heat::edge(outcome),
        plots::times::gets_open(&outcome.series),
        plots::times::nodes_up(&outcome.series),
    ];
    charts.into_iter().flatten().collect()
}
