//! Reading the gets of a trace from a CSV file.

use std::fs::File;
use std::io::{BufReader, Read};
use std::time::Duration;

use super::super::error::{PlanError, Problem, shorten};
use super::super::section::{Field, TIME_MAX};
use super::super::tree::Place;
use super::super::units::Quantity;
use super::super::{BlobSet, BlobSetId, TRACE_BYTES_MAX, TRACE_ROWS_MAX, TracedGet};
use super::names::Names;

const COLUMNS: [&str; 4] = ["at", "node", "blobs", "blob"];

/// Is what rows may name.
pub(super) struct Known<'a> {
    pub(super) nodes: usize,
    pub(super) names: &'a Names,
    pub(super) blobs: &'a [BlobSet],
}

/// Reads a trace; its gets come in the order of time, those of one moment in the order of the file.
pub(super) fn read(field: &Field<'_>, known: &Known<'_>) -> Result<Vec<TracedGet>, PlanError> {
    let path = field.node.place.directory().join(field.text()?);
    let name = path.display().to_string();
    let unreadable = |error: &std::io::Error| {
        field.fail(Problem::Unreadable(format!("`{}`: {error}", shorten(&name))))
    };
    let file = File::open(&path).map_err(|error| unreadable(&error))?;
    let length = file.metadata().map_err(|error| unreadable(&error))?.len();
    if length > TRACE_BYTES_MAX {
        return Err(field.fail(Problem::TooLarge(TRACE_BYTES_MAX)));
    }
    let whole = Place::whole(&name, field.node.place.directory());
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(BufReader::new(file.take(TRACE_BYTES_MAX)));
    let bad = |error: &csv::Error| {
        let line = error.position().map_or(0, csv::Position::line);
        let place = whole.at_line(usize::try_from(line).unwrap_or(0));
        PlanError::new(&place, "", Problem::Other(format!("is no CSV: {error}")))
    };
    let header = reader.headers().map_err(|error| bad(&error))?;
    if header != COLUMNS.as_slice() {
        let found = header.iter().collect::<Vec<_>>().join(",");
        let problem = format!("the header is `{}`, not `{}`", shorten(&found), COLUMNS.join(","));
        return Err(PlanError::new(&whole.at_line(1), "", Problem::Other(problem)));
    }
    let mut gets = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| bad(&error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let place = whole.at_line(usize::try_from(line).unwrap_or(0));
        if gets.len() == TRACE_ROWS_MAX {
            let (count, most) = (TRACE_ROWS_MAX as u128 + 1, TRACE_ROWS_MAX as u128);
            return Err(PlanError::new(&place, "", Problem::TooMany { what: "gets", count, most }));
        }
        gets.push(row(&record, &place, known)?);
    }
    gets.sort_by_key(|get: &TracedGet| get.at);
    Ok(gets)
}

fn row(
    record: &csv::StringRecord,
    place: &Place,
    known: &Known<'_>,
) -> Result<TracedGet, PlanError> {
    let fail = |column| move |problem| PlanError::new(place, column, problem);
    let [at_text, node, blobs, blob] = [0, 1, 2, 3].map(|index| record.get(index).unwrap_or(""));
    let at = Duration::from_nanos(Quantity::Time.parse(at_text).map_err(fail("at"))?);
    if at > TIME_MAX {
        return Err(fail("at")(Problem::out_of_bounds(shorten(at_text), "up to 366d")));
    }
    let node = number(node, known.nodes).map_err(fail("node"))?;
    let set = known.names.find(blobs).map_err(fail("blobs"))?;
    let count = known.blobs.get(set).map_or(0, |set| set.count);
    let blob = number(blob, count).map_err(fail("blob"))?;
    Ok(TracedGet { at, node, blobs: BlobSetId(set), blob })
}

/// Reads a number below a count.
fn number(text: &str, count: usize) -> Result<usize, Problem> {
    let read = text.parse().ok().filter(|number| *number < count);
    read.ok_or_else(|| {
        Problem::out_of_bounds(
            format!("`{}`", shorten(text)),
            format!("a number from 0 to below {count}"),
        )
    })
}
