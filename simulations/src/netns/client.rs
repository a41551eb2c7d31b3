//! What a user asks of a node, and the answers as `blobmesh --json` gives them.
//!
//! Only the fields that experiments judge are read: new fields and lines may appear at any time.

use std::{path::Path, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};

use super::{command::Finished, error::Error, metric, process::Home};

/// How long commands that move no blob may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How long commands that move a blob may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(180);

/// The documented exit codes of a get that ends without the blob: not found, and unreachable.
const ABSENT_CODES: [i32; 2] = [3, 6];

/// Is one row of `blobmesh peers`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct PeerRow {
    /// The peer id.
    pub peer: String,
    /// Whether it gossips with the node.
    pub neighbour: bool,
    /// How many blobs its filter holds; none while the node has no filter of it.
    pub filter_blobs: Option<u64>,
}

/// Is the last line of a `blobmesh get` that succeeded, and of `blobmesh why`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Receipt {
    /// The blob's length in bytes; none in a `why` that never learned it.
    pub size: Option<u64>,
    /// What found the blob: `local`, `lan`, `dht`, `edge` or `none`.
    pub found: String,
    /// Where the bytes came from.
    pub tier: TierBytes,
}

impl Receipt {
    /// Returns the share of the blob's bytes that came from a tier.
    pub fn share_of(&self, tier: impl Fn(&TierBytes) -> u64) -> f64 {
        metric::share(tier(&self.tier), self.size.unwrap_or_default())
    }

    /// Returns whether all the blob's bytes came from a tier.
    pub fn is_all(&self, tier: impl Fn(&TierBytes) -> u64) -> bool {
        self.size == Some(tier(&self.tier))
    }
}

/// The bytes of a get by tier.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct TierBytes {
    /// From the store.
    pub local: u64,
    /// From peers.
    pub lan: u64,
    /// From the edge.
    pub edge: u64,
}

#[derive(Debug, Deserialize)]
struct Added {
    hash: String,
}

/// Is a line of `blobmesh peers`: a row, or a summary that may hold the rows.
#[derive(Debug, Deserialize)]
struct PeersLine {
    #[serde(default)]
    peers: serde_json::Value,
}

impl Home<'_> {
    /// Adds a file; returns the hash the node gives it.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn add(&self, file: &Path) -> Result<String, Error> {
        let file = file.to_string_lossy();
        let finished = self.run(&["add", &file], b"", TRANSFER_LIMIT)?.success()?;
        last_line::<Added>(&finished).map(|added| added.hash)
    }

    /// Gets a blob, into a file too where one is named; returns none for one that is not found.
    ///
    /// # Errors
    /// Those of a command that fails in another way, and [`Error::Answer`].
    pub fn get(&self, hash: &str, output: Option<&Path>) -> Result<Option<Receipt>, Error> {
        let mut words = vec!["get", hash];
        let output = output.map(|path| path.to_string_lossy().into_owned());
        words.extend(output.iter().flat_map(|path| ["-o", path]));
        let finished = self.run(&words, b"", TRANSFER_LIMIT)?;
        if finished.status.code().is_some_and(|code| ABSENT_CODES.contains(&code)) {
            return Ok(None);
        }
        last_line(&finished.success()?).map(Some)
    }

    /// Asks how the last get of a blob was resolved.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn why(&self, hash: &str) -> Result<Receipt, Error> {
        last_line(&self.run(&["why", hash], b"", COMMAND_LIMIT)?.success()?)
    }

    /// Lists the peers.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn peers(&self) -> Result<Vec<PeerRow>, Error> {
        rows_of(&self.run(&["peers"], b"", COMMAND_LIMIT)?.success()?)
    }
}

/// Reads the last line of an answer.
fn last_line<T: DeserializeOwned>(finished: &Finished) -> Result<T, Error> {
    let line = finished.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| answer(finished, &error))
}

/// Reads the rows of all lines.
fn rows_of(finished: &Finished) -> Result<Vec<PeerRow>, Error> {
    let mut rows = Vec::new();
    for line in finished.stdout.lines() {
        if let Ok(row) = serde_json::from_str(line) {
            rows.push(row);
            continue;
        }
        let summary = serde_json::from_str::<PeersLine>(line);
        let list = summary.map_err(|error| answer(finished, &error))?.peers;
        // Otherwise it is a count, or nothing: the rows are lines of their own.
        if list.is_array() {
            let list = serde_json::from_value::<Vec<PeerRow>>(list);
            rows.extend(list.map_err(|error| answer(finished, &error))?);
        }
    }
    Ok(rows)
}

fn answer(finished: &Finished, error: &serde_json::Error) -> Error {
    Error::Answer { command: finished.command.clone(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    fn finished(stdout: &str) -> Finished {
        Finished {
            command: "blobmesh".to_owned(),
            status: ExitStatus::default(),
            stdout: stdout.to_owned(),
            stderr: String::new(),
        }
    }

    const ROW: &str =
        r#"{"type":"peer","peer":"12D3a","neighbour":true,"filter_blobs":7,"rtt_us":null}"#;

    #[test]
    fn receipt_is_read_from_the_last_line() {
        let output = concat!(
            r#"{"type":"progress","done":1}"#,
            "\n",
            r#"{"type":"summary","hash":"ab","size":3,"found":"lan","tier":{"local":0,"lan":3,"edge":0}}"#,
            "\n"
        );
        let receipt: Receipt = last_line(&finished(output)).unwrap();
        assert_eq!(receipt.tier.lan, 3);
        assert_eq!(receipt.found, "lan");
    }

    #[test]
    fn answer_that_is_no_receipt_is_an_error() {
        for output in ["", "got it\n", "{}\n", r#"{"found":"lan"}"#] {
            let read = last_line::<Receipt>(&finished(output));
            assert!(matches!(read, Err(Error::Answer { .. })), "{output:?}");
        }
    }

    #[test]
    fn peers_are_read_from_lines_and_from_a_summary() {
        let wanted = PeerRow { peer: "12D3a".to_owned(), neighbour: true, filter_blobs: Some(7) };
        let lines = format!("{ROW}\n{{\"type\":\"summary\",\"peers\":1}}\n");
        assert_eq!(rows_of(&finished(&lines)).unwrap(), std::slice::from_ref(&wanted));
        let summary = format!("{{\"type\":\"summary\",\"peers\":[{ROW}]}}\n");
        assert_eq!(rows_of(&finished(&summary)).unwrap(), [wanted]);
        assert!(rows_of(&finished("{\"type\":\"summary\",\"peers\":[]}\n")).unwrap().is_empty());
        assert!(matches!(rows_of(&finished("none\n")), Err(Error::Answer { .. })));
    }

    #[test]
    fn row_of_another_shape_is_an_error() {
        let summary = "{\"type\":\"summary\",\"peers\":[{\"peer\":\"12D3a\"}]}\n";
        assert!(matches!(rows_of(&finished(summary)), Err(Error::Answer { .. })));
    }
}
