//! Deltas, ahead of gets: an older version is found and opened, and a neighbour that may give the rest.
//!
//! Whatever goes wrong here is told in the receipt, and the get goes on as if there were no older version.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::delta::DELTA_BYTES_MIN;
use blobmesh_protocol::{Hash, PeerId};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Inner, parse};
use crate::compute;
use crate::control::api::{AskedRow, BaseName, DeltaRow, Failure, Receipt, TierBytes, Trouble};
use crate::delta::requester::make;
use crate::delta::{Base, DeltaError, Made};
use crate::driver::{DeltaHolders, DriverHandle};
use crate::swarm::convert::peer_text;
use crate::transfer::FetchError;

/// How many neighbours are tried for one delta.
const HOLDERS_MAX: usize = 3;
/// How long a node that has no neighbour yet waits for one, and how often it looks.
const NEIGHBOURS_WITHIN: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a delta may take, beside what it takes at [`BYTES_PER_S`]; then the get goes on with what there is.
const TIME_MIN: Duration = Duration::from_secs(15);
const BYTES_PER_S: u64 = 20 << 20;

/// Is what came of a delta.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Delta {
    /// Whether the blob is in the store now.
    pub(super) whole: bool,
    pub(super) size: u64,
    pub(super) row: DeltaRow,
    neighbours: u64,
}

impl Delta {
    /// Returns the receipt of a blob that is whole by this alone.
    pub(super) fn receipt(&self, hash: Hash) -> Receipt {
        let size = self.size;
        let asked = self.row.peer.iter().map(|peer| {
            let (peer, answer) = (peer.clone(), "have".to_owned());
            AskedRow { peer, answer, ms: self.row.ms }
        });
        let mut receipt = Receipt {
            hash: hash.to_hex(),
            size: Some(size),
            found: "local".to_owned(),
            tier: TierBytes { local: size, ..TierBytes::default() },
            neighbours: self.neighbours,
            asked: asked.collect(),
            ..Receipt::default()
        };
        receipt.phases.transfer_s = self.row.ms / 1e3;
        receipt
    }

    /// Tells of it in the receipt of the get that followed: what it fetched came from the LAN, and what it copied was
    /// here.
    pub(super) fn tell(self, receipt: &mut Receipt) {
        let fetched = self.row.fetched.min(receipt.tier.local);
        receipt.tier.local -= fetched;
        receipt.tier.lan += fetched;
        if fetched > 0 && receipt.found == "local" {
            receipt.found = "lan".to_owned();
        }
        receipt.seconds += self.row.ms / 1e3;
        receipt.delta = Some(self.row);
    }
}

impl Inner {
    /// Makes what can be made of a blob that a user wants, of the older version that the user named. None where the blob
    /// is here already, or the node has no network.
    ///
    /// # Errors
    /// `File` where the older version is a file that cannot be read, `Usage` where it is no hash.
    pub(super) async fn delta_of(
        &self,
        hash: Hash,
        base: BaseName,
        timeout: Option<Duration>,
    ) -> Result<Option<Delta>, Failure> {
        let (opened, name) = match base {
            BaseName::Blob(base) => {
                let base = parse(&base)?;
                let opened =
                    compute::store(&self.store, move |store| store.open_blob(&base)).await?;
                (opened.map(Base::Blob), base.to_hex())
            }
            BaseName::File(path) => {
                let name = path.display().to_string();
                let opened = compute::run(move || Base::open(&path)).await?;
                let refuse = |error| {
                    Failure::new(Trouble::File, format!("cannot read the base {name}: {error}"))
                };
                (Some(opened.map_err(refuse)?), name)
            }
        };
        match opened {
            Some(base) => self.delta(hash, (base, name), timeout).await,
            None => Ok(Some(Delta::none(name, "the older version is not in the store"))),
        }
    }

    /// Makes what can be made of a blob out of `base`. None where the blob is here already, or the node has no
    /// network.
    ///
    /// Dropping the future leaves what was made by then in the store.
    pub(super) async fn delta(
        &self,
        hash: Hash,
        (base, name): (Base, String),
        timeout: Option<Duration>,
    ) -> Result<Option<Delta>, Failure> {
        let Some(driver) = &self.driver else { return Ok(None) };
        if compute::store(&self.store, move |store| store.find(&hash)).await?.is_some() {
            return Ok(None);
        }
        if base.size() < DELTA_BYTES_MIN {
            return Ok(Some(Delta::none(name, "the older version is too short")));
        }
        let began = Instant::now();
        let limit = TIME_MIN + Duration::from_secs(base.size() / BYTES_PER_S);
        // Whoever is in a hurry still has half of the time for the get.
        let limit = timeout.map_or(limit, |timeout| limit.min(timeout / 2));
        let (mut made, mut peer, mut neighbours) = (Made::default(), None, 0);
        let base = Arc::new(base);
        let work = async {
            let holders = holders(driver, hash).await?;
            neighbours = super::len_u64(holders.neighbours);
            let mut end = Err(FetchError::Absent.into());
            for holder in holders.peers.iter().take(HOLDERS_MAX) {
                peer = Some(*holder);
                end = self.delta_with((&holders, holder), hash, &base, &mut made).await;
                if !matches!(end, Err(DeltaError::Fetch(_))) {
                    break;
                }
            }
            Ok::<_, Failure>(end)
        };
        let outcome = match tokio::time::timeout(limit, work).await {
            Err(_) => "it took too long".to_owned(),
            Ok(end) => match end? {
                Ok(()) if made.whole => "whole".to_owned(),
                Ok(()) => "part".to_owned(),
                Err(error) => error.to_string(),
            },
        };
        if made.whole {
            driver.held_with(std::iter::once(hash));
        }
        let Made { size, copied, fetched, beside, whole } = made;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(blob = %hash.fmt_short(), copied, fetched, beside, outcome, "delta");
        let peer = peer.as_ref().map(peer_text);
        let row = DeltaRow { base: name, peer, copied, fetched, beside, outcome, ms };
        Ok(Some(Delta { whole, size, row, neighbours }))
    }

    async fn delta_with(
        &self,
        (holders, peer): (&DeltaHolders, &PeerId),
        hash: Hash,
        base: &Arc<Base>,
        made: &mut Made,
    ) -> Result<(), DeltaError> {
        let swarm = &holders.swarm;
        swarm.connect(peer).await.map_err(FetchError::Connect)?;
        let stream = swarm.open_blob(peer).await.map_err(FetchError::from)?;
        make(stream, hash, base, &self.store, made).await
    }
}

impl Delta {
    /// Says why nothing was made.
    fn none(base: String, outcome: &str) -> Self {
        let row = DeltaRow { base, outcome: outcome.to_owned(), ..DeltaRow::default() };
        Self { whole: false, size: 0, row, neighbours: 0 }
    }
}

/// Finds out who may be asked. A node that was started for this alone waits for its first neighbour.
async fn holders(driver: &DriverHandle, hash: Hash) -> Result<DeltaHolders, Failure> {
    let began = Instant::now();
    let mut pace = interval(LOOK_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let holders = driver.delta_holders(hash).await?;
        let is_alone = holders.neighbours == 0 && began.elapsed() < NEIGHBOURS_WITHIN;
        if !is_alone {
            return Ok(holders);
        }
    }
}
