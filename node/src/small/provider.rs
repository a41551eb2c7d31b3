//! The provider's side: a stream of small requests, answered as they come.

use std::collections::VecDeque;
use std::time::Duration;

use blobmesh_protocol::compress::{Bundler, Codec};
use blobmesh_protocol::wire::frame::{self, FRAME_HEADER_LEN, Frame, FrameHeader, FrameReader};
use blobmesh_protocol::wire::lane::LaneOffer;
use blobmesh_protocol::wire::message::{LANE_OFFER, body_len_max};
use blobmesh_protocol::wire::small::{
    BUNDLE_HEAD_LEN, CODED_PACK, CodedPack, SMALL_BLOB, SMALL_BYTES_MAX, SMALL_PACK,
    SMALL_PREFIX_LEN, SMALL_REQUEST, SmallAnswer, SmallPack, SmallRequest, SmallResult,
    bundle_head,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::alarm::Alarm;
use crate::compute;
use crate::lane::Slot;
use crate::store::{SmallRead, Store, StoreError};
use crate::transfer::provider::ServeError;
use crate::transfer::{StreamError, UploadRate};

/// How long a slot is kept for a peer that asks for nothing: whoever asks for one blob after another is not
/// admitted anew for each.
const SLOT_TIMEOUT: Duration = Duration::from_millis(50);
/// How long a stream may ask for nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a peer may take to accept what was read at once.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many bytes of answers are read at once, but for the last blob.
const ANSWERS_LEN: usize = 256 << 10;
/// How many requests there may be at once for their blobs to be looked for in the kernel's memory on the spot, and
/// how many bytes of answers for one more: to read and hash a few takes less than the way to another thread and
/// back, and many are better read there while others are written.
const AT_ONCE_REQUESTS: usize = 8;
const AT_ONCE_LEN: usize = 64 << 10;
/// How much is read of the stream at once: more requests than this and one frame hold wait in the stream.
const READ_LEN: usize = 8 << 10;

/// Says whether a peer is served, and keeps its slot.
pub(crate) trait Admission: Send {
    /// Is held while requests are answered; dropping it gives the slot back.
    type Slot: Slot + Send;

    /// Asks for a slot.
    ///
    /// # Errors
    /// After how long the peer should come again; none when the node stops.
    fn admit(&mut self) -> impl Future<Output = Result<Self::Slot, Option<Duration>>> + Send;
}

/// Returns whether so many requests are a few, of which each may be worth more than all of many.
pub(crate) fn are_few(requests: usize) -> bool {
    requests <= AT_ONCE_REQUESTS
}

/// Returns whether a first frame makes a blob stream one of small requests.
pub(crate) fn is_of_small(kind: u8) -> bool {
    matches!(kind, SMALL_REQUEST | SMALL_PACK | CODED_PACK)
}

/// Answers small requests until the peer ends the stream, or asks for nothing for a while. `first` is the
/// frame that made the stream one of small requests; `offer` may make an offer of a lane for those that follow.
pub(crate) async fn serve<S, A>(
    stream: S,
    first: Frame,
    (store, upload): (&Store, &UploadRate),
    admission: A,
    offer: impl Fn() -> Option<LaneOffer> + Send,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
    A: Admission,
{
    let mut asked = Asked::default();
    asked.take(&first)?;
    let frames = FrameReader::new(body_len_max);
    let buffer = vec![0; READ_LEN];
    let upload = upload.clone();
    let (slot, alarm) = (None, Alarm::new());
    let (bundler, left) = (Bundler::default(), Instant::now());
    let mut service =
        Service { stream, frames, buffer, asked, upload, slot, alarm, admission, bundler, left };
    loop {
        let (answers, len) = match service.admit().await {
            Ok(()) => service.read(store).await?,
            Err(Some(retry_after)) => (service.turn_away(retry_after)?, 0),
            // The node stops.
            Err(None) => return Ok(()),
        };
        if std::mem::take(&mut service.asked.takes_lane)
            && let Some(offer) = offer()
        {
            let offer = frame::encode(LANE_OFFER, &offer).map_err(StreamError::from)?;
            service.write(&offer).await?;
        }
        service.write(&answers).await?;
        service.note_left(len);
        if service.asked.requests.is_empty() && !service.hear().await? {
            return Ok(());
        }
    }
}

struct Service<S, A: Admission> {
    stream: S,
    frames: FrameReader,
    buffer: Vec<u8>,
    asked: Asked,
    upload: UploadRate,
    slot: Option<A::Slot>,
    alarm: Alarm,
    admission: A,
    bundler: Bundler,
    /// When the last answers had left.
    left: Instant,
}

/// Holds what is asked for and not answered yet; never more than one read brings to its end.
#[derive(Debug, Default)]
struct Asked {
    requests: VecDeque<SmallRequest>,
    /// Whether the peer has asked for a lane.
    takes_lane: bool,
    /// The codecs that it takes for bundles.
    codecs: u8,
}

/// Is what a pack asks for.
pub(crate) struct Pack {
    pub(crate) requests: VecDeque<SmallRequest>,
    takes_lane: bool,
    /// The codecs that the peer takes for bundles, if it said so.
    pub(crate) codecs: Option<u8>,
}

impl Pack {
    /// Reads a frame of a pack.
    ///
    /// # Errors
    /// [`ServeError::NoRequest`] for any other, and for one that breaks the rules.
    pub(crate) fn of(frame: &Frame) -> Result<Self, ServeError> {
        let (pack, codecs): (SmallPack, _) = match frame.kind {
            SMALL_PACK => (frame.decode().map_err(StreamError::from)?, None),
            CODED_PACK => {
                let CodedPack { codecs, pack } = frame.decode().map_err(StreamError::from)?;
                (pack, Some(codecs))
            }
            _ => return Err(ServeError::NoRequest),
        };
        let requests = pack.requests().ok_or(ServeError::NoRequest)?.collect();
        Ok(Self { requests, takes_lane: pack.takes_lane, codecs })
    }
}

impl Asked {
    fn take(&mut self, frame: &Frame) -> Result<(), ServeError> {
        match frame.kind {
            SMALL_REQUEST => {
                if self.requests.is_empty() {
                    // Whoever asks for one blob wants it at once.
                    self.codecs = 0;
                }
                self.requests.push_back(frame.decode().map_err(StreamError::from)?);
            }
            _ => {
                let Pack { requests, takes_lane, codecs } = Pack::of(frame)?;
                self.requests.extend(requests);
                self.takes_lane |= takes_lane;
                self.codecs = codecs.unwrap_or(self.codecs);
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin, A: Admission> Service<S, A> {
    /// Gets a slot, unless there is one.
    async fn admit(&mut self) -> Result<(), Option<Duration>> {
        if self.slot.is_none() {
            self.slot = Some(self.admission.admit().await?);
        }
        Ok(())
    }

    /// Reads the answers to some of the requests: of what lies in this node's memory, and of a few that lie in the
    /// kernel's, at once, of the rest on a thread that may block, as is the work of a bundle. Returns what is to be
    /// written, and how long it was before it was compressed.
    async fn read(&mut self, store: &Store) -> Result<(Vec<u8>, usize), ServeError> {
        let mut answers = Answers::default();
        let few = are_few(self.asked.requests.len());
        self.asked.requests.retain(|request| !answers.push_at_once(store, request, few));
        self.bundler.set_codecs(self.asked.codecs);
        let mut len = answers.frames.len();
        if !self.asked.requests.is_empty() || self.bundler.would_try(len) {
            let (store, mut requests) = (store.clone(), std::mem::take(&mut self.asked.requests));
            let mut bundler = std::mem::take(&mut self.bundler);
            let read = compute::run(move || {
                let read = answers.read(&store, &mut requests, SMALL_BYTES_MAX, true);
                let len = answers.bundle(&mut bundler);
                (requests, bundler, (answers, len), read)
            });
            let (left, bundler, got, read) = read.await.map_err(|_| ServeError::Worker)?;
            (self.asked.requests, self.bundler, (answers, len)) = (left, bundler, got);
            read?;
        }
        if let Some(slot) = &mut self.slot {
            slot.sent(answers.sent);
        }
        Ok((answers.frames, len))
    }

    /// Takes in that answers of so many bytes, before they were compressed, have left.
    fn note_left(&mut self, len: usize) {
        let before = std::mem::replace(&mut self.left, Instant::now());
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.bundler.left(len, self.left - before);
    }

    fn turn_away(&mut self, retry_after: Duration) -> Result<Vec<u8>, ServeError> {
        turn_away(&mut self.asked.requests, retry_after)
    }

    async fn write(&mut self, answers: &[u8]) -> Result<(), ServeError> {
        self.upload.turn(answers.len()).await;
        let write = async {
            self.stream.write_all(answers).await?;
            self.stream.flush().await
        };
        let written = timeout(WRITE_TIMEOUT, write).await.map_err(|_| ServeError::TooSlow)?;
        Ok(written.map_err(StreamError::from)?)
    }

    /// Takes the next requests; false when none will come.
    async fn hear(&mut self) -> Result<bool, ServeError> {
        while self.asked.requests.is_empty() {
            let waits = if self.slot.is_some() { SLOT_TIMEOUT } else { IDLE_TIMEOUT };
            let read = self.stream.read(&mut self.buffer);
            let len = match self.alarm.limit(Instant::now() + waits, read).await {
                Some(read) => read.map_err(StreamError::from)?,
                None if self.slot.take().is_some() => {
                    self.bundler.rested();
                    continue;
                }
                None => 0,
            };
            if len == 0 {
                return Ok(false);
            }
            let mut input = &self.buffer[..len];
            while !input.is_empty()
                && let Some(frame) =
                    self.frames.poll_frame(&mut input).map_err(StreamError::from)?
            {
                self.asked.take(&frame)?;
            }
        }
        Ok(true)
    }
}

/// Returns the answers that tell a peer when to come again with its requests.
pub(crate) fn turn_away(
    requests: &mut VecDeque<SmallRequest>,
    retry_after: Duration,
) -> Result<Vec<u8>, ServeError> {
    let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    let mut answers = Vec::new();
    for request in requests.drain(..) {
        push_answer(&request, SmallResult::Busy { retry_after_ms }, &mut answers)?;
    }
    Ok(answers)
}

/// Holds answers that are written at once.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) frames: Vec<u8>,
    /// The bytes of blobs among them.
    pub(crate) sent: u64,
}

impl Answers {
    fn is_full(&self) -> bool {
        self.frames.len() >= ANSWERS_LEN
    }

    /// Appends the answer to a request for a blob that lies in memory; false where there is no room, or it
    /// does not. `few` says that it may be the kernel's.
    fn push_at_once(&mut self, store: &Store, request: &SmallRequest, few: bool) -> bool {
        if self.is_full() {
            return false;
        }
        let (hash, looks) = (&request.hash, few && self.frames.len() < AT_ONCE_LEN);
        let read = self.push_blob(request, |frames| {
            let here = store.read_hot(hash, SMALL_BYTES_MAX, frames)
                || (looks && store.read_cached(hash, SMALL_BYTES_MAX, frames));
            if here { SmallRead::Whole } else { SmallRead::Absent }
        });
        read.is_none()
    }

    /// Compresses all that is there together, where that is worth it. Returns how long it was before.
    pub(crate) fn bundle(&mut self, bundler: &mut Bundler) -> usize {
        let len = self.frames.len();
        if !bundler.would_try(len) {
            return len;
        }
        let mut bundle = vec![0; BUNDLE_HEAD_LEN];
        let codec = bundler.encode(&self.frames, &mut bundle);
        if codec != Codec::Raw {
            let head = bundle_head(codec, len, bundle.len() - BUNDLE_HEAD_LEN);
            bundle[..BUNDLE_HEAD_LEN].copy_from_slice(&head);
            self.frames = bundle;
        }
        len
    }

    /// Forgets what was written.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.sent = 0;
    }

    /// Appends the answers to some of the requests that came together, whose blobs come if they have `len_max` bytes or less;
    /// `few` says that they are so few that they are looked for in memory first, and that their blobs are worth to be kept
    /// there.
    ///
    /// # Errors
    /// Where the store is closed.
    pub(crate) fn read_together(
        &mut self,
        store: &Store,
        requests: &mut VecDeque<SmallRequest>,
        len_max: u64,
        few: bool,
    ) -> Result<(), ServeError> {
        if few {
            requests.retain(|request| !self.push_at_once(store, request, true));
        }
        self.read(store, requests, len_max, few)
    }

    /// Appends the answers to some of the requests; `keep` says whether the blobs may be kept in memory.
    fn read(
        &mut self,
        store: &Store,
        requests: &mut VecDeque<SmallRequest>,
        len_max: u64,
        keep: bool,
    ) -> Result<(), ServeError> {
        while !self.is_full()
            && let Some(request) = requests.pop_front()
        {
            let mut failure = None;
            let read = self.push_blob(&request, |frames| {
                let read = match keep {
                    true => store.read_small(&request.hash, len_max, frames),
                    false => store.read_passing(&request.hash, len_max, frames),
                };
                read.unwrap_or_else(|error| {
                    failure = Some(error);
                    SmallRead::Absent
                })
            });
            match failure {
                Some(StoreError::Closed) => return Err(StoreError::Closed.into()),
                // One blob that cannot be read says nothing of the others.
                Some(error) => {
                    let blob = request.hash.fmt_short();
                    tracing::warn!(%blob, %error, "a blob could not be read");
                }
                None => {}
            }
            match read {
                None => {}
                Some(SmallRead::Large { size }) => {
                    push_answer(&request, SmallResult::Large { size }, &mut self.frames)?;
                }
                Some(SmallRead::Absent | SmallRead::Whole) => {
                    push_answer(&request, SmallResult::Absent, &mut self.frames)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the frame of a blob whose bytes `read` appends; nothing, and what it said, where it does not.
    fn push_blob(
        &mut self,
        request: &SmallRequest,
        read: impl FnOnce(&mut Vec<u8>) -> SmallRead,
    ) -> Option<SmallRead> {
        let start = self.frames.len();
        self.frames.resize(start + FRAME_HEADER_LEN, 0);
        self.frames.extend_from_slice(&request.id.to_le_bytes());
        let body = self.frames.len();
        let read = read(&mut self.frames);
        if read != SmallRead::Whole {
            self.frames.truncate(start);
            return Some(read);
        }
        let len = self.frames.len() - body;
        let body_len = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(SMALL_PREFIX_LEN);
        let header = FrameHeader { kind: SMALL_BLOB, len: body_len }.encode();
        self.frames[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);
        self.sent += u64::try_from(len).unwrap_or(0);
        None
    }
}

fn push_answer(
    request: &SmallRequest,
    result: SmallResult,
    answers: &mut Vec<u8>,
) -> Result<(), ServeError> {
    let answer = SmallAnswer { id: request.id, result }.encode().map_err(StreamError::from)?;
    answers.extend(answer);
    Ok(())
}
