//! Packs of small requests over a lane: one thread that asks, decrypts, checks and stores.
//!
//! Where many blobs of a neighbour are wanted, the stream of the swarm costs as much as all the rest. So the requests of
//! one session go over a lane once there is one. A lane that breaks, or that nobody needs for a while, gives back
//! what it was not answered, and the stream goes on with that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::wire::frame::{Frame, FrameError, FrameReader};
use blobmesh_protocol::wire::small::{
    CodedPack, Longest, PACK_BLOBS_MAX, Packs, SMALL_ANSWER, SMALL_BLOB, SMALL_BUNDLE,
    SMALL_PREFIX_LEN, SmallAnswer, SmallPack, TAKES_MEDIUM, TELLS_BACKLOG, split_small_blob,
};
use bytes::{Buf as _, Bytes};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::keeper::{self, Arrival};
use super::requester::{PACK_MIN, outcome_of};
use super::{End, Ends, Request, UNANSWERED_MAX, answers_in, frames_of};
use crate::lane::PackLane;
use crate::store::Store;
use crate::transfer::FetchError;

/// How long a lane is kept that nobody needs: below the 10 s for which a provider keeps it.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How long a neighbour that owes answers may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Over how many looks at the socket it is judged whether this side is what the answers wait for.
const BACKLOG_LOOKS: u32 = 16;
/// Over how many times as many nothing is known while all that comes are bundles, before the provider is asked for none.
const OPEN_WINDOWS: u32 = 3;
/// Over how many times as many bundles are taken at first, once it was the link.
const BUNDLES_WINDOWS: u32 = 16;
/// How many blobs, or bytes of blobs, are stored at once while more are coming: one write to a pack of the store. With what one
/// bundle holds these bytes are the most that wait.
const STORED_BLOBS: usize = 64;
const STORED_LEN: usize = 1 << 20;

/// Is a lane of small requests with all that its thread needs.
pub(super) struct Talk<E> {
    pub(super) peer: PeerId,
    pub(super) packs: Packs,
    pub(super) store: Store,
    pub(super) ends: E,
    /// What is to be asked for; all of it is to be kept.
    pub(super) requests: mpsc::Receiver<Vec<Request>>,
    /// Set when the session ends.
    pub(super) stop: Arc<AtomicBool>,
    /// Says to the session whether many are under way.
    pub(super) busy: Arc<AtomicBool>,
    /// Told after each answer or some.
    pub(super) heard: Box<dyn Fn() + Send>,
}

/// Is what is under way on a lane.
struct Asked {
    packs: Packs,
    requests: HashMap<u32, Request>,
    next: u32,
    frames: FrameReader,
    backlog: Backlog,
    /// What came and is not stored yet.
    came: Vec<Arrival>,
    came_len: usize,
    /// What ended without a blob.
    ended: Vec<End>,
}

impl<E: Ends> Talk<E> {
    /// Asks and hears until the lane breaks, which is an error, or nobody needs it. Returns what was not answered.
    pub(super) fn run(&mut self, mut lane: PackLane) -> (Vec<Request>, Result<(), FetchError>) {
        let mut asked = Asked {
            packs: self.packs,
            requests: HashMap::new(),
            next: 0,
            frames: frames_of(longest(self.packs)),
            backlog: Backlog::default(),
            came: Vec::new(),
            came_len: 0,
            ended: Vec::new(),
        };
        let ran = self.talk(&mut lane, &mut asked);
        // What has come is worth something, however the lane ended.
        self.settle(&mut asked);
        (asked.requests.into_values().collect(), ran)
    }

    fn talk(&mut self, lane: &mut PackLane, asked: &mut Asked) -> Result<(), FetchError> {
        let mut heard = Instant::now();
        loop {
            while asked.requests.len() + PACK_BLOBS_MAX <= UNANSWERED_MAX
                && let Ok(requests) = self.requests.try_recv()
            {
                lane.queue(&asked.ask(&requests)?);
            }
            // Before it waits for more: a lane that has nothing to do makes nobody wait.
            self.busy.store(asked.requests.len() >= PACK_MIN, Ordering::Relaxed);
            if asked.requests.is_empty() {
                let next = Handle::current().block_on(timeout(IDLE_MAX, self.requests.recv()));
                let Ok(Some(requests)) = next else { return Ok(()) };
                lane.queue(&asked.ask(&requests)?);
                heard = Instant::now();
            }
            let wait = (&*self.stop, heard + SILENCE_MAX);
            if lane.receive(wait, |bytes| self.take(asked, bytes))? {
                heard = Instant::now();
                asked.backlog.looked(lane.was_filled());
            }
            if asked.came.len() >= STORED_BLOBS
                || asked.requests.is_empty()
                || !asked.ended.is_empty()
            {
                self.settle(asked);
            }
        }
    }

    /// Takes answers, and stores them when they are many bytes: a few bytes may decode to many.
    fn take(&self, asked: &mut Asked, mut bytes: &[u8]) -> Result<(), FetchError> {
        while !bytes.is_empty()
            && let Some(frame) = asked.frames.poll_frame(&mut bytes)?
        {
            asked.take_frame(self.peer, frame)?;
            if asked.came_len >= STORED_LEN {
                self.settle(asked);
            }
        }
        Ok(())
    }

    /// Stores what came, and tells of it.
    fn settle(&self, asked: &mut Asked) {
        (self.heard)();
        asked.came_len = 0;
        if !asked.came.is_empty() {
            keeper::put(&self.store, std::mem::take(&mut asked.came), &self.ends);
        }
        if !asked.ended.is_empty() {
            self.ends.stored(std::mem::take(&mut asked.ended));
        }
    }
}

impl Asked {
    /// Numbers requests and returns their frames.
    fn ask(&mut self, requests: &[Request]) -> Result<Vec<u8>, FetchError> {
        let mut frames = Vec::new();
        let codecs = self.backlog.codecs() | TAKES_MEDIUM;
        for some in requests.chunks(PACK_BLOBS_MAX) {
            let first = self.next;
            let hashes = some.iter().map(|request| request.hash).collect();
            let pack = SmallPack { first, takes_lane: false, hashes };
            frames.extend(frame_of(self.packs, codecs, pack)?);
            for request in some {
                // There are never so many out that a number could be in use.
                self.requests.insert(self.next, *request);
                self.next = self.next.wrapping_add(1);
            }
        }
        Ok(frames)
    }

    fn take_frame(&mut self, peer: PeerId, frame: Frame) -> Result<(), FetchError> {
        if frame.kind == SMALL_BUNDLE && self.packs == Packs::Coded {
            self.backlog.has_bundles = true;
            let answers = answers_in(&frame.body, longest(self.packs))?;
            return answers.into_iter().try_for_each(|answer| self.take_answer(peer, answer));
        }
        self.take_answer(peer, frame)
    }

    fn take_answer(&mut self, peer: PeerId, frame: Frame) -> Result<(), FetchError> {
        match frame.kind {
            SMALL_BLOB => {
                let (id, _) = split_small_blob(&frame.body)?;
                let Request { fetch, hash, .. } = self.answered(id)?;
                let mut bytes = Bytes::from(frame.body);
                bytes.advance(usize::try_from(SMALL_PREFIX_LEN).unwrap_or(0));
                self.came_len += bytes.len();
                self.came.push(Arrival { fetch, peer, hash, bytes });
            }
            SMALL_ANSWER => {
                let SmallAnswer { id, result } = frame.decode()?;
                let Request { fetch, hash, .. } = self.answered(id)?;
                let outcome = outcome_of(result);
                self.ended.push(End { fetch, peer, hash, outcome, bytes: None });
            }
            kind => return Err(FetchError::OutOfTurn { kind }),
        }
        Ok(())
    }

    fn answered(&mut self, id: u32) -> Result<Request, FetchError> {
        self.requests.remove(&id).ok_or(FetchError::OutOfTurn { kind: SMALL_BLOB })
    }
}

/// Finds out whether answers wait for this side rather than for the link: a bundle is then more work and no gain.
#[derive(Debug)]
struct Backlog {
    /// How often bytes came, and how often there were more of them than were taken.
    looks: u32,
    filled: u32,
    /// Whether bundles were among them: those say nothing of what it would be like without.
    has_bundles: bool,
    verdict: Verdict,
    /// Over how many windows bundles are taken though they wait for this side, since what is not bundled did not (and while
    /// nothing is known: how many windows that was); and how many these are the next time.
    hold: u32,
    hold_next: u32,
}

/// Says what is known of bundles on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: the provider finds out.
    Open,
    /// They are worth it.
    Worth,
    /// They are more work.
    Work,
}

impl Default for Backlog {
    fn default() -> Self {
        let (verdict, hold_next) = (Verdict::Open, BUNDLES_WINDOWS);
        Self { looks: 0, filled: 0, has_bundles: false, verdict, hold: 0, hold_next }
    }
}

impl Backlog {
    /// Takes in that bytes came.
    fn looked(&mut self, was_filled: bool) {
        self.looks += 1;
        self.filled += u32::from(was_filled);
        if self.looks < BACKLOG_LOOKS {
            return;
        }
        let (is_behind, is_ahead) = (2 * self.filled > self.looks, 4 * self.filled < self.looks);
        let has_bundles = std::mem::take(&mut self.has_bundles);
        (self.looks, self.filled) = (0, 0);
        match self.verdict {
            Verdict::Worth => {
                self.hold = self.hold.saturating_sub(1);
                if is_behind && self.hold == 0 {
                    self.verdict = Verdict::Work;
                }
            }
            Verdict::Open if has_bundles => {
                // What it would be like without them is yet to be seen.
                self.hold += 1;
                if is_behind || self.hold >= OPEN_WINDOWS {
                    (self.verdict, self.hold) = (Verdict::Work, 0);
                }
            }
            Verdict::Work if has_bundles => {}
            Verdict::Open if is_behind => self.verdict = Verdict::Work,
            Verdict::Open | Verdict::Work if is_ahead => {
                // The link is slow. With bundles it may be this side that is, and that is better.
                self.verdict = Verdict::Worth;
                self.hold = self.hold_next;
                self.hold_next = self.hold_next.saturating_mul(2);
            }
            Verdict::Open | Verdict::Work => {}
        }
    }

    /// Returns the codecs that answers may come in, and whether the provider can rely on that.
    fn codecs(&self) -> u8 {
        match self.verdict {
            Verdict::Open => Codec::ALL,
            Verdict::Worth => Codec::ALL | TELLS_BACKLOG,
            Verdict::Work => Codec::Raw.bit() | TELLS_BACKLOG,
        }
    }
}

/// Returns how long blobs may be in answers to packs on a lane: a stream shares its connection with all else that the two
/// say to each other, and what is long would be in its way.
fn longest(packs: Packs) -> Longest {
    if packs == Packs::Coded { Longest::Medium } else { Longest::Small }
}

/// Returns the frame of a pack as the neighbour takes it; `codecs` is what its answers may be like.
pub(super) fn frame_of(packs: Packs, codecs: u8, pack: SmallPack) -> Result<Vec<u8>, FrameError> {
    match packs {
        Packs::Coded => CodedPack { codecs, pack }.encode(),
        Packs::Plain | Packs::None => pack.encode(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets one window pass of which so many looks found more than they took, and returns what is known then.
    fn window(backlog: &mut Backlog, filled: u32, has_bundles: bool) -> Verdict {
        backlog.has_bundles = has_bundles;
        (0..BACKLOG_LOOKS).for_each(|look| backlog.looked(look < filled));
        backlog.verdict
    }

    #[test]
    fn bundles_are_not_taken_while_answers_wait_for_this_side_without_them() {
        let (mut backlog, some) = (Backlog::default(), BACKLOG_LOOKS / 2);
        assert_eq!(backlog.codecs(), Codec::ALL);
        assert_eq!(window(&mut backlog, some, true), Verdict::Open, "these were bundles");
        assert_eq!(window(&mut backlog, some, false), Verdict::Open, "half of them say nothing");
        assert_eq!(window(&mut backlog, some + 1, false), Verdict::Work);
        assert_eq!(backlog.codecs(), Codec::Raw.bit() | TELLS_BACKLOG);
        assert_eq!(window(&mut backlog, 0, true), Verdict::Work, "these were asked for before");
        assert_eq!(window(&mut backlog, some / 2, false), Verdict::Work);
        assert_eq!(window(&mut backlog, some / 2 - 1, false), Verdict::Worth, "the link is slow");
        assert_eq!(backlog.codecs(), Codec::ALL | TELLS_BACKLOG);
    }

    #[test]
    fn answers_without_bundles_are_tried_where_there_were_none_or_this_side_is_behind() {
        let mut backlog = Backlog::default();
        let verdicts = [(); 3].map(|()| window(&mut backlog, 0, true));
        assert_eq!(verdicts, [Verdict::Open, Verdict::Open, Verdict::Work]);
        assert_eq!(window(&mut Backlog::default(), BACKLOG_LOOKS, true), Verdict::Work);
    }

    #[test]
    fn bundles_over_a_slow_link_are_taken_for_longer_each_time() {
        let mut backlog = Backlog::default();
        for hold in [BUNDLES_WINDOWS, 2 * BUNDLES_WINDOWS] {
            assert_eq!(window(&mut backlog, 0, false), Verdict::Worth);
            let mut behind = || window(&mut backlog, BACKLOG_LOOKS, true);
            let kept = (0..).take_while(|_: &u32| behind() == Verdict::Worth).count();
            assert_eq!(kept, usize::try_from(hold - 1).expect("small"));
        }
    }
}
