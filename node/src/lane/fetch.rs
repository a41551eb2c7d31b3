//! Fetching ranges of a blob's groups over lanes.
//!
//! Lanes take ranges from one list until it is empty, so that a faster one takes more. There is one lane
//! at first. Where its thread has no time left while bytes wait for it, another one is opened: whether a
//! second lane is worth it depends on link and processors, and only the first can tell.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use blobmesh_protocol::blob::GroupList;
use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::wire::frame;
use blobmesh_protocol::wire::lane::{
    LANE_RANGE_GROUPS, LANE_REQUESTS_MAX, LaneOffer, LaneOpen, LaneToken,
};
use blobmesh_protocol::wire::message::{BlobRequest, LANE_OPEN, REQUEST};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::dialled::{Dialled, Received};
use super::receive::{Receiver, Run};
use super::wait::Patience;
use super::warm::WarmLane;
use super::{Lanes, OF_FETCH_MAX, lock};
use crate::transfer::{FetchError, Meter, StreamError};

/// How long a lane may take from the first packet to the end of its handshake. A port that a firewall
/// drops packets for must not cost a get its patience.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a lane may be silent. The engine has given up its fetch long before.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Over how long a lane's load is measured.
const LOAD_WINDOW: Duration = Duration::from_millis(10);
/// The share of its time for which a lane's thread works when it is the limit.
const LOAD_FULL: f64 = 0.5;

/// Says how a fetch comes to its lanes.
pub(crate) enum Door {
    /// The peer has offered some, at the host of its control connection: an IP address or a name.
    Offer { host: String, offer: LaneOffer },
    /// One is open.
    Warm(WarmLane),
}

/// Says what is fetched over lanes.
pub(crate) struct Work {
    pub(crate) peer: PeerId,
    /// The list that proves every group.
    pub(crate) list: Arc<GroupList>,
    /// The groups wanted, in rising order.
    pub(crate) ranges: Vec<Range<u64>>,
    /// Counts bytes and time.
    pub(crate) meter: Arc<Meter>,
}

/// Says why lanes did not bring everything.
#[derive(Debug)]
pub(crate) struct LaneEnd {
    pub(crate) error: FetchError,
    /// What is still missing.
    pub(crate) rest: Vec<Range<u64>>,
}

impl LaneEnd {
    /// Returns whether the blob stream may do better: nothing is known against the peer or its bytes.
    pub(crate) fn is_of_the_way(&self) -> bool {
        is_of_the_way(&self.error)
    }
}

fn is_of_the_way(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Stream(StreamError::Io(_)) | FetchError::Short | FetchError::NoBuffer
    )
}

/// Says how one lane of a fetch begins.
enum Start {
    Dial { host: String, port: u16, token: LaneToken },
    Warm(WarmLane),
}

impl Door {
    /// Returns the lanes that may be opened through it, one after another.
    fn into_starts(self) -> Vec<Start> {
        match self {
            Self::Warm(lane) => vec![Start::Warm(lane)],
            Self::Offer { host, offer: LaneOffer { port, tokens } } => {
                let dial = |token| Start::Dial { host: host.clone(), port, token };
                tokens.into_iter().take(OF_FETCH_MAX).map(dial).collect()
            }
        }
    }
}

/// What the lanes of one fetch share.
struct Common<S> {
    lanes: Lanes,
    work: Work,
    store: S,
    left: Mutex<Ranges>,
    /// Set when no lane should go on.
    stop: AtomicBool,
    /// Told when one more lane would help.
    more: Notify,
    /// Set once a lane's handshake is over.
    is_reached: AtomicBool,
}

/// Stops the lanes of a fetch that is dropped.
struct Guard<S>(Arc<Common<S>>);

impl<S> Drop for Guard<S> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Lanes {
    /// Fetches ranges over lanes to a peer, and hands `store` checked runs, on threads that may block.
    /// Lanes on which everything has come are kept [warm](Self::warm). Dropping the future stops the
    /// lanes; what was handed on stays.
    ///
    /// # Errors
    /// The error that decided, and what is missing. A peer of which no lane could be opened is not tried
    /// again for a while.
    pub(crate) async fn fetch<S>(&self, work: Work, door: Door, store: S) -> Result<(), LaneEnd>
    where
        S: Fn(Run) -> Result<(), FetchError> + Send + Sync + 'static,
    {
        let Ok(_permit) = Arc::clone(&self.0.fetches).try_acquire_owned() else {
            return Err(LaneEnd { error: FetchError::NoBuffer, rest: work.ranges });
        };
        let peer = work.peer;
        let common = Arc::new(Common {
            lanes: self.clone(),
            left: Mutex::new(Ranges::new(&work.ranges)),
            work,
            store,
            stop: AtomicBool::new(false),
            more: Notify::new(),
            is_reached: AtomicBool::new(false),
        });
        let guard = Guard(Arc::clone(&common));
        let error = run_all(&common, door.into_starts()).await;
        drop(guard);
        let rest = lock(&common.left).take_all();
        let error = match error {
            // Another lane took over what a broken one had left.
            None if rest.is_empty() => return Ok(()),
            Some(error) if rest.is_empty() && is_of_the_way(&error) => return Ok(()),
            error => error.unwrap_or(FetchError::Short),
        };
        if is_of_the_way(&error) && !common.is_reached.load(Ordering::Relaxed) {
            tracing::debug!(%error, "no lane could be opened");
            self.avoid(peer);
        }
        Err(LaneEnd { error, rest })
    }
}

impl Lanes {
    /// Opens a lane, and queues its token.
    pub(super) fn dial(
        &self,
        peer: PeerId,
        (host, port, token): (&str, u16, LaneToken),
        stop: &AtomicBool,
    ) -> Result<Dialled, FetchError> {
        let tls = self.0.tls.connect(peer).map_err(io::Error::other);
        let patience = Patience { stop, deadline: Instant::now() + OPEN_TIMEOUT };
        let lane = tls.and_then(|tls| Dialled::open(tls, peer, (host, port), patience));
        let mut lane = lane.map_err(StreamError::from)?;
        lane.queue(&frame::encode(LANE_OPEN, &LaneOpen { token })?);
        Ok(lane)
    }
}

/// Runs lanes until all have ended, and returns the error that counts most.
async fn run_all<S>(common: &Arc<Common<S>>, starts: Vec<Start>) -> Option<FetchError>
where
    S: Fn(Run) -> Result<(), FetchError> + Send + Sync + 'static,
{
    let mut starts = starts.into_iter();
    let mut lanes = JoinSet::new();
    let mut start = |lanes: &mut JoinSet<Result<(), FetchError>>| {
        if let Some(start) = starts.next() {
            let common = Arc::clone(common);
            lanes.spawn_blocking(move || common.run(start));
        }
    };
    start(&mut lanes);
    let mut worst: Option<FetchError> = None;
    loop {
        tokio::select! {
            ended = lanes.join_next() => {
                let Some(ended) = ended else { return worst };
                let Err(error) = ended.unwrap_or(Err(FetchError::Worker)) else { continue };
                // A lane that broke leaves its ranges to the others; wrong bytes end them all.
                let decides = !is_of_the_way(&error);
                if decides {
                    common.stop.store(true, Ordering::Relaxed);
                }
                if decides || worst.is_none() {
                    worst = Some(error);
                }
            }
            () = common.more.notified() => start(&mut lanes),
        }
    }
}

impl<S: Fn(Run) -> Result<(), FetchError>> Common<S> {
    /// Runs one lane from its first packet until nothing is left to ask for.
    fn run(&self, start: Start) -> Result<(), FetchError> {
        let Work { peer, list, meter, .. } = &self.work;
        let mut lane = match start {
            Start::Warm(lane) => lane,
            Start::Dial { host, port, token } => WarmLane(Box::new(self.dial(&host, port, token)?)),
        };
        self.is_reached.store(true, Ordering::Relaxed);
        let mut receiver = Receiver::new(Arc::clone(list), &self.lanes.0.buffers, &self.store);
        let received = self.receive(&mut lane.0, &mut receiver);
        meter.verified(receiver.verifying);
        // What was checked is kept, however the lane ended.
        let stored = receiver.finish();
        lock(&self.left).give_back(receiver.into_rest());
        received.and(stored)?;
        self.lanes.keep(*peer, lane);
        Ok(())
    }

    /// Opens a lane and shows its token.
    fn dial(&self, host: &str, port: u16, token: LaneToken) -> Result<Dialled, FetchError> {
        let Work { peer, meter, .. } = &self.work;
        let started = Instant::now();
        let lane = self.lanes.dial(*peer, (host, port, token), &self.stop)?;
        meter.lane_opened(started.elapsed());
        Ok(lane)
    }

    fn receive(&self, lane: &mut Dialled, receiver: &mut Receiver<'_>) -> Result<(), FetchError> {
        let mut load = Load::begin();
        let mut heard = Instant::now();
        loop {
            while receiver.unanswered() < LANE_REQUESTS_MAX
                && let Some(range) = lock(&self.left).take()
            {
                lane.queue(&self.request(&range)?);
                receiver.expect(range);
            }
            if receiver.unanswered() == 0 {
                return Ok(());
            }
            let patience = Patience { stop: &self.stop, deadline: heard + SILENCE_TIMEOUT };
            patience.check().map_err(StreamError::from)?;
            match lane.receive(patience, |bytes| receiver.take(bytes))? {
                Received::Bytes => heard = Instant::now(),
                Received::Nothing => {}
                Received::End => return Err(FetchError::Short),
            }
            receiver.flush_old()?;
            if load.is_full() {
                self.more.notify_one();
            }
        }
    }

    fn request(&self, range: &Range<u64>) -> Result<Vec<u8>, FetchError> {
        let request = BlobRequest {
            hash: self.work.list.hash(),
            with_list: false,
            codecs: Codec::ALL,
            runs: vec![(range.start, range.end - range.start)],
        };
        Ok(frame::encode(REQUEST, &request)?)
    }
}

/// Tells whether one thread is the limit, by the share of time in which it has work.
struct Load {
    since: Instant,
    busy: Duration,
    is_told: bool,
}

impl Load {
    fn begin() -> Self {
        Self { since: Instant::now(), busy: thread_time(), is_told: false }
    }

    /// Returns true once, when the thread was busy for most of a window.
    fn is_full(&mut self) -> bool {
        let passed = self.since.elapsed();
        if self.is_told || passed < LOAD_WINDOW {
            return false;
        }
        let busy = thread_time();
        let used = busy.saturating_sub(self.busy);
        (self.since, self.busy) = (Instant::now(), busy);
        self.is_told = used.as_secs_f64() > LOAD_FULL * passed.as_secs_f64();
        self.is_told
    }
}

/// Returns the processor time that this thread has used; none where the platform does not say, and then
/// no further lane is opened.
fn thread_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let (secs, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(secs.unwrap_or(0), nanos.unwrap_or(0))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    Duration::ZERO
}

/// The groups that nobody has asked for yet.
#[derive(Debug)]
struct Ranges(VecDeque<Range<u64>>);

impl Ranges {
    fn new(ranges: &[Range<u64>]) -> Self {
        Self(ranges.iter().filter(|range| !range.is_empty()).cloned().collect())
    }

    /// Takes the next range, up to an offset that is a multiple of [`LANE_RANGE_GROUPS`].
    fn take(&mut self) -> Option<Range<u64>> {
        let first = self.0.front_mut()?;
        let aligned = (first.start / LANE_RANGE_GROUPS + 1).saturating_mul(LANE_RANGE_GROUPS);
        let end = first.end.min(aligned);
        let range = first.start..end;
        first.start = end;
        if first.is_empty() {
            self.0.pop_front();
        }
        Some(range)
    }

    /// Puts ranges back that a lane did not get.
    fn give_back(&mut self, ranges: impl Iterator<Item = Range<u64>>) {
        ranges.for_each(|range| self.0.push_front(range));
    }

    /// Takes everything, in rising order.
    fn take_all(&mut self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = self.0.drain(..).collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    }
}
