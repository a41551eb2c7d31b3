//! A lane for packs of small requests: the connection alone. What is asked and answered on it is the business of
//! [`small`](crate::small).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::lane::LaneOffer;
use tokio::sync::OwnedSemaphorePermit;

use super::Lanes;
use super::dialled::{Dialled, Received};
use super::wait::Patience;
use crate::transfer::{FetchError, StreamError};

/// Is an open lane on which nobody asks for groups.
pub(crate) struct PackLane {
    lane: Dialled,
    /// Counts as a fetch that uses lanes.
    _permit: OwnedSemaphorePermit,
}

impl Lanes {
    /// Opens a lane to the host of a peer's control connection, as the peer has offered. Blocks.
    ///
    /// # Errors
    /// Where it cannot be opened, the peer's lanes are not tried for a while; `NoBuffer` while too many are in use.
    pub(crate) fn open_packs(
        &self,
        peer: PeerId,
        (host, offer): (&str, &LaneOffer),
        stop: &AtomicBool,
    ) -> Result<PackLane, FetchError> {
        let permit = Arc::clone(&self.0.fetches).try_acquire_owned();
        let permit = permit.map_err(|_| FetchError::NoBuffer)?;
        let token = offer.tokens.first().copied().ok_or(FetchError::Short)?;
        let lane = self.dial(peer, (host, offer.port, token), stop);
        let lane = lane.inspect_err(|_| self.avoid(peer))?;
        Ok(PackLane { lane, _permit: permit })
    }
}

impl PackLane {
    /// Queues bytes to be sent with the next [`receive`](Self::receive).
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.lane.queue(bytes);
    }

    /// Returns whether more bytes may have come than the last [`receive`](Self::receive) took.
    pub(crate) fn was_filled(&self) -> bool {
        self.lane.was_filled()
    }

    /// Sends what is queued, waits a moment for bytes, and hands `take` what came; false if nothing did.
    ///
    /// # Errors
    /// What `take` returns, what ails the connection, and its end. Also when it was stopped, or `deadline` is over.
    pub(crate) fn receive(
        &mut self,
        (stop, deadline): (&AtomicBool, Instant),
        take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<bool, FetchError> {
        let patience = Patience { stop, deadline };
        patience.check().map_err(StreamError::from)?;
        match self.lane.receive(patience, take)? {
            Received::Bytes => Ok(true),
            Received::Nothing => Ok(false),
            Received::End => Err(FetchError::Short),
        }
    }
}

impl std::fmt::Debug for PackLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackLane").finish_non_exhaustive()
    }
}
