//! The numbers of a machine that the models run on, and the file that keeps them.
//!
//! `calibration.toml` has a line for each number, named after the field with its unit last. What it does
//! not name stays as it is by default; what it names and nobody knows is an error.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Says how fast a machine does what plans do not speak of. The defaults were measured on loopback and
/// in network namespaces of a 2-core virtual machine; see `simulations/README.md`.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The share of a link's rate that arrives as bytes of blobs: 1,448 of 1,538 bytes of an Ethernet
    /// frame are TCP's payload, and records, frames and group lists take half a percent of that.
    pub goodput: f64,
    /// A look into the store.
    pub look: Duration,
    /// From the last byte to the blob under its final name.
    pub finish: Duration,
    /// What an engine's step costs between an event's arrival and its answer leaving.
    pub step: Duration,
    /// Round trips until a new connection to a peer has streams: TCP and Noise, and by default one each to
    /// agree on Noise and on Yamux, which nodes have not waited for since they propose one thing only.
    pub dial_round_trips: u32,
    /// The processor's part of such a handshake, both sides.
    pub dial: Duration,
    /// How long a connection to a peer that is no neighbour stays after its last stream.
    pub connection_idle: Duration,
    /// Round trips until a new stream on an open connection carries its request: none where it goes with
    /// the proposal of its protocol, as it does today; by default one.
    pub stream_round_trips: u32,
    /// The processor's part of a fetch from its request to its first group, both sides.
    pub fetch: Duration,
    /// Round trips from the answer to a long fetch to the first bytes over its lane: TCP, TLS 1.3, the
    /// request.
    pub lane_round_trips: u32,
    /// The processor's part of opening a lane, both sides.
    pub lane: Duration,
    /// The processor's part of a question of the DHT, both sides.
    pub question: Duration,
    /// Round trips until a new connection to the edge carries a request: TCP and TLS 1.3.
    pub edge_dial_round_trips: u32,
    /// How long a connection to the edge stays fast after its last byte; a later request grows again
    /// from the initial window (RFC 5681, 4.1).
    pub edge_idle: Duration,
    /// How long a peer that vanished without a word is taken for a neighbour.
    pub silence: Duration,
    /// The initial window of TCP in bytes (RFC 6928).
    pub window_initial: f64,
    /// How long a lost packet at a message's end holds the message up, beside a round trip: the least
    /// retransmission timeout of Linux.
    pub retransmission: Duration,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            goodput: 0.936,
            look: Duration::from_micros(20),
            finish: Duration::from_micros(500),
            step: Duration::from_micros(30),
            dial_round_trips: 4,
            dial: Duration::from_millis(1),
            connection_idle: Duration::from_secs(90),
            stream_round_trips: 1,
            fetch: Duration::from_millis(1),
            lane_round_trips: 3,
            lane: Duration::from_millis(2),
            question: Duration::from_micros(500),
            edge_dial_round_trips: 2,
            edge_idle: Duration::from_secs(1),
            silence: Duration::from_secs(30),
            window_initial: 14_480.0,
            retransmission: Duration::from_millis(200),
        }
    }
}

/// Says why a calibration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no calibration.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line where there is one.
        reason: String,
    },
}

impl Calibration {
    /// Reads a `calibration.toml`.
    ///
    /// # Errors
    /// [`CalibrationError`] for one that is missing, too large, of another form, or out of bounds.
    pub fn read(path: &Path) -> Result<Self, CalibrationError> {
        let unread = |source| CalibrationError::File { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(unread)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unread)?;
        Self::parse(&text)
            .map_err(|reason| CalibrationError::Malformed { path: path.to_owned(), reason })
    }

    /// Reads the text of a `calibration.toml`; an error is in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let numbers: Numbers = toml::from_str(text).map_err(|error| error.to_string())?;
        numbers.calibration()
    }

    /// Writes the text of a `calibration.toml`.
    pub fn to_toml(&self) -> String {
        // Numbers and nothing else: there is no value that TOML has no form for.
        toml::to_string(&Numbers::of(self)).unwrap_or_default()
    }
}

/// Is the file's form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Numbers {
    goodput: f64,
    look_s: f64,
    finish_s: f64,
    step_s: f64,
    dial_round_trips: u32,
    dial_s: f64,
    connection_idle_s: f64,
    stream_round_trips: u32,
    fetch_s: f64,
    lane_round_trips: u32,
    lane_s: f64,
    question_s: f64,
    edge_dial_round_trips: u32,
    edge_idle_s: f64,
    silence_s: f64,
    window_initial_bytes: f64,
    retransmission_s: f64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self::of(&Calibration::default())
    }
}

impl Numbers {
    fn of(from: &Calibration) -> Self {
        Self {
            goodput: from.goodput,
            look_s: from.look.as_secs_f64(),
            finish_s: from.finish.as_secs_f64(),
            step_s: from.step.as_secs_f64(),
            dial_round_trips: from.dial_round_trips,
            dial_s: from.dial.as_secs_f64(),
            connection_idle_s: from.connection_idle.as_secs_f64(),
            stream_round_trips: from.stream_round_trips,
            fetch_s: from.fetch.as_secs_f64(),
            lane_round_trips: from.lane_round_trips,
            lane_s: from.lane.as_secs_f64(),
            question_s: from.question.as_secs_f64(),
            edge_dial_round_trips: from.edge_dial_round_trips,
            edge_idle_s: from.edge_idle.as_secs_f64(),
            silence_s: from.silence.as_secs_f64(),
            window_initial_bytes: from.window_initial,
            retransmission_s: from.retransmission.as_secs_f64(),
        }
    }

    fn calibration(&self) -> Result<Calibration, String> {
        if !(self.goodput > 0.0 && self.goodput <= 1.0) {
            return Err(format!("goodput is a share above 0, to 1, not {}", self.goodput));
        }
        if !(self.window_initial_bytes >= 1.0 && self.window_initial_bytes.is_finite()) {
            let found = self.window_initial_bytes;
            return Err(format!("window_initial_bytes is a number from 1, not {found}"));
        }
        let time = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| format!("{name} is a time in seconds, not {seconds}"))
        };
        Ok(Calibration {
            goodput: self.goodput,
            look: time("look_s", self.look_s)?,
            finish: time("finish_s", self.finish_s)?,
            step: time("step_s", self.step_s)?,
            dial_round_trips: self.dial_round_trips,
            dial: time("dial_s", self.dial_s)?,
            connection_idle: time("connection_idle_s", self.connection_idle_s)?,
            stream_round_trips: self.stream_round_trips,
            fetch: time("fetch_s", self.fetch_s)?,
            lane_round_trips: self.lane_round_trips,
            lane: time("lane_s", self.lane_s)?,
            question: time("question_s", self.question_s)?,
            edge_dial_round_trips: self.edge_dial_round_trips,
            edge_idle: time("edge_idle_s", self.edge_idle_s)?,
            silence: time("silence_s", self.silence_s)?,
            window_initial: self.window_initial_bytes,
            retransmission: time("retransmission_s", self.retransmission_s)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_as_it_was() {
        let other = Calibration {
            goodput: 0.5,
            look: Duration::from_nanos(1),
            dial_round_trips: 9,
            stream_round_trips: 3,
            lane_round_trips: 7,
            question: Duration::from_micros(3),
            silence: Duration::from_secs(7),
            ..Calibration::default()
        };
        for calibration in [Calibration::default(), other] {
            assert_eq!(Calibration::parse(&calibration.to_toml()), Ok(calibration));
        }
        assert_eq!(Calibration::parse(""), Ok(Calibration::default()));
    }

    #[test]
    fn number_that_cannot_be_is_an_error_that_names_it() {
        for (text, name) in [
            ("goodput = 0.0", "goodput"),
            ("goodput = 1.1", "goodput"),
            ("goodput = nan", "goodput"),
            ("step_s = -1.0", "step_s"),
            ("look_s = inf", "look_s"),
            ("window_initial_bytes = 0.0", "window_initial_bytes"),
            ("goodputt = 0.9", "goodputt"),
        ] {
            let error = Calibration::parse(text).unwrap_err();
            assert!(error.contains(name), "{text}: {error}");
        }
    }
}
