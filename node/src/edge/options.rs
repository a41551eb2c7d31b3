//! Deadlines and bounds of the edge.

use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use crate::config::NodeConfig;

/// The most parts an S3 multipart upload may have.
pub(super) const PARTS_MAX: u64 = 10_000;

/// Says by which HTTP an edge is read over TLS. What is written goes by HTTP/1.1 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdgeHttp {
    /// HTTP/2 where the edge offers it, or HTTP/1.1 with a connection for each request where that turns out to be
    /// faster.
    #[default]
    Auto,
    /// HTTP/1.1, with a connection for each request under way.
    Http1,
    /// HTTP/2 where the edge offers it, whatever its rate.
    Http2,
    /// HTTP/3, and what [`Auto`](Self::Auto) says where UDP does not get through. It must be
    /// [built in](Self::HTTP3_IS_BUILT).
    Http3,
}

impl EdgeHttp {
    /// Whether HTTP/3 is built in: it is the feature `http3`.
    pub const HTTP3_IS_BUILT: bool = cfg!(feature = "http3");
}

/// Sets the deadlines and bounds of an edge.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// How long name lookup, TCP and TLS may take together; 2 s.
    pub connect_timeout: Duration,
    /// How long the edge may take from the connection to the head of its answer, and a shared folder
    /// for one operation; 5 s.
    pub first_byte_timeout: Duration,
    /// The rate in bytes per second below which a body, either way, counts as stalled; 64 KiB/s.
    pub rate_min: u64,
    /// Over how much waiting the rate is measured; 10 s. Time in which the caller does not ask for
    /// bytes does not count.
    pub stall_window: Duration,
    /// After how long without a byte a connection of HTTP/2 or 3 is asked whether it lives, and how long it may then take
    /// to say so; 3 s. Without that a dead one would be used for ever: whatever is asked next goes over it, too.
    pub life_interval: Duration,
    /// How long an S3 service may think after it has all bytes of a write; 60 s.
    pub write_timeout: Duration,
    /// The largest blob in bytes that is taken or pushed.
    pub blob_bytes_max: u64,
    /// Blobs above this many bytes go up in parts; 64 MiB, which one push holds in memory.
    pub multipart_above: u64,
    /// The length of a part in bytes; 16 MiB, between 8 and 64 MiB for R2 and S3, and the same for all
    /// parts but the last, as R2 demands. It grows where 10,000 parts would not hold the blob.
    pub part_len: u64,
    /// How many parts go up at once; 4. Times `part_len` is the memory of a push in parts.
    pub parts_at_once: usize,
    /// A directory for what is known of interrupted uploads in parts, a small file each; none forgets them. It is made
    /// where it is missing.
    pub uploads: Option<PathBuf>,
    /// Whether `http://` is allowed to hosts other than this machine.
    pub plain_http: bool,
    /// A file of certificates in PEM, up to 1 MiB, that are trusted instead of the system's; for an edge with a
    /// certificate of one's own.
    pub ca_file: Option<PathBuf>,
    /// By which HTTP it is read.
    pub http: EdgeHttp,
    /// How often it is asked again, and when it is left alone.
    pub policy: PolicyOptions,
}

/// Sets how often an edge is asked again, and when it is left alone. One policy holds for all that a
/// node asks of its edge.
#[derive(Clone, Debug)]
pub struct PolicyOptions {
    /// How often one request is made at most, where its failure may pass; 3.
    pub attempts_max: u32,
    /// The bound of the first pause before a request is made again, doubled each time; 100 ms. Any
    /// pause between none and the bound is drawn.
    pub backoff: Duration,
    /// The largest bound of such a pause; 5 s.
    pub backoff_max: Duration,
    /// The longest `Retry-After` that a request waits for; 1 s. A longer one ends it, and nothing is
    /// asked of the edge until it is over.
    pub retry_after_max: Duration,
    /// How many repetitions a hundred requests pay for; 10.
    pub budget_percent: u32,
    /// How many repetitions a node can make that has asked for nothing yet; 5.
    pub budget_floor: u32,
    /// After how long one more of the floor is there, once it is spent; 10 s.
    pub budget_floor_interval: Duration,
    /// How many repetitions can be saved up; 50.
    pub budget_max: u32,
    /// How long after a failure the same request counts as a repetition, whoever makes it; 10 s.
    pub repeat_window: Duration,
    /// How many failures in a row have the edge left alone; 5. What fails together counts once.
    pub breaker_row: u32,
    /// The share of failures among the requests of 10 s, in percent, that has it left alone; 50.
    pub breaker_share_percent: u32,
    /// Among how many requests that share is taken at least; 20.
    pub breaker_window_min: u32,
    /// How long it is left alone at first; 5 s. Doubled each time that the one request after it fails.
    pub breaker_pause: Duration,
    /// How long it is left alone at most; 60 s.
    pub breaker_pause_max: Duration,
    /// After how long without an answer a request that its caller gave up counts as failed; 2 s.
    pub silence_max: Duration,
    /// How long it is left alone after it refused the credentials, or to be read without; 5 min.
    pub stop_interval: Duration,
    /// How many refusals in a row that may mean a missing blob have it left alone, where it has served
    /// nothing yet; 3.
    pub denials_max: u32,
    /// How long a missing blob counts as missing; 60 s. Nothing is remembered of a directory.
    pub absent_keep: Duration,
    /// How many missing blobs and lists are remembered, and how many failures; 4096, about 1 MiB.
    pub absent_entries_max: usize,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            retry_after_max: Duration::from_secs(1),
            budget_percent: 10,
            budget_floor: 5,
            budget_floor_interval: Duration::from_secs(10),
            budget_max: 50,
            repeat_window: Duration::from_secs(10),
            breaker_row: 5,
            breaker_share_percent: 50,
            breaker_window_min: 20,
            breaker_pause: Duration::from_secs(5),
            breaker_pause_max: Duration::from_secs(60),
            silence_max: Duration::from_secs(2),
            stop_interval: Duration::from_secs(300),
            denials_max: 3,
            absent_keep: Duration::from_secs(60),
            absent_entries_max: 4096,
        }
    }
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(5),
            rate_min: 64 << 10,
            stall_window: Duration::from_secs(10),
            life_interval: Duration::from_secs(3),
            write_timeout: Duration::from_secs(60),
            blob_bytes_max: NodeConfig::BLOB_BYTES_MAX_DEFAULT,
            multipart_above: 64 << 20,
            part_len: 16 << 20,
            parts_at_once: 4,
            uploads: None,
            plain_http: false,
            ca_file: None,
            http: EdgeHttp::Auto,
            policy: PolicyOptions::default(),
        }
    }
}

impl EdgeOptions {
    /// Checks what would otherwise end in a hang, a panic or endless memory.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("connect_timeout", !self.connect_timeout.is_zero()),
            ("first_byte_timeout", !self.first_byte_timeout.is_zero()),
            ("stall_window", !self.stall_window.is_zero()),
            ("life_interval", !self.life_interval.is_zero()),
            ("write_timeout", !self.write_timeout.is_zero()),
            ("part_len", (1..=64 << 20).contains(&self.part_len)),
            ("multipart_above", self.multipart_above <= 64 << 20),
            ("parts_at_once", (1..=16).contains(&self.parts_at_once)),
            ("attempts_max", (1..=10).contains(&self.policy.attempts_max)),
            ("breaker_row", self.policy.breaker_row > 0),
        ];
        match bounds.into_iter().find(|(_, holds)| !holds) {
            Some((option, _)) => Err(ConfigError::Option { option }),
            None => Ok(()),
        }
    }

    /// Returns the length of all parts but the last of a blob of `size` bytes.
    pub(super) fn part_len_of(&self, size: u64) -> u64 {
        const MIB: u64 = 1 << 20;
        let least = size.div_ceil(PARTS_MAX);
        if least <= self.part_len { self.part_len } else { least.div_ceil(MIB) * MIB }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_only_where_ten_thousand_would_not_do() {
        let options = EdgeOptions::default();
        let limit = options.part_len * PARTS_MAX;
        for (size, part_len) in [(0, 16 << 20), (limit, 16 << 20), (limit + 1, 17 << 20)] {
            assert_eq!(options.part_len_of(size), part_len, "size {size}");
            assert!(size.div_ceil(options.part_len_of(size)) <= PARTS_MAX);
        }
    }

    #[test]
    fn options_that_would_hang_or_panic_are_refused() {
        assert!(EdgeOptions::default().check().is_ok());
        let broken = [
            EdgeOptions { part_len: 0, ..EdgeOptions::default() },
            EdgeOptions { parts_at_once: 0, ..EdgeOptions::default() },
            EdgeOptions { stall_window: Duration::ZERO, ..EdgeOptions::default() },
            EdgeOptions { multipart_above: u64::MAX, ..EdgeOptions::default() },
        ];
        broken.iter().for_each(|options| assert!(options.check().is_err(), "{options:?}"));
    }
}
