//! The requester's side: one task for each neighbour, and one stream while there is something to ask for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
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
use crate::lane::{Lanes, QuickLane, QuickReader, QuickWriter};
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
/// After how many single requests on the stream a quick lane is asked for.
const QUICK_AFTER: u32 = 4;
/// After how many of them the task looks again, where none could be asked for.
const QUICK_LOOK_AFTER: u32 = 1_024;
/// How long a quick lane is kept that nobody needs: below the 10 s for which a provider keeps it.
const QUICK_IDLE_MAX: Duration = Duration::from_secs(5);
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
    quick: Option<Quick>,
    /// When the stream was last written to.
    written: Instant,
    /// How many requests may be written by others before the task looks whether it should ask for a quick lane.
    free: u32,
    /// What the stream did not take at once, for the task to write.
    rest: Option<Vec<u8>>,
}

impl<S> Default for Line<S> {
    fn default() -> Self {
        Self { idle: Mutex::new(None), begun: Notify::new() }
    }
}

impl<S: AsyncRead + AsyncWrite> Line<S> {
    /// Writes a request, if the stream is open, and no other is out; false where the task has to. Never waits: what is not
    /// taken at once is left to the task.
    pub(crate) fn write(&self, request: Request) -> bool {
        let Ok(mut idle) = self.idle.try_lock() else { return false };
        let Some(idle) = idle.as_mut() else { return false };
        let written = idle.write(request);
        if written == Written::InPart {
            self.begun.notify_one();
        }
        written != Written::Nothing
    }

    fn close(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Idle<S>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says how much of a request was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    InPart,
    Whole,
}

impl<S: AsyncRead + AsyncWrite> Idle<S> {
    /// Writes a request to the quick lane, or else to the stream, unless others are out: the task writes together those
    /// that follow.
    fn write(&mut self, request: Request) -> Written {
        let is_quick = self.written.elapsed() < STREAM_REST_MAX;
        let quick = self.quick.as_mut().filter(|_| is_quick);
        let owes = |unanswered: &Unanswered| unanswered.len() > 0;
        let owed = owes(&self.unanswered) || quick.as_ref().is_some_and(|of| owes(&of.unanswered));
        if owed || self.rest.is_some() {
            return Written::Nothing;
        }
        let Some(quick) = quick else { return self.write_to_stream(request) };
        match quick.ask(&[request]) {
            None => Written::Nothing,
            Some(true) => Written::Whole,
            Some(false) => {
                self.rest = Some(Vec::new());
                Written::InPart
            }
        }
    }

    fn write_to_stream(&mut self, request: Request) -> Written {
        match self.free.checked_sub(1) {
            Some(free) => self.free = free,
            None => return Written::Nothing,
        }
        let id = self.unanswered.add(request);
        let Ok(frame) = (SmallRequest { id, hash: request.hash }).encode() else {
            self.unanswered.take(id).ok();
            return Written::Nothing;
        };
        self.written = Instant::now();
        let mut cx = Context::from_waker(Waker::noop());
        let mut writer = Pin::new(&mut self.writer);
        let written = match writer.as_mut().poll_write(&mut cx, &frame) {
            Poll::Ready(Ok(len)) => len,
            // The task meets the same, and its waker is woken.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        let left = frame.get(written..).unwrap_or_default();
        if left.is_empty() && matches!(writer.poll_flush(&mut cx), Poll::Ready(Ok(()))) {
            return Written::Whole;
        }
        self.rest = Some(left.to_vec());
        Written::InPart
    }
}

/// Asks on a quick lane.
#[derive(Debug)]
struct Quick {
    writer: QuickWriter,
    /// As what the neighbour takes many requests.
    packs: Packs,
    /// What the lane owes; closed once the lane is.
    unanswered: Arc<Unanswered>,
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
    fn ask(&mut self, requests: &[Request]) -> Option<bool> {
        let packs = if requests.len() < PACK_MIN { Packs::Plain } else { self.packs };
        if self.unanswered.len() + requests.len() > UNANSWERED_MAX {
            return None;
        }
        let first = self.unanswered.add_all(requests)?;
        let hashes = requests.iter().map(|request| request.hash).collect();
        let frame = frame_of(packs, SmallPack { first, takes_lane: false, hashes });
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
    /// Set when no more may be added.
    closed: bool,
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

    /// Numbers requests that follow each other, and returns the first number; none where one of them is in use, and
    /// once it is closed.
    fn add_all(&self, requests: &[Request]) -> Option<u32> {
        let mut numbered = self.lock();
        if numbered.closed {
            return None;
        }
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

    /// Takes all out, and no more in.
    fn close(&self) -> Vec<Request> {
        self.lock().closed = true;
        self.take_all()
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
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
    quick: Mutex<QuickState>,
    /// Takes what a lane was not answered.
    back: mpsc::Sender<Vec<Request>>,
}

/// Says whether a quick lane may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum QuickState {
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
    /// Returns whether a lane was asked for, which is then being opened.
    fn take_asked(&self) -> bool {
        let mut state = self.lock();
        let asked = matches!(*state, LaneState::Asked);
        if asked {
            *state = LaneState::Spent;
        }
        asked
    }

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

    /// Asks on the quick lane, where there is one, and they are for it; returns those that go over the stream.
    async fn ask_quickly(&self, quick: &mut Option<Quick>, requests: Vec<Request>) -> Vec<Request> {
        let Some(quick) = quick else { return requests };
        let taken =
            !requests.is_empty() && quick.takes(&requests) && quick.ask(&requests).is_some();
        // Those, and what others left.
        quick.flush().await;
        if taken { Vec::new() } else { requests }
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
                frames.extend(frame_of(self.packs, SmallPack { first, takes_lane, hashes })?);
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

    /// Counts a message on the stream that might have gone over a quick lane, and returns whether one is to be asked for,
    /// once.
    fn asks_for_quick(&self, singles: &mut u32) -> bool {
        *singles = singles.saturating_add(1);
        let asks = *singles > QUICK_AFTER && self.may_ask_for_quick();
        if asks {
            *self.lock_quick() = QuickState::Asked;
            *singles = 0;
        }
        asks
    }

    /// Returns how many more messages may go over the stream before a quick lane is asked for.
    fn free_until_quick(&self, singles: u32) -> u32 {
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
    fn take_quick_asked(&self) -> bool {
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
    async fn take_quick_offer(&self, offer: LaneOffer, opened: &mpsc::Sender<QuickLane>) {
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
    async fn hear_quick(
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

    /// Takes an answer, or some of them.
    async fn take_answers(
        &self,
        frame: Frame,
        unanswered: &Unanswered,
        ended: &mut Vec<End>,
    ) -> Result<(), SessionError> {
        if frame.kind != SMALL_BUNDLE || self.packs != Packs::Coded {
            return self.take_answer(frame, unanswered, ended).await;
        }
        let opened = compute::run(move || answers_in(&frame.body)).await;
        for answer in opened.map_err(FetchError::from)?? {
            self.take_answer(answer, unanswered, ended).await?;
        }
        Ok(())
    }

    /// Takes one answer. A blob that is kept goes to the keeper, who tells of its end.
    async fn take_answer(
        &self,
        frame: Frame,
        unanswered: &Unanswered,
        ended: &mut Vec<End>,
    ) -> Result<(), SessionError> {
        let (request, outcome, bytes) = match frame.kind {
            SMALL_BLOB => {
                let (id, _) = split_small_blob(&frame.body)?;
                let request = unanswered.take(id)?;
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
                (unanswered.take(answer.id)?, outcome_of(answer.result), None)
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
