//! Within which ranges the simulator was compared with real nodes, and by how much it was off.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::output::{Error, Settings};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Is what a validation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The commit that was validated.
    pub commit: String,
    /// The command that made the comparison.
    pub command: String,
    /// Cells that were held out of the calibration and compared.
    pub cells: u64,
    /// The ranges those cells span.
    pub ranges: Vec<Range>,
    /// By how much the simulator was off.
    pub errors: Vec<MeasuredError>,
    /// What real nodes did in each cell and with each seed: any model can be held to it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replays: Vec<ReplayedRun>,
}

/// Is what is kept of a replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayedRun {
    /// What its cell sets.
    pub settings: Settings,
    /// Its seed.
    pub seed: u64,
    /// Its metrics by name.
    pub metrics: BTreeMap<String, f64>,
}

/// Is a range of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// What: `nodes`, `link rate`.
    pub what: String,
    /// The least that was compared, with its unit.
    pub from: String,
    /// The most.
    pub to: String,
}

/// Is how far a metric was off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredError {
    /// The metric.
    pub metric: String,
    /// The median of the relative errors of the cells, without sign.
    pub median: f64,
    /// The largest of them.
    pub worst: f64,
    /// What it may be.
    pub bound: f64,
}

impl Envelope {
    /// Reads a `validation.json`.
    ///
    /// # Errors
    /// When it is missing, too large, or not of this form.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = std::fs::File::open(path).map_err(Error::file("read", path))?;
        let bytes = file.metadata().map_err(Error::file("read", path))?.len();
        if bytes > FILE_BYTES_MAX {
            let (path, bytes_max) = (path.to_path_buf(), FILE_BYTES_MAX);
            return Err(Error::TooLarge { path, bytes, bytes_max });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(Error::file("read", path))?;
        serde_json::from_str(&text)
            .map_err(|source| Error::Json { path: path.to_path_buf(), source })
    }
}
