//! What a user asks of a node, and the answers as `blobmesh --json` gives them.
//!
//! Only the fields that experiments judge are read: new fields and lines may appear at any time.

use std::{fs::File, io::Write as _, path::Path, time::Duration};

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{command::Finished, error::Error, metric, process::Home};

/// How long commands that move no blob may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How long commands that move a blob may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(180);

/// The documented exit codes of a get that ends without the blob: not found, and unreachable.
const ABSENT_CODES: [i32; 2] = [ABSENT_CODE, 6];

/// That of a blob which is not found, and of a `has` where one is not.
const ABSENT_CODE: i32 = 3;

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
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Receipt {
    /// The blob's length in bytes; none in a `why` that never learned it.
    pub size: Option<u64>,
    /// What found the blob: `local`, `lan`, `dht`, `edge` or `none`.
    pub found: String,
    /// Where the bytes came from.
    pub tier: TierBytes,
    /// The seconds from the command's arrival at the node to the end of the get; 0 where it is not told.
    #[serde(default)]
    pub seconds: f64,
    /// The peers that were asked; only `why` tells them.
    #[serde(default)]
    asked: Vec<IgnoredAny>,
}

impl Receipt {
    /// Returns the share of the blob's bytes that came from a tier.
    pub fn share_of(&self, tier: impl Fn(&TierBytes) -> u64) -> f64 {
        metric::share(tier(&self.tier), self.size.unwrap_or_default())
    }

    /// Returns how many peers were asked, as far as a `why` tells.
    pub fn asked(&self) -> usize {
        self.asked.len()
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

/// Is what a pull took, in seconds and by the node's own account.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Pulled {
    /// Until all manifests were there.
    pub find_s: f64,
    /// From then on until all files were.
    pub fetch_s: f64,
    /// In all: what is left, its checkout took after that.
    pub seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Added {
    hash: String,
}

#[derive(Debug, Deserialize)]
struct HasRow {
    has: bool,
}

/// Tells what a line is; every line does.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
}

impl Home<'_> {
    /// Adds a file; returns the hash the node gives it.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn add(&self, file: &Path) -> Result<String, Error> {
        let file = file.to_string_lossy();
        let finished = self.run(&["add", &file], b"", TRANSFER_LIMIT)?.success()?;
        answer_of::<Added>(&finished).map(|added| added.hash)
    }

    /// Gets a tree and makes it the content of a directory.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn pull(&self, root: &str, dir: &Path, limit: Duration) -> Result<Pulled, Error> {
        let finished = self.run(&["pull", root, &dir.to_string_lossy()], b"", limit)?.success()?;
        answer_of(&finished)
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
        answer_of(&finished.success()?).map(Some)
    }

    /// Gets a blob within `limit`, into a file too where one is named; returns none where that fails,
    /// however it does.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::System`], and [`Error::Answer`] for a get that succeeds and tells
    /// nothing.
    pub fn try_get(
        &self,
        hash: &str,
        output: Option<&Path>,
        limit: Duration,
    ) -> Result<Option<Receipt>, Error> {
        let mut words = vec!["get", hash];
        let output = output.map(|path| path.to_string_lossy().into_owned());
        words.extend(output.iter().flat_map(|path| ["-o", path]));
        self.run_get(&words, limit)
    }

    /// Gets a blob within `limit` by a node of the command's own, which knows one address; returns none
    /// where that fails.
    ///
    /// # Errors
    /// As of [`try_get`](Self::try_get).
    pub fn get_alone(
        &self,
        hash: &str,
        peer: &str,
        limit: Duration,
    ) -> Result<Option<Receipt>, Error> {
        self.run_get(&["get", hash, "--no-mdns", "--peer", peer], limit)
    }

    fn run_get(&self, words: &[&str], limit: Duration) -> Result<Option<Receipt>, Error> {
        match self.run(words, b"", limit) {
            Err(Error::Late { .. }) => Ok(None),
            Ok(finished) if finished.status.success() => answer_of(&finished).map(Some),
            Ok(failed) => self.log_failure(&failed).map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Keeps why a command failed, beside what its node logs: the experiment goes on, and counts it.
    fn log_failure(&self, failed: &Finished) -> Result<(), Error> {
        let path = self.file(".failed");
        let log = File::options().append(true).create(true).open(&path);
        let written =
            log.and_then(|mut log| writeln!(log, "{}: {}", failed.command, failed.stderr));
        written.map_err(Error::file("write", &path))
    }

    /// Adds files, in one command.
    ///
    /// # Errors
    /// Those of a command that fails.
    pub fn add_all(&self, files: &[&Path]) -> Result<(), Error> {
        let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
        let words: Vec<&str> = std::iter::once("add").chain(files.iter().map(|f| &**f)).collect();
        self.run(&words, b"", TRANSFER_LIMIT)?.success().map(drop)
    }

    /// Asks which blobs are in the store; [`has_rows`](Self::has_rows) reads the answer.
    ///
    /// # Errors
    /// Those of a command that fails; that some are absent is no failure.
    pub fn ask_has(&self, hashes: &[String], limit: Duration) -> Result<Finished, Error> {
        let words: Vec<&str> =
            std::iter::once("has").chain(hashes.iter().map(String::as_str)).collect();
        let finished = self.run(&words, b"", limit)?;
        if finished.status.code() == Some(ABSENT_CODE) { Ok(finished) } else { finished.success() }
    }

    /// Reads what `has` told of each blob, in the order asked.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn has_rows(finished: &Finished) -> Result<Vec<bool>, Error> {
        let rows: Vec<HasRow> = rows_of(finished, "has")?;
        Ok(rows.into_iter().map(|row| row.has).collect())
    }

    /// Asks how the last get of a blob was resolved.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn why(&self, hash: &str) -> Result<Receipt, Error> {
        answer_of(&self.run(&["why", hash], b"", COMMAND_LIMIT)?.success()?)
    }

    /// Lists the peers.
    ///
    /// # Errors
    /// Those of a command that fails, and [`Error::Answer`].
    pub fn peers(&self) -> Result<Vec<PeerRow>, Error> {
        rows_of(&self.run(&["peers"], b"", COMMAND_LIMIT)?.success()?, "peer")
    }
}

/// Reads the last line that holds the fields wanted: others may follow it.
fn answer_of<T: DeserializeOwned>(finished: &Finished) -> Result<T, Error> {
    let mut lines = finished.stdout.lines().rev();
    let found = lines.find_map(|line| serde_json::from_str(line).ok());
    found.ok_or_else(|| answer(finished, "no line has the fields wanted"))
}

/// Reads the lines of a type, all of them or none.
fn rows_of<T: DeserializeOwned>(finished: &Finished, wanted: &str) -> Result<Vec<T>, Error> {
    let mut rows = Vec::new();
    for line in finished.stdout.lines() {
        let read = serde_json::from_str::<Line>(line).and_then(|Line { kind }| {
            (kind == wanted).then(|| serde_json::from_str(line)).transpose()
        });
        rows.extend(read.map_err(|error| answer(finished, &error.to_string()))?);
    }
    Ok(rows)
}

fn answer(finished: &Finished, problem: &str) -> Error {
    Error::Answer { command: finished.command.clone(), problem: problem.to_owned() }
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

    const SUMMARY: &str = r#"{"type":"summary","version":1,"peers":1}"#;

    #[test]
    fn receipt_is_read_from_the_last_line_that_is_one() {
        let output = concat!(
            r#"{"type":"start","hash":"ab"}"#,
            "\n",
            r#"{"type":"summary","hash":"ab","size":3,"found":"lan","tier":{"local":0,"lan":3,"edge":0}}"#,
            "\n"
        );
        for follower in ["", "{\"type\":\"later\"}\n"] {
            let receipt: Receipt = answer_of(&finished(&format!("{output}{follower}"))).unwrap();
            assert_eq!(receipt.tier.lan, 3);
            assert_eq!(receipt.found, "lan");
        }
    }

    #[test]
    fn answer_without_a_receipt_is_an_error() {
        for output in ["", "got it\n", "{}\n", r#"{"found":"lan"}"#] {
            let read = answer_of::<Receipt>(&finished(output));
            assert!(matches!(read, Err(Error::Answer { .. })), "{output:?}");
        }
    }

    fn peers_of(output: &str) -> Result<Vec<PeerRow>, Error> {
        rows_of(&finished(output), "peer")
    }

    #[test]
    fn peers_are_the_lines_of_their_type() {
        let wanted = PeerRow { peer: "12D3a".to_owned(), neighbour: true, filter_blobs: Some(7) };
        assert_eq!(peers_of(&format!("{ROW}\n{SUMMARY}\n")).unwrap(), [wanted]);
        assert!(peers_of(&format!("{SUMMARY}\n")).unwrap().is_empty());
    }

    #[test]
    fn peer_of_another_shape_is_an_error_and_not_no_peer() {
        for output in ["none\n", r#"{"type":"peer","peer":"12D3a"}"#, r#"{"peer":"12D3a"}"#] {
            assert!(matches!(peers_of(output), Err(Error::Answer { .. })), "{output:?}");
        }
    }
}
