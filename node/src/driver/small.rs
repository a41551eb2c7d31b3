//! Small requests: whose task has them, and what comes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::engine::{FetchOutcome, Input, Source};
use tokio::sync::mpsc;

use super::desk::Desk;
use super::dispatch::PeerWay;
use super::event::Event;
use super::tasks::Tasks;
use super::{Driver, Holdings};
use crate::small::keeper::Keeper;
use crate::small::requester::Line;
use crate::small::{End, Ends, Request, WAITING_MAX, requester};
use crate::store::Store;
use crate::swarm::Stream;
use crate::transfer::Carried;

/// Holds the tasks that make small requests, one for each neighbour.
#[derive(Debug)]
pub(super) struct Smalls {
    peers: BTreeMap<PeerId, Asker>,
    keeper: Keeper,
    reporter: Reporter,
}

/// Leads to the task of one neighbour, and to its stream while that is idle.
#[derive(Debug)]
struct Asker {
    queue: mpsc::Sender<Request>,
    line: Arc<Line<Stream>>,
}

impl Asker {
    /// Hands a request on; false where nobody takes it. One `alone` goes straight to the stream: of several, the
    /// task writes as many together as there are.
    fn ask(&self, request: Request, alone: bool) -> bool {
        let alone = alone && self.queue.capacity() == self.queue.max_capacity();
        (alone && self.line.write(request)) || self.queue.try_send(request).is_ok()
    }
}

impl Smalls {
    pub(super) fn start(
        store: Store,
        holdings: &Arc<Holdings>,
        desk: &Arc<Desk>,
        tasks: &mut Tasks,
    ) -> Self {
        let (desk, holdings) = (Arc::clone(desk), Arc::clone(holdings));
        let reporter = Reporter { events: tasks.events(), desk, holdings };
        let (keeper, keeping) = Keeper::new(store, reporter.clone());
        tasks.spawn(keeping);
        Self { peers: BTreeMap::new(), keeper, reporter }
    }

    /// Lets a neighbour's task end, once the requests that it has have ended.
    pub(super) fn part_from(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }
}

impl Driver {
    /// Hands a request to its neighbour's task.
    pub(super) fn request_small(&mut self, peer: PeerId, request: Request) {
        let (swarm, lanes) = (self.swarm.clone(), self.lanes.0.clone());
        let packs = self.engine.takes_packs(peer);
        let small = &mut self.small;
        let asker = small.peers.entry(peer).or_insert_with(|| {
            let (queue, requests) = mpsc::channel(WAITING_MAX);
            let line = Arc::new(Line::default());
            let way = PeerWay { swarm, peer, lanes };
            let (keeper, reporter) = (small.keeper.clone(), small.reporter.clone());
            let asked = (requests, Arc::clone(&line));
            self.tasks.spawn(requester::run(way, (peer, packs), asked, keeper, reporter));
            Asker { queue, line }
        });
        if !asker.ask(request, small.reporter.desk.is_quiet()) {
            // The task panicked, or has far more to do than the engine allows.
            small.peers.remove(&peer);
            let outcome = FetchOutcome::Failed { detail: "too many small requests".to_owned() };
            self.tell(Input::FetchEnded { fetch: request.fetch, outcome });
        }
    }

    pub(super) fn small_ended(&mut self, ends: Vec<End>) {
        for End { fetch, peer, hash, outcome, bytes } in ends {
            if let FetchOutcome::Complete { size } | FetchOutcome::Read { size } = outcome
                && let Some(connected) = self.connected.get_mut(&peer)
            {
                connected.bytes_in += size;
            }
            if let FetchOutcome::Complete { size } = outcome
                && self.wants.contains(&hash)
            {
                let came = Carried { stream_bytes: size, ..Carried::default() };
                self.carried.entry(hash).or_default().push((fetch, Source::Peer(peer), came));
            }
            if let Some(bytes) = bytes {
                self.wants.give(&hash, &bytes);
            }
            self.tell(Input::FetchEnded { fetch, outcome });
            self.drain();
        }
    }
}

/// Tells the driver what came of small requests.
#[derive(Clone, Debug)]
struct Reporter {
    events: mpsc::Sender<Event>,
    desk: Arc<Desk>,
    holdings: Arc<Holdings>,
}

impl Ends for Reporter {
    async fn ended(&self, ends: Vec<End>) {
        // The driver is gone: nobody is left to tell.
        self.desk.tell(Event::SmallEnded(ends)).await.ok();
    }

    fn stored(&self, ends: Vec<End>) {
        let complete = |end: &&End| matches!(end.outcome, FetchOutcome::Complete { .. });
        self.holdings.stored_all(ends.iter().filter(complete).map(|end| (end.fetch, end.hash)));
        self.events.blocking_send(Event::SmallEnded(ends)).ok();
    }
}
