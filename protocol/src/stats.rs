//! Counters of what the engine decided, since its start.

use crate::engine::receipt::{Note, Receipt};

/// Counts decisions. Every field only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gets that came in.
    pub gets: u64,
    /// Gets that joined one under way.
    pub gets_joined: u64,
    /// Gets answered from the store.
    pub found_local: u64,
    /// Gets answered by a neighbour.
    pub found_lan: u64,
    /// Gets answered by a peer that a provide record named.
    pub found_dht: u64,
    /// Gets answered by the edge.
    pub found_edge: u64,
    /// Gets that ended well and for which the edge gave no byte.
    pub found_without_edge: u64,
    /// Bytes of gets that ended well which the store had, or which another get of them brought.
    pub bytes_local: u64,
    /// Those that peers gave.
    pub bytes_lan: u64,
    /// Those that the edge gave.
    pub bytes_edge: u64,
    /// Gets that failed.
    pub failed: u64,
    /// Questions sent to neighbours, small requests included.
    pub asks_sent: u64,
    /// Small requests sent: questions that are answered with the blob itself.
    pub small_sent: u64,
    /// Questions that a neighbour's filter saved.
    pub asks_skipped: u64,
    /// Questions answered with absent although the filter said maybe.
    pub asks_wasted: u64,
    /// Questions received.
    pub asks_received: u64,
    /// Whole filters sent.
    pub filters_sent: u64,
    /// Filter deltas sent, refreshes included.
    pub deltas_sent: u64,
    /// Filters refused: malformed, too full, of an unknown base.
    pub filters_refused: u64,
    /// Hedges that fired.
    pub hedges: u64,
    /// Fetches dropped because no byte came for too long.
    pub stalls: u64,
    /// Times the node was held up itself, by its store or for want of processor time.
    pub held_up: u64,
    /// Peers banned for wrong bytes.
    pub bans: u64,
    /// Provide records put into the DHT, repeats included.
    pub adverts: u64,
    /// Blobs not advertised because the bound was reached.
    pub adverts_refused: u64,
    /// Requests of peers admitted.
    pub serves: u64,
    /// Requests of peers turned away as busy.
    pub serves_refused: u64,
}

impl Stats {
    /// Counts where the bytes of a get that ended well came from.
    pub(crate) fn count_bytes(&mut self, receipt: &Receipt) {
        let Receipt { bytes_local: local, bytes_lan: lan, bytes_edge: edge, .. } = *receipt;
        // What a get brought that was under way already is not brought twice.
        let joined = receipt.notes.contains(&Note::Joined);
        let (local, lan, edge) =
            if joined { (local + lan + edge, 0, 0) } else { (local, lan, edge) };
        self.bytes_local += local;
        self.bytes_lan += lan;
        self.bytes_edge += edge;
        self.found_without_edge += u64::from(edge == 0);
    }

    /// Returns every counter with its name, for reports.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("gets", self.gets),
            ("gets_joined", self.gets_joined),
            ("found_local", self.found_local),
            ("found_lan", self.found_lan),
            ("found_dht", self.found_dht),
            ("found_edge", self.found_edge),
            ("found_without_edge", self.found_without_edge),
            ("bytes_local", self.bytes_local),
            ("bytes_lan", self.bytes_lan),
            ("bytes_edge", self.bytes_edge),
            ("failed", self.failed),
            ("asks_sent", self.asks_sent),
            ("small_sent", self.small_sent),
            ("asks_skipped", self.asks_skipped),
            ("asks_wasted", self.asks_wasted),
            ("asks_received", self.asks_received),
            ("filters_sent", self.filters_sent),
            ("deltas_sent", self.deltas_sent),
            ("filters_refused", self.filters_refused),
            ("hedges", self.hedges),
            ("stalls", self.stalls),
            ("held_up", self.held_up),
            ("bans", self.bans),
            ("adverts", self.adverts),
            ("adverts_refused", self.adverts_refused),
            ("serves", self.serves),
            ("serves_refused", self.serves_refused),
        ]
    }
}
