//! The quick lane: where few requests go that are waited for, past the tasks and the multiplexer.

use std::convert::Infallible;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::wire::frame::FrameReader;
use blobmesh_protocol::wire::lane::LaneOffer;
use blobmesh_protocol::wire::message::body_len_max;
use blobmesh_protocol::wire::small::{PACK_BLOBS_MAX, Packs, SmallPack};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::unanswered::Unanswered;
use super::{PACK_MIN, SILENCE_MAX, Session, SessionError, WRITE_TIMEOUT};
use crate::alarm::Alarm;
use crate::lane::{QuickLane, QuickReader, QuickWriter};
use crate::small::lane::frame_of;
use crate::small::{Ends, Request, UNANSWERED_MAX};
use crate::transfer::FetchError;
use crate::transfer::requester::Way;

/// After how many single requests on the stream a quick lane is asked for.
const QUICK_AFTER: u32 = 4;
/// After how many of them the task looks again, where none could be asked for.
const QUICK_LOOK_AFTER: u32 = 1_024;
/// How long a quick lane is kept that nobody needs: below the 10 s for which a provider keeps it.
const QUICK_IDLE_MAX: Duration = Duration::from_secs(5);

/// Asks on a quick lane.
#[derive(Debug)]
pub(super) struct Quick {
    writer: QuickWriter,
    /// As what the neighbour takes many requests.
    packs: Packs,
    /// What the lane owes; closed once the lane is.
    pub(super) unanswered: Arc<Unanswered>,
    /// Told when the lane cannot be written to.
    broken: Arc<Notify>,
}

impl Quick {
    /// Returns whether requests are for this lane: many that are to be kept are the business of another one.
    fn takes(&self, requests: &[Request]) -> bool {
        requests.len() < PACK_MIN
            || (requests.len() <= PACK_BLOBS_MAX && !requests.iter().any(|request| request.keep))
    }

    /// Writes requests as one message. Returns whether the socket took all of it; none where the lane is closed, or owes
    /// too much, and takes none of them.
    pub(super) fn ask(&mut self, requests: &[Request]) -> Option<bool> {
        let packs = if requests.len() < PACK_MIN { Packs::Plain } else { self.packs };
        if self.unanswered.len() + requests.len() > UNANSWERED_MAX {
            return None;
        }
        let first = self.unanswered.add_all(requests)?;
        let hashes = requests.iter().map(|request| request.hash).collect();
        let frame = frame_of(packs, Codec::ALL, SmallPack { first, takes_lane: false, hashes });
        let sent = frame.map_err(FetchError::from).and_then(|frame| self.writer.send(frame));
        if sent.is_err() {
            // What it owes is asked for on the stream.
            self.broken.notify_one();
        }
        Some(sent.unwrap_or(true))
    }

    /// Sends what the socket did not take at once.
    async fn flush(&mut self) {
        let flushed = timeout(WRITE_TIMEOUT, self.writer.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            self.broken.notify_one();
        }
    }
}

/// Says whether a quick lane may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum QuickState {
    /// There is none, and one may be asked for.
    #[default]
    None,
    /// One was asked for.
    Asked,
    /// One is open, or it broke and is not asked for again.
    Spent,
}

/// Is what a quick lane owes. What is left of it when the session ends is the session's.
struct Owed<'a> {
    quick: Arc<Unanswered>,
    session: &'a Unanswered,
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        for request in self.quick.close() {
            self.session.add(request);
        }
    }
}

impl<W: Way, E: Ends> Session<'_, W, E> {
    /// Asks on the quick lane, where there is one, and they are for it; returns those that go over the stream.
    pub(super) async fn ask_quickly(
        &self,
        quick: &mut Option<Quick>,
        requests: Vec<Request>,
    ) -> Vec<Request> {
        let Some(quick) = quick else { return requests };
        let taken =
            !requests.is_empty() && quick.takes(&requests) && quick.ask(&requests).is_some();
        // Those, and what others left.
        quick.flush().await;
        if taken { Vec::new() } else { requests }
    }

    /// Counts a message on the stream that might have gone over a quick lane, and returns whether one is to be asked for,
    /// once.
    pub(super) fn asks_for_quick(&self, singles: &mut u32) -> bool {
        *singles = singles.saturating_add(1);
        let asks = *singles > QUICK_AFTER && self.may_ask_for_quick();
        if asks {
            *self.lock_quick() = QuickState::Asked;
            *singles = 0;
        }
        asks
    }

    /// Returns how many more messages may go over the stream before a quick lane is asked for.
    pub(super) fn free_until_quick(&self, singles: u32) -> u32 {
        match self.may_ask_for_quick() {
            true => QUICK_AFTER.saturating_sub(singles),
            false => QUICK_LOOK_AFTER,
        }
    }

    fn may_ask_for_quick(&self) -> bool {
        *self.lock_quick() == QuickState::None
            && self.takes_packs()
            && self.way.lanes().is_some_and(|of| of.lanes.takes_quick(of.peer))
    }

    /// Returns whether a quick lane was asked for, which is then being opened.
    pub(super) fn take_quick_asked(&self) -> bool {
        let mut state = self.lock_quick();
        let asked = *state == QuickState::Asked;
        if asked {
            *state = QuickState::Spent;
        }
        asked
    }

    fn lock_quick(&self) -> MutexGuard<'_, QuickState> {
        self.quick.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an offer of a quick lane, and has a thread open it.
    pub(super) async fn take_quick_offer(
        &self,
        offer: LaneOffer,
        opened: &mpsc::Sender<QuickLane>,
    ) {
        let Some(lanes) = self.way.lanes().map(|of| of.lanes.clone()) else { return };
        let Some(host) = self.way.host().await else { return };
        let (peer, opened, stop) = (self.peer, opened.clone(), Arc::clone(&self.lane.stop));
        // It takes a moment, and ends with the session.
        drop(tokio::task::spawn_blocking(move || {
            match lanes.open_quick(peer, (&host, &offer), &stop) {
                Ok(lane) => drop(opened.try_send(lane)),
                Err(error) => tracing::debug!(%error, "no quick lane for small requests"),
            }
        }));
    }

    /// Hears what comes on quick lanes, one after another. What one owes at its end is asked for on the stream.
    pub(super) async fn hear_quick(
        &self,
        mut lanes: mpsc::Receiver<QuickLane>,
        quicks: mpsc::Sender<Quick>,
    ) -> Infallible {
        while let Some(QuickLane { reader, writer }) = lanes.recv().await {
            let owed = Owed { quick: Arc::default(), session: self.unanswered };
            let unanswered = Arc::clone(&owed.quick);
            let (packs, broken) = (self.packs, Arc::new(Notify::new()));
            let quick = Quick { writer, packs, unanswered, broken: Arc::clone(&broken) };
            quicks.send(quick).await.ok();
            let ran = self.hear_on(reader, &owed.quick, &broken).await;
            if let Err(error) = &ran {
                tracing::debug!(%error, "a quick lane of small requests broke");
            }
            // One that was not needed may be asked for again.
            *self.lock_quick() = if ran.is_ok() { QuickState::None } else { QuickState::Spent };
            if let Ok(place) = self.back.reserve().await {
                place.send(owed.quick.close());
            }
        }
        std::future::pending().await
    }

    /// Takes answers as they come on a quick lane, until it breaks, which is an error, or nobody needs it.
    async fn hear_on(
        &self,
        mut reader: QuickReader,
        unanswered: &Unanswered,
        broken: &Notify,
    ) -> Result<(), SessionError> {
        let mut frames = FrameReader::new(body_len_max);
        let mut alarm = Alarm::new();
        unanswered.heard();
        loop {
            let mut came = Vec::new();
            let cut = |mut bytes: &[u8]| {
                while !bytes.is_empty()
                    && let Some(frame) = frames.poll_frame(&mut bytes)?
                {
                    came.push(frame);
                }
                Ok(())
            };
            let received = async {
                tokio::select! {
                    received = reader.receive(cut) => received,
                    () = broken.notified() => Err(FetchError::Short),
                }
            };
            match alarm.limit(Instant::now() + QUICK_IDLE_MAX, received).await {
                Some(received) => received?,
                None => match unanswered.silence() {
                    (silence, true) if silence >= SILENCE_MAX => return Err(SessionError::Silent),
                    (silence, false) if silence >= QUICK_IDLE_MAX => return Ok(()),
                    _ => continue,
                },
            }
            let mut ended = Vec::new();
            let mut taken = Ok(());
            for frame in came {
                if taken.is_ok() {
                    taken = self.take_answers(frame, unanswered, &mut ended).await;
                }
            }
            unanswered.heard();
            // The stream is silent meanwhile.
            self.unanswered.heard();
            if !ended.is_empty() {
                self.ends.ended(ended).await;
            }
            taken?;
        }
    }
}
