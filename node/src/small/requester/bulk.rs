//! The lane for many: a thread takes what is to be kept, by the message.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::wire::lane::LaneOffer;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::{PACK_MIN, Session, SessionError};
use crate::lane::Lanes;
use crate::small::lane::Talk;
use crate::small::{End, Ends, Request};
use crate::transfer::requester::Way;

/// How many messages wait for a lane's thread before requests go over the stream again.
const LANE_WAITING_MAX: usize = 4;
/// How long fewer than [`PACK_MIN`] wait for others while a lane is at work on many. What was asked for alone comes alone, and
/// who wanted it wants the next then: without a pause some went one by one beside the lane for as long as there were any.
const GATHERING_TIME: Duration = Duration::from_millis(2);

/// Is a session's part in a lane.
#[derive(Debug, Default)]
pub(super) struct LaneSlot {
    state: Mutex<LaneState>,
    /// Set when the session ends.
    pub(super) stop: Arc<AtomicBool>,
    /// Set while the lane owes many answers.
    busy: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
pub(super) enum LaneState {
    /// There is none, and one may be asked for.
    #[default]
    None,
    /// One was asked for.
    Asked,
    /// One is being opened, or it broke and is not asked for again.
    Spent,
    Open(mpsc::Sender<Vec<Request>>),
}

impl LaneSlot {
    /// Returns whether a lane was asked for, which is then being opened.
    pub(super) fn take_asked(&self) -> bool {
        let mut state = self.lock();
        let asked = matches!(*state, LaneState::Asked);
        if asked {
            *state = LaneState::Spent;
        }
        asked
    }

    /// Waits a moment for more requests, where the lane owes many answers and these are too few for it. What is only read
    /// is wanted at once.
    pub(super) async fn gather(
        &self,
        requests: &mut Vec<Request>,
        queue: &mut mpsc::Receiver<Request>,
    ) {
        if requests.is_empty() || !self.busy.load(Ordering::Relaxed) {
            return;
        }
        let are_few = |requests: &[Request]| {
            requests.len() < PACK_MIN && requests.iter().all(|request| request.keep)
        };
        let more = async {
            while are_few(requests)
                && let Some(next) = queue.recv().await
            {
                requests.push(next);
            }
        };
        timeout(GATHERING_TIME, more).await.ok();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Way, E: Ends> Session<'_, W, E> {
    /// Hands requests to the lane, where there is one and they are many; returns those that go over the stream.
    pub(super) fn hand_to_lane(&self, requests: Vec<Request>) -> Vec<Request> {
        if !self.takes_packs() || requests.len() < PACK_MIN {
            return requests;
        }
        let lane = self.lane.lock();
        let LaneState::Open(lane) = &*lane else { return requests };
        // What is only read is not the store's business, nor the lane's.
        let (kept, mut rest): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|request| request.keep);
        match lane.try_send(kept) {
            Ok(()) => {}
            Err(TrySendError::Full(kept) | TrySendError::Closed(kept)) => rest.extend(kept),
        }
        rest
    }

    /// Returns whether a lane is to be asked for, once.
    pub(super) fn asks_for_lane(&self) -> bool {
        let mut state = self.lane.lock();
        let asks = matches!(*state, LaneState::None)
            && self.way.lanes().is_some_and(|of| of.lanes.takes(of.peer));
        if asks {
            *state = LaneState::Asked;
        }
        asks
    }

    /// Takes an offer of a lane, and has a thread open it and take over.
    pub(super) async fn take_offer(&self, offer: LaneOffer) {
        let Some(lanes) = self.way.lanes().map(|of| of.lanes.clone()) else { return };
        let Some(host) = self.way.host().await else { return };
        let (sender, requests) = mpsc::channel(LANE_WAITING_MAX);
        let unanswered = Arc::clone(self.unanswered);
        let (slot, back, ends) = (Arc::clone(&self.lane), self.back.clone(), self.ends.clone());
        let talk = Talk {
            peer: self.peer,
            packs: self.packs,
            store: self.keeper.store().clone(),
            ends: self.ends.clone(),
            requests,
            stop: Arc::clone(&slot.stop),
            busy: Arc::clone(&slot.busy),
            heard: Box::new(move || unanswered.heard()),
        };
        // It ends with the session, by `stop`.
        drop(tokio::task::spawn_blocking(move || {
            run_lane(&lanes, (&host, &offer), talk, (sender, &slot, &back), &ends);
        }));
    }
}

/// Opens a lane and has it work until its end; what it was not answered goes back to the session, or fails where that
/// has ended.
fn run_lane<E: Ends>(
    lanes: &Lanes,
    (host, offer): (&str, &LaneOffer),
    mut talk: Talk<E>,
    (sender, slot, back): (mpsc::Sender<Vec<Request>>, &LaneSlot, &mpsc::Sender<Vec<Request>>),
    ends: &E,
) {
    let lane = match lanes.open_packs(talk.peer, (host, offer), &slot.stop) {
        Ok(lane) => lane,
        Err(error) => return tracing::debug!(%error, "no lane for small requests"),
    };
    *slot.lock() = LaneState::Open(sender);
    let (mut left, ran) = talk.run(lane);
    talk.busy.store(false, Ordering::Relaxed);
    // One that was not needed may be asked for again.
    *slot.lock() = if ran.is_ok() { LaneState::None } else { LaneState::Spent };
    if let Err(error) = ran {
        tracing::debug!(%error, "a lane of small requests broke");
    }
    while let Ok(requests) = talk.requests.try_recv() {
        left.extend(requests);
    }
    if left.is_empty() {
        return;
    }
    if let Err(mpsc::error::SendError(left)) = back.blocking_send(left) {
        let peer = talk.peer;
        let outcome = FetchOutcome::Failed { detail: SessionError::Ended.to_string() };
        let failed = left.into_iter().map(|Request { fetch, hash, .. }| End {
            fetch,
            peer,
            hash,
            outcome: outcome.clone(),
            bytes: None,
        });
        ends.stored(failed.collect());
    }
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::Hash;
    use blobmesh_protocol::id::FetchId;
    use tokio::time::Instant;

    use super::*;

    fn request(number: u64, keep: bool) -> Request {
        let hash = Hash::of(&number.to_le_bytes());
        Request { fetch: FetchId(number), hash, keep }
    }

    /// Hands in one request and then others, and returns how many were gathered, and how long that took.
    async fn gather(busy: bool, others: usize, keep: bool) -> (usize, Duration) {
        let slot = LaneSlot::default();
        slot.busy.store(busy, Ordering::Relaxed);
        let (sender, mut queue) = mpsc::channel(PACK_MIN);
        let began = Instant::now();
        let mut requests = vec![request(0, keep)];
        let feed = async {
            for number in 1..=others {
                tokio::task::yield_now().await;
                sender.send(request(number as u64, true)).await.expect("taken");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = slot.gather(&mut requests, &mut queue) => {}
            () = feed => {}
        }
        (requests.len(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn few_wait_for_others_while_the_lane_is_at_work() {
        let (gathered, took) = gather(true, PACK_MIN, true).await;
        assert!(gathered == PACK_MIN && took < GATHERING_TIME, "{gathered} in {took:?}");
        let (gathered, took) = gather(true, 2, true).await;
        assert!(gathered == 3 && took >= GATHERING_TIME, "{gathered} in {took:?}");
        assert_eq!(gather(false, PACK_MIN, true).await, (1, Duration::ZERO));
        assert_eq!(gather(true, PACK_MIN, false).await, (1, Duration::ZERO), "one that is read");
    }
}
