//! The requester's side: one task for each neighbour, and one stream while there is something to ask for.

mod answers;
mod bulk;
mod line;
mod quick;
mod unanswered;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::wire::frame::{Frame, FrameError, FrameReader};
use blobmesh_protocol::wire::lane::LaneOffer;
use blobmesh_protocol::wire::message::{LANE_OFFER, body_len_max};
use blobmesh_protocol::wire::small::{PACK_BLOBS_MAX, Packs, SmallPack, SmallRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::keeper::Keeper;
use super::lane::frame_of;
use super::{End, Ends, Request, UNANSWERED_MAX};
use crate::alarm::Alarm;
use crate::lane::QuickLane;
use crate::transfer::requester::Way;
use crate::transfer::{FetchError, StreamError};
pub(super) use answers::outcome_of;
use bulk::{LaneSlot, LaneState};
use line::Idle;
pub(crate) use line::Line;
use quick::{Quick, QuickState};
use unanswered::Unanswered;

/// How long a neighbour that owes answers may say nothing. The engine has given up its requests by then.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a stream without requests is kept: below what the provider keeps it.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a neighbour may take to accept requests.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many requests are written at once, where each is a message of its own.
const REQUESTS_AT_ONCE: usize = 64;
/// How many requests are worth one message together, and a lane.
pub(super) const PACK_MIN: usize = 8;
/// How long a stream may be left alone while a lane does its work: its provider ends it after 60 s.
const STREAM_REST_MAX: Duration = Duration::from_secs(20);
/// How much is read of the stream at once.
const READ_LEN: usize = 64 << 10;

/// Makes the requests of one neighbour as they come, until nobody can make more and all have ended.
///
/// The stream is opened when the first request comes, and again after it broke or was idle. Whatever breaks
/// it, each request that was out ends as failed.
///
/// While the task waits for more, whoever makes a request may write it itself, by the [`Line`]. `packs` says as
/// what the neighbour takes many requests.
pub(crate) async fn run<W: Way, E: Ends>(
    way: W,
    (peer, packs): (PeerId, Packs),
    (mut queue, line): (mpsc::Receiver<Request>, Arc<Line<W::Stream>>),
    keeper: Keeper,
    ends: E,
) {
    while let Some(first) = queue.recv().await {
        let unanswered = Arc::new(Unanswered::default());
        let error = match way.open().await {
            Ok(stream) => {
                let over = (&way, peer, packs);
                let (session, mut came_back) = Session::new(over, &unanswered, &keeper, &ends);
                let from = (&mut queue, &*line, &mut came_back);
                let ran = session.run(stream, first, from).await;
                line.close();
                drop(session);
                came_back.close();
                while let Ok(left) = came_back.try_recv() {
                    for request in left {
                        unanswered.add(request);
                    }
                }
                // A request may have been written just before the stream was closed for want of any.
                let ended = (unanswered.len() > 0).then_some(SessionError::Ended);
                ran.err().or(ended)
            }
            Err(error) => {
                unanswered.add(first);
                // Those behind it would wait as long for nothing.
                std::iter::from_fn(|| queue.try_recv().ok()).for_each(|next| {
                    unanswered.add(next);
                });
                Some(SessionError::Fetch(error))
            }
        };
        let Some(error) = error else { continue };
        tracing::debug!(?peer, %error, "small requests came to nothing");
        let outcome = FetchOutcome::Failed { detail: error.to_string() };
        let left = unanswered.take_all().into_iter().map(|request| End {
            fetch: request.fetch,
            peer,
            hash: request.hash,
            outcome: outcome.clone(),
            bytes: None,
        });
        ends.ended(left.collect()).await;
    }
}

/// Says why a stream of small requests is of no further use.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("the peer ended the stream of small requests")]
    Ended,
    #[error("the peer answered no small request for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the peer did not take small requests in time")]
    TooSlow,
    #[error("the peer answered a small request that was not made, or twice")]
    NotAsked,
    #[error("the peer answered small requests with a frame of kind {kind:#04x}")]
    OutOfTurn { kind: u8 },
}

impl From<std::io::Error> for SessionError {
    fn from(error: std::io::Error) -> Self {
        Self::Fetch(StreamError::Io(error).into())
    }
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        Self::Fetch(error.into())
    }
}

/// Is where a session's requests come from: those that make them, who may write to the stream meanwhile, and a lane that
/// gives some back.
type Requests<'a, S> =
    (&'a mut mpsc::Receiver<Request>, &'a Line<S>, &'a mut mpsc::Receiver<Vec<Request>>);

/// Is one stream's life.
struct Session<'a, W, E> {
    way: &'a W,
    peer: PeerId,
    packs: Packs,
    unanswered: &'a Arc<Unanswered>,
    keeper: &'a Keeper,
    ends: &'a E,
    lane: Arc<LaneSlot>,
    quick: Mutex<QuickState>,
    /// Takes what a lane was not answered.
    back: mpsc::Sender<Vec<Request>>,
}

impl<W, E> Drop for Session<'_, W, E> {
    fn drop(&mut self) {
        self.lane.stop.store(true, Ordering::Relaxed);
        *self.lane.lock() = LaneState::Spent;
    }
}

impl<'a, W: Way, E: Ends> Session<'a, W, E> {
    /// Makes a session, and what takes what its lane gives back.
    fn new(
        (way, peer, packs): (&'a W, PeerId, Packs),
        unanswered: &'a Arc<Unanswered>,
        keeper: &'a Keeper,
        ends: &'a E,
    ) -> (Self, mpsc::Receiver<Vec<Request>>) {
        let (back, came_back) = mpsc::channel(1);
        let (lane, quick) = (Arc::default(), Mutex::default());
        (Self { way, peer, packs, unanswered, keeper, ends, lane, quick, back }, came_back)
    }

    /// Asks and hears until the stream breaks, which is an error, or nobody has asked for anything for a
    /// while.
    async fn run<S: AsyncRead + AsyncWrite + Send>(
        &self,
        stream: S,
        first: Request,
        from: Requests<'_, S>,
    ) -> Result<(), SessionError> {
        let (reader, writer) = tokio::io::split(stream);
        let (opened, lanes) = mpsc::channel(1);
        let (quicks, quick) = mpsc::channel(1);
        tokio::select! {
            written = self.write(writer, first, from, quick) => written,
            read = self.read(reader, opened) => read,
            never = self.hear_quick(lanes, quicks) => match never {},
        }
    }

    /// Writes requests as they come, as many at once as there are.
    async fn write<S: AsyncRead + AsyncWrite>(
        &self,
        mut writer: WriteHalf<S>,
        first: Request,
        (queue, line, came_back): Requests<'_, S>,
        mut quicks: mpsc::Receiver<Quick>,
    ) -> Result<(), SessionError> {
        let mut requests = vec![first];
        let mut frames = Vec::new();
        let at_once = if self.takes_packs() { PACK_BLOBS_MAX } else { REQUESTS_AT_ONCE };
        let (mut quick, mut singles) = (None::<Quick>, 0);
        let mut written = Instant::now();
        loop {
            while requests.len() < at_once
                && let Ok(next) = queue.try_recv()
            {
                requests.push(next);
            }
            self.lane.gather(&mut requests, queue).await;
            if written.elapsed() < STREAM_REST_MAX {
                requests = self.hand_to_lane(requests);
                requests = self.ask_quickly(&mut quick, requests).await;
            }
            if !requests.is_empty() {
                written = Instant::now();
            }
            self.encode(&mut requests, &mut frames, &mut singles)?;
            let write = async {
                writer.write_all(&frames).await?;
                writer.flush().await
            };
            timeout(WRITE_TIMEOUT, write).await.map_err(|_| SessionError::TooSlow)??;
            frames.clear();
            while self.unanswered.len() >= UNANSWERED_MAX {
                self.unanswered.fewer.notified().await;
            }
            let (unanswered, free) = (Arc::clone(self.unanswered), self.free_until_quick(singles));
            *line.lock() = Some(Idle { writer, unanswered, quick, written, free, rest: None });
            let mut opened = None;
            tokio::select! {
                next = queue.recv() => match next {
                    Some(next) => requests.push(next),
                    // Nobody asks any more; the last answers are still to come.
                    None => std::future::pending().await,
                },
                () = line.begun.notified() => {}
                Some(left) = came_back.recv() => requests.extend(left),
                Some(quick) = quicks.recv() => opened = Some(quick),
            }
            let Some(idle) = line.lock().take() else { return Err(SessionError::Ended) };
            (writer, written) = (idle.writer, idle.written);
            quick = opened.or(idle.quick).filter(|quick| !quick.unanswered.is_closed());
            singles = singles.saturating_add(free - idle.free);
            frames.extend(idle.rest.unwrap_or_default());
        }
    }

    /// Numbers requests, and appends their frames: one of all, where the neighbour takes that and they are many.
    /// `singles` counts those that a quick lane would be for.
    fn encode(
        &self,
        requests: &mut Vec<Request>,
        frames: &mut Vec<u8>,
        singles: &mut u32,
    ) -> Result<(), SessionError> {
        if self.takes_packs() {
            while requests.len() >= PACK_MIN {
                let from = requests.len().saturating_sub(PACK_BLOBS_MAX);
                let keeps = requests[from..].iter().any(|request| request.keep);
                let Some(first) = self.unanswered.add_all(&requests[from..]) else { break };
                let hashes = requests.drain(from..).map(|request| request.hash).collect();
                let takes_lane =
                    if keeps { self.asks_for_lane() } else { self.asks_for_quick(singles) };
                frames.extend(frame_of(
                    self.packs,
                    Codec::ALL,
                    SmallPack { first, takes_lane, hashes },
                )?);
            }
        }
        for request in requests.drain(..) {
            let id = self.unanswered.add(request);
            let hash = request.hash;
            frames.extend(match self.asks_for_quick(singles) {
                false => SmallRequest { id, hash }.encode()?,
                true => SmallPack { first: id, takes_lane: true, hashes: vec![hash] }.encode()?,
            });
        }
        Ok(())
    }

    fn takes_packs(&self) -> bool {
        self.packs != Packs::None
    }

    /// Takes answers as they come.
    async fn read<S: AsyncRead>(
        &self,
        mut reader: ReadHalf<S>,
        opened: mpsc::Sender<QuickLane>,
    ) -> Result<(), SessionError> {
        let mut frames = FrameReader::new(body_len_max);
        let mut buffer = vec![0; READ_LEN];
        let mut alarm = Alarm::new();
        loop {
            let deadline = Instant::now() + SILENCE_MAX;
            let len = match alarm.limit(deadline, reader.read(&mut buffer)).await {
                Some(read) => read?,
                None => match self.unanswered.silence() {
                    (silence, true) if silence >= SILENCE_MAX => return Err(SessionError::Silent),
                    (silence, false) if silence >= IDLE_MAX => return Ok(()),
                    _ => continue,
                },
            };
            if len == 0 {
                return Err(SessionError::Ended);
            }
            let mut input = &buffer[..len];
            let mut ended = Vec::new();
            let mut taken = Ok(());
            while taken.is_ok() && !input.is_empty() {
                taken = match frames.poll_frame(&mut input) {
                    Ok(Some(frame)) => self.take(frame, &opened, &mut ended).await,
                    Ok(None) => break,
                    Err(error) => Err(error.into()),
                };
            }
            self.unanswered.heard();
            if !ended.is_empty() {
                self.ends.ended(ended).await;
            }
            taken?;
        }
    }

    /// Takes what came: an offer, or answers.
    async fn take(
        &self,
        frame: Frame,
        opened: &mpsc::Sender<QuickLane>,
        ended: &mut Vec<End>,
    ) -> Result<(), SessionError> {
        if frame.kind != LANE_OFFER || !self.takes_packs() {
            return self.take_answers(frame, self.unanswered, ended).await;
        }
        let offer: LaneOffer = frame.decode()?;
        if !offer.is_valid() {
            return Err(SessionError::OutOfTurn { kind: LANE_OFFER });
        }
        // Where both kinds were asked for, any offer is of use for either.
        if self.lane.take_asked() {
            self.take_offer(offer).await;
        } else if self.take_quick_asked() {
            self.take_quick_offer(offer, opened).await;
        } else {
            return Err(SessionError::OutOfTurn { kind: LANE_OFFER });
        }
        Ok(())
    }
}
