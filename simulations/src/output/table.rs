//! CSV files of rows.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use super::error::Error;
use super::rows::{Fields, Row};

/// The largest file that is read: ten million gets take about as much.
pub(super) const FILE_BYTES_MAX: u64 = 2 << 30;

/// Writes a file with a header and these rows.
pub(super) fn write<R: Row>(path: &Path, rows: &[R]) -> Result<(), Error> {
    let records = rows.iter().map(|row| {
        let mut record = csv::StringRecord::new();
        row.write(&mut record);
        record
    });
    write_records(path, &csv::StringRecord::from(R::COLUMNS.to_vec()), records)
}

/// Writes a file of these lines.
pub(super) fn write_records(
    path: &Path,
    header: &csv::StringRecord,
    records: impl Iterator<Item = csv::StringRecord>,
) -> Result<(), Error> {
    let malformed = |source| Error::Csv { path: path.to_path_buf(), source };
    let file = File::create(path).map_err(Error::file("write", path))?;
    let mut writer = csv::Writer::from_writer(BufWriter::new(file));
    writer.write_record(header).map_err(malformed)?;
    for record in records {
        writer.write_record(&record).map_err(malformed)?;
    }
    let file = writer.into_inner().map_err(|error| error.into_error());
    file.and_then(|mut file| file.flush()).map_err(Error::file("write", path))
}

/// Reads a file whose header must name exactly the columns of `R`, in their order.
pub(super) fn read<R: Row>(path: &Path) -> Result<Vec<R>, Error> {
    let mut reader = open(path)?;
    let header = header(path, &mut reader)?;
    if !header.iter().eq(R::COLUMNS.iter().copied()) {
        let expected = R::COLUMNS.join(",");
        return Err(Error::value(path, 1, format!("the columns are not {expected}")));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|source| Error::Csv { path: path.to_path_buf(), source })?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = R::read(&mut Fields::new(&record, R::COLUMNS));
        rows.push(row.map_err(|problem| Error::value(path, line, problem))?);
    }
    Ok(rows)
}

/// Reads a file that may be missing.
pub(super) fn read_if_there<R: Row>(path: &Path) -> Result<Vec<R>, Error> {
    if path.exists() { read(path) } else { Ok(Vec::new()) }
}

/// Opens a CSV file after a look at its length.
pub(super) fn open(path: &Path) -> Result<csv::Reader<BufReader<File>>, Error> {
    Ok(csv::Reader::from_reader(BufReader::new(open_bounded(path, FILE_BYTES_MAX)?)))
}

/// Returns the first line.
pub(super) fn header(
    path: &Path,
    reader: &mut csv::Reader<BufReader<File>>,
) -> Result<csv::StringRecord, Error> {
    let malformed = |source| Error::Csv { path: path.to_path_buf(), source };
    reader.headers().cloned().map_err(malformed)
}

/// Opens a file of at most this many bytes.
pub(super) fn open_bounded(path: &Path, bytes_max: u64) -> Result<File, Error> {
    let file = File::open(path).map_err(Error::file("read", path))?;
    let bytes = file.metadata().map_err(Error::file("read", path))?.len();
    if bytes > bytes_max {
        return Err(Error::TooLarge { path: path.to_path_buf(), bytes, bytes_max });
    }
    Ok(file)
}
