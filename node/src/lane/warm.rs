//! Warm lanes: open ones that ask for nothing, kept for the next range of the same peer.
//!
//! Whoever divides a blob among many holders asks each of them for many small ranges, and a handshake for
//! each would cost more than the range. A provider ends a quiet lane after a while of its own
//! (SPEC.md, "Lanes"); here it is left before that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;

use super::dialled::Dialled;

/// How long a lane is kept for the next range: half of what providers grant.
pub(super) const WARM_FOR: Duration = Duration::from_secs(5);
/// How many lanes are kept to one peer: as many ranges as the engine asks a peer for at once.
const OF_PEER_MAX: usize = 2;
/// How many lanes are kept in all. Each costs a descriptor and about 300 KiB.
const WARM_MAX: usize = 32;

/// Is an open lane on which everything asked for has come.
pub(crate) struct WarmLane(pub(super) Box<Dialled>);

/// Keeps warm lanes by peer.
#[derive(Default)]
pub(super) struct Warm {
    of: HashMap<PeerId, Vec<(WarmLane, Instant)>>,
}

impl Warm {
    /// Keeps a lane, if there is room for it and nothing came that nobody asked for.
    pub(super) fn put(&mut self, peer: PeerId, lane: WarmLane, now: Instant) {
        self.expire(now);
        let kept: usize = self.of.values().map(Vec::len).sum();
        let of_peer = self.of.get(&peer).map_or(0, Vec::len);
        if lane.0.is_quiet() && kept < WARM_MAX && of_peer < OF_PEER_MAX {
            self.of.entry(peer).or_default().push((lane, now));
        }
    }

    /// Returns the lane to a peer that was used last.
    pub(super) fn take(&mut self, peer: &PeerId, now: Instant) -> Option<WarmLane> {
        self.expire(now);
        let (lane, _) = self.of.get_mut(peer)?.pop()?;
        Some(lane)
    }

    /// Closes the lanes to a peer.
    pub(super) fn drop_peer(&mut self, peer: &PeerId) {
        self.of.remove(peer);
    }

    /// Closes all lanes.
    pub(super) fn clear(&mut self) {
        self.of.clear();
    }

    /// Closes lanes that were kept long enough, and returns whether others are left.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.of.retain(|_, lanes| {
            lanes.retain(|(_, since)| now.saturating_duration_since(*since) < WARM_FOR);
            !lanes.is_empty()
        });
        !self.of.is_empty()
    }
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warm").field("peers", &self.of.len()).finish_non_exhaustive()
    }
}
