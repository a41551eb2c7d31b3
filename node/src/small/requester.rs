//! The requester's side: one task for each neighbour, and one stream while there is something to ask for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::wire::frame::{Frame, FrameError, FrameReader};
use blobmesh_protocol::wire::lane::LaneOffer;
use blobmesh_protocol::wire::message::{LANE_OFFER, body_len_max};
use blobmesh_protocol::wire::small::{
    PACK_BLOBS_MAX, Packs, SMALL_ANSWER, SMALL_BLOB, SMALL_BUNDLE, SMALL_PREFIX_LEN, SmallAnswer,
    SmallPack, SmallRequest, SmallResult, split_small_blob,
};
use blobmesh_protocol::{Hash, PeerId};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::keeper::{Arrival, Keeper};
use super::lane::{Talk, frame_of};
use super::{End, Ends, Request, UNANSWERED_MAX, answers_in};
use crate::alarm::Alarm;
use crate::compute;
use crate::lane::Lanes;
use crate::transfer::requester::Way;
use crate::transfer::{FetchError, StreamError};

/// How long a neighbour that owes answers may say nothing. The engine has given up its requests by then.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a stream without requests is kept: below what the provider keeps it.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a neighbour may take to accept requests.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many requests are written at once, where each is a message of its own.
const REQUESTS_AT_ONCE: usize = 64;
/// How many requests are worth one message together, and a lane.
const PACK_MIN: usize = 8;
/// How many messages wait for a lane's thread before requests go over the stream again.
const LANE_WAITING_MAX: usize = 4;
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

/// Lets a stream be written by whoever has a request, while its task has none.
#[derive(Debug)]
pub(crate) struct Line<S> {
    idle: Mutex<Option<Idle<S>>>,
    /// Told when the task has to go on with what was begun.
    begun: Notify,
}

/// Is a stream that nothing is being written to.
#[derive(Debug)]
struct Idle<S> {
    writer: WriteHalf<S>,
    unanswered: Arc<Unanswered>,
    /// What the stream did not take at once, for the task to write.
    rest: Option<Vec<u8>>,
}

impl<S> Default for Line<S> {
    fn default() -> Self {
        Self { idle: Mutex::new(None), begun: Notify::new() }
    }
}

impl<S: AsyncRead + AsyncWrite> Line<S> {
    /// Writes a request, if the stream is open, and no other is out on it; false where the task has to. Never waits:
    /// what the stream does not take at once is left to the task.
    pub(crate) fn write(&self, request: Request) -> bool {
        let Ok(mut idle) = self.idle.try_lock() else { return false };
        let Some(Idle { writer, unanswered, rest: rest @ None }) = idle.as_mut() else {
            return false;
        };
        if unanswered.len() > 0 {
            // The task writes those that follow together.
            return false;
        }
        let id = unanswered.add(request);
        let Ok(frame) = (SmallRequest { id, hash: request.hash }).encode() else {
            unanswered.take(id).ok();
            return false;
        };
        let mut cx = Context::from_waker(Waker::noop());
        let mut writer = Pin::new(writer);
        let written = match writer.as_mut().poll_write(&mut cx, &frame) {
            Poll::Ready(Ok(len)) => len,
            // The task meets the same, and its waker is woken.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        let left = frame.get(written..).unwrap_or_default();
        if !left.is_empty() || !matches!(writer.poll_flush(&mut cx), Poll::Ready(Ok(()))) {
            *rest = Some(left.to_vec());
            self.begun.notify_one();
        }
        true
    }

    fn close(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Idle<S>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the requests that are out, by their numbers.
#[derive(Debug, Default)]
struct Unanswered {
    requests: Mutex<Numbered>,
    /// Told when there are fewer.
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Numbered {
    by_id: HashMap<u32, Request>,
    next: u32,
    /// When there were none last, or one was answered.
    heard: Option<Instant>,
}

impl Unanswered {
    /// Numbers a request.
    fn add(&self, request: Request) -> u32 {
        let mut numbered = self.lock();
        if numbered.by_id.is_empty() {
            numbered.heard = Some(Instant::now());
        }
        loop {
            let id = numbered.next;
            numbered.next = id.wrapping_add(1);
            // One that nobody answers keeps its number, though the others have gone round.
            if let Entry::Vacant(free) = numbered.by_id.entry(id) {
                free.insert(request);
                return id;
            }
        }
    }

    /// Numbers requests that follow each other, and returns the first number; none where one of them is in use.
    fn add_all(&self, requests: &[Request]) -> Option<u32> {
        let mut numbered = self.lock();
        if numbered.by_id.is_empty() {
            numbered.heard = Some(Instant::now());
        }
        let first = numbered.next;
        let ids = || {
            (0..requests.len()).scan(first, |id, _| {
                let this = *id;
                *id = id.wrapping_add(1);
                Some(this)
            })
        };
        if ids().any(|id| numbered.by_id.contains_key(&id)) {
            return None;
        }
        numbered.by_id.extend(ids().zip(requests.iter().copied()));
        numbered.next = ids().last().map_or(first, |last| last.wrapping_add(1));
        Some(first)
    }

    fn take(&self, id: u32) -> Result<Request, SessionError> {
        let taken = self.lock().by_id.remove(&id);
        self.fewer.notify_one();
        taken.ok_or(SessionError::NotAsked)
    }

    fn take_all(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().by_id).into_values().collect()
    }

    fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    fn heard(&self) {
        self.lock().heard = Some(Instant::now());
    }

    /// Returns for how long nothing was heard, and whether something is owed.
    fn silence(&self) -> (Duration, bool) {
        let numbered = self.lock();
        let silence = numbered.heard.map_or(Duration::ZERO, |heard| heard.elapsed());
        (silence, !numbered.by_id.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Takes what a lane was not answered.
    back: mpsc::Sender<Vec<Request>>,
}

/// Is a session's part in a lane.
#[derive(Debug, Default)]
struct LaneSlot {
    state: Mutex<LaneState>,
    /// Set when the session ends.
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
enum LaneState {
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
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let lane = Arc::default();
        (Self { way, peer, packs, unanswered, keeper, ends, lane, back }, came_back)
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
        tokio::select! {
            written = self.write(writer, first, from) => written,
            read = self.read(reader) => read,
        }
    }

    /// Writes requests as they come, as many at once as there are.
    async fn write<S: AsyncRead + AsyncWrite>(
        &self,
        mut writer: WriteHalf<S>,
        first: Request,
        (queue, line, came_back): Requests<'_, S>,
    ) -> Result<(), SessionError> {
        let mut requests = vec![first];
        let mut frames = Vec::new();
        let at_once = if self.takes_packs() { PACK_BLOBS_MAX } else { REQUESTS_AT_ONCE };
        let mut written = Instant::now();
        loop {
            while requests.len() < at_once
                && let Ok(next) = queue.try_recv()
            {
                requests.push(next);
            }
            if written.elapsed() < STREAM_REST_MAX {
                requests = self.hand_to_lane(requests);
            }
            if !requests.is_empty() {
                written = Instant::now();
            }
            self.encode(&mut requests, &mut frames)?;
            let write = async {
                writer.write_all(&frames).await?;
                writer.flush().await
            };
            timeout(WRITE_TIMEOUT, write).await.map_err(|_| SessionError::TooSlow)??;
            frames.clear();
            while self.unanswered.len() >= UNANSWERED_MAX {
                self.unanswered.fewer.notified().await;
            }
            let unanswered = Arc::clone(self.unanswered);
            *line.lock() = Some(Idle { writer, unanswered, rest: None });
            tokio::select! {
                next = queue.recv() => match next {
                    Some(next) => requests.push(next),
                    // Nobody asks any more; the last answers are still to come.
                    None => std::future::pending().await,
                },
                () = line.begun.notified() => {}
                Some(left) = came_back.recv() => requests.extend(left),
            }
            let Some(idle) = line.lock().take() else { return Err(SessionError::Ended) };
            writer = idle.writer;
            frames.extend(idle.rest.unwrap_or_default());
        }
    }

    /// Hands requests to the lane, where there is one and they are many; returns those that go over the stream.
    fn hand_to_lane(&self, requests: Vec<Request>) -> Vec<Request> {
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

    /// Numbers requests, and appends their frames: one of all, where the neighbour takes that and they are many.
    fn encode(
        &self,
        requests: &mut Vec<Request>,
        frames: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        if self.takes_packs() {
            while requests.len() >= PACK_MIN {
                let from = requests.len().saturating_sub(PACK_BLOBS_MAX);
                let Some(first) = self.unanswered.add_all(&requests[from..]) else { break };
                let hashes = requests.drain(from..).map(|request| request.hash).collect();
                let takes_lane = self.asks_for_lane();
                frames.extend(frame_of(self.packs, SmallPack { first, takes_lane, hashes })?);
            }
        }
        for request in requests.drain(..) {
            let id = self.unanswered.add(request);
            frames.extend(SmallRequest { id, hash: request.hash }.encode()?);
        }
        Ok(())
    }

    fn takes_packs(&self) -> bool {
        self.packs != Packs::None
    }

    /// Returns whether a lane is to be asked for, once.
    fn asks_for_lane(&self) -> bool {
        let mut state = self.lane.lock();
        let asks = matches!(*state, LaneState::None)
            && self.way.lanes().is_some_and(|of| of.lanes.takes(of.peer));
        if asks {
            *state = LaneState::Asked;
        }
        asks
    }

    /// Takes an offer of a lane, and has a thread open it and take over.
    async fn take_offer(&self, offer: LaneOffer) {
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
            heard: Box::new(move || unanswered.heard()),
        };
        // It ends with the session, by `stop`.
        drop(tokio::task::spawn_blocking(move || {
            run_lane(&lanes, (&host, &offer), talk, (sender, &slot, &back), &ends);
        }));
    }

    /// Takes answers as they come.
    async fn read<S: AsyncRead>(&self, mut reader: ReadHalf<S>) -> Result<(), SessionError> {
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
                    Ok(Some(frame)) => self.take(frame, &mut ended).await,
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

    /// Takes what came: an answer, some of them, or an offer.
    async fn take(&self, frame: Frame, ended: &mut Vec<End>) -> Result<(), SessionError> {
        match frame.kind {
            SMALL_BUNDLE if self.packs == Packs::Coded => {
                let opened = compute::run(move || answers_in(&frame.body)).await;
                for answer in opened.map_err(FetchError::from)?? {
                    self.take_answer(answer, ended).await?;
                }
                Ok(())
            }
            LANE_OFFER if self.takes_packs() => {
                let offer: LaneOffer = frame.decode()?;
                let state = std::mem::replace(&mut *self.lane.lock(), LaneState::Spent);
                if !offer.is_valid() || !matches!(state, LaneState::Asked) {
                    return Err(SessionError::OutOfTurn { kind: LANE_OFFER });
                }
                self.take_offer(offer).await;
                Ok(())
            }
            _ => self.take_answer(frame, ended).await,
        }
    }

    /// Takes one answer. A blob that is kept goes to the keeper, who tells of its end.
    async fn take_answer(&self, frame: Frame, ended: &mut Vec<End>) -> Result<(), SessionError> {
        let (request, outcome, bytes) = match frame.kind {
            SMALL_BLOB => {
                let (id, _) = split_small_blob(&frame.body)?;
                let request = self.unanswered.take(id)?;
                let mut bytes = Bytes::from(frame.body);
                bytes.advance(usize::try_from(SMALL_PREFIX_LEN).unwrap_or(0));
                if request.keep {
                    let Request { fetch, hash, .. } = request;
                    self.keeper.keep(Arrival { fetch, peer: self.peer, hash, bytes }).await;
                    return Ok(());
                }
                let (outcome, bytes) = verify(&request.hash, bytes);
                (request, outcome, bytes)
            }
            SMALL_ANSWER => {
                let answer: SmallAnswer = frame.decode()?;
                (self.unanswered.take(answer.id)?, outcome_of(answer.result), None)
            }
            kind => return Err(SessionError::OutOfTurn { kind }),
        };
        let Request { fetch, hash, .. } = request;
        ended.push(End { fetch, peer: self.peer, hash, outcome, bytes });
        Ok(())
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

/// Verifies a blob that is only read; it is at most a group long.
fn verify(hash: &Hash, bytes: Bytes) -> (FetchOutcome, Option<Bytes>) {
    if Hash::of(&bytes) == *hash {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        return (FetchOutcome::Read { size }, Some(bytes));
    }
    let detail = "the bytes are not the blob's".to_owned();
    (FetchOutcome::WrongBytes { detail }, None)
}

pub(super) fn outcome_of(result: SmallResult) -> FetchOutcome {
    match result {
        SmallResult::Absent => FetchOutcome::Absent,
        SmallResult::Busy { retry_after_ms } => {
            FetchOutcome::Busy { retry_after: Duration::from_millis(u64::from(retry_after_ms)) }
        }
        SmallResult::Large { size } => FetchOutcome::Large { size },
    }
}
