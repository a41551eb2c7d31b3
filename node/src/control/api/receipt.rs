//! How a get went: what found the blob, who was asked, where bytes and time came from.

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Tells how a get was resolved: every tier, who was asked, who was skipped, and the time it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The blob, 64 hex digits.
    pub hash: String,
    /// Its length in bytes; none when it was never learned.
    pub size: Option<u64>,
    /// `local`, `lan`, `dht`, `edge`, or `none`: what found the blob.
    pub found: String,
    /// The bytes of the blob taken from each tier.
    pub tier: TierBytes,
    /// The whole get in seconds.
    pub seconds: f64,
    /// Where the time went.
    pub phases: Phases,
    /// How many neighbours there were when the get began.
    pub neighbours: u64,
    /// Who was asked, in order.
    pub asked: Vec<AskedRow>,
    /// The neighbours whose fresh filter ruled the blob out, so that they were not asked.
    pub skipped: Vec<String>,
    /// The sources of bytes, in order of their first attempt.
    pub fetches: Vec<FetchRow>,
    /// What the DHT said: none when it was not asked.
    pub dht: Option<DhtRow>,
    /// What the edge said: none when it was not asked.
    pub edge: Option<String>,
    /// Decisions worth knowing, such as a hedge that fired or a peer dropped for wrong bytes.
    pub notes: Vec<String>,
    /// What an older version gave; none where none was at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaRow>,
}

impl Receipt {
    /// Returns who was asked on the LAN, in one line: `asked 0 of 2 peers: both filters rule it out`.
    pub fn lan(&self) -> String {
        let (asked, skipped) = (self.asked.len(), self.skipped.len());
        let count = match self.neighbours {
            0 if asked == 0 => return "no peers".to_owned(),
            1 => format!("asked {asked} of 1 peer"),
            neighbours => format!("asked {asked} of {neighbours} peers"),
        };
        let all = u64::try_from(skipped).is_ok_and(|skipped| skipped == self.neighbours);
        match (skipped, all) {
            (0, _) => count,
            (1, true) => format!("{count}: its filter rules it out"),
            (2, true) => format!("{count}: both filters rule it out"),
            (_, true) => format!("{count}: all {skipped} filters rule it out"),
            (1, false) => format!("{count}: one filter rules it out"),
            (_, false) => format!("{count}: {skipped} filters rule it out"),
        }
    }
}

/// The bytes of one blob by the tier they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierBytes {
    /// Already in the store.
    pub local: u64,
    /// From peers.
    pub lan: u64,
    /// From the edge.
    pub edge: u64,
}

/// The seconds of one get by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Looking into the store.
    pub local_s: f64,
    /// Finding a holder: asks, provider search, hedge delays.
    pub find_s: f64,
    /// From the choice of a source to its first verified group.
    pub first_group_s: f64,
    /// From the first verified group to the last.
    pub transfer_s: f64,
    /// From the last group to the blob's final name, and its output where one was asked for.
    pub store_s: f64,
}

/// Tells what one peer answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskedRow {
    /// The peer's id, `12D3KooW…`.
    pub peer: String,
    /// `have`, `absent`, `busy`, `timeout` or `gone`.
    pub answer: String,
    /// Milliseconds until the answer.
    pub ms: f64,
}

/// Tells what one source gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRow {
    /// A peer's id, or `edge`.
    pub source: String,
    /// Verified bytes that came from it.
    pub bytes: u64,
    /// `complete`, or why it ended before.
    pub outcome: String,
    /// Milliseconds from the first request to the end.
    pub ms: f64,
    /// How the bytes came; none for the edge, and in receipts of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<WayRow>,
}

/// Tells how the bytes of one peer came, and where the time went. The times of threads that work side by
/// side add up, so they may exceed the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WayRow {
    /// How many lanes were opened.
    pub lanes: u64,
    /// Verified bytes that came over lanes.
    pub lane_bytes: u64,
    /// Verified bytes that came over blob streams.
    pub stream_bytes: u64,
    /// Milliseconds to a connection and a blob stream on it.
    pub connect_ms: f64,
    /// Milliseconds from the request to the first byte of its answer.
    pub answer_ms: f64,
    /// Milliseconds to open the lanes.
    pub dial_ms: f64,
    /// Milliseconds to verify what came over lanes.
    pub verify_ms: f64,
    /// Milliseconds to write, and to verify what came over blob streams.
    pub write_ms: f64,
}

/// Tells what was made of an older version of a blob, ahead of the get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeltaRow {
    /// The older version: a blob's 64 hex digits, or a path.
    pub base: String,
    /// The peer that gave the rest; none where no neighbour could be asked.
    pub peer: Option<String>,
    /// The bytes of the blob that were copied from the older version; they count as local.
    pub copied: u64,
    /// Those that were fetched, by the range.
    pub fetched: u64,
    /// What came beside them: group list, map, keys.
    pub beside: u64,
    /// `whole`, `part`, or why it ended before.
    pub outcome: String,
    /// Milliseconds it took.
    pub ms: f64,
}

/// Tells what the provider search gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DhtRow {
    /// How many providers it named.
    pub providers: u64,
    /// Milliseconds it took; up to the end of the get when it did not end before.
    pub ms: f64,
    /// Whether it came to its end.
    pub ended: bool,
}

/// Tells how the get of one of many blobs ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GotRow {
    /// The blob, 64 hex digits.
    pub hash: String,
    /// Its length in bytes; none when it was never learned.
    pub size: Option<u64>,
    /// `local`, `lan`, `dht`, `edge`, or `none`: what found the blob.
    pub found: String,
    /// The bytes of the blob taken from each tier.
    pub tier: TierBytes,
    /// How long it was under way, in seconds.
    pub seconds: f64,
    /// Why it was not got; none where it was.
    pub failure: Option<Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lan_line_counts_the_asked_and_the_ruled_out() {
        for (neighbours, asked, skipped, line) in [
            (0, 0, 0, "no peers"),
            (1, 1, 0, "asked 1 of 1 peer"),
            (1, 0, 1, "asked 0 of 1 peer: its filter rules it out"),
            (2, 0, 2, "asked 0 of 2 peers: both filters rule it out"),
            (2, 1, 1, "asked 1 of 2 peers: one filter rules it out"),
            (2, 0, 0, "asked 0 of 2 peers"),
            (9, 0, 9, "asked 0 of 9 peers: all 9 filters rule it out"),
            (9, 2, 7, "asked 2 of 9 peers: 7 filters rule it out"),
        ] {
            let row = AskedRow { peer: String::new(), answer: String::new(), ms: 0.0 };
            let receipt = Receipt {
                neighbours,
                asked: vec![row; asked],
                skipped: vec![String::new(); skipped],
                ..Receipt::default()
            };
            assert_eq!(receipt.lan(), line);
        }
    }
}
