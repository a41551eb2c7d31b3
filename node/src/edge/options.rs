//! Deadlines and bounds of the edge.

use std::time::Duration;

use super::error::ConfigError;
use crate::config::NodeConfig;

/// The most parts an S3 multipart upload may have.
pub(super) const PARTS_MAX: u64 = 10_000;

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
    /// How long an S3 service may think after it has all bytes of a write; 60 s.
    pub write_timeout: Duration,
    /// How often one write request is tried again after a temporary failure; 2. Reads are never
    /// tried again here: the resolver may know a better source.
    pub write_retries_max: usize,
    /// The first pause before a write is tried again, doubled each time, with jitter; 100 ms.
    pub write_backoff: Duration,
    /// The largest blob in bytes that is taken or pushed.
    pub blob_bytes_max: u64,
    /// Blobs above this many bytes go up in parts; 64 MiB, which one push holds in memory.
    pub multipart_above: u64,
    /// The length of a part in bytes; 16 MiB, between 8 and 64 MiB for R2 and S3, and the same for all
    /// parts but the last, as R2 demands. It grows where 10,000 parts would not hold the blob.
    pub part_len: u64,
    /// How many parts go up at once; 4. Times `part_len` is the memory of a push in parts.
    pub parts_at_once: usize,
    /// Whether `http://` is allowed to hosts other than this machine.
    pub plain_http: bool,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(5),
            rate_min: 64 << 10,
            stall_window: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            write_retries_max: 2,
            write_backoff: Duration::from_millis(100),
            blob_bytes_max: NodeConfig::BLOB_BYTES_MAX_DEFAULT,
            multipart_above: 64 << 20,
            part_len: 16 << 20,
            parts_at_once: 4,
            plain_http: false,
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
            ("write_timeout", !self.write_timeout.is_zero()),
            ("part_len", (1..=64 << 20).contains(&self.part_len)),
            ("multipart_above", self.multipart_above <= 64 << 20),
            ("parts_at_once", (1..=16).contains(&self.parts_at_once)),
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
