//! One engine under test, driven by hand in virtual time.

use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::engine::receipt::Receipt;
use blobmesh_protocol::engine::{
    DropReason, Engine, FetchOutcome, Input, LookResult, Output, Source, WantError,
};
use blobmesh_protocol::filter::OwnFilter;
use blobmesh_protocol::id::{FetchId, LookId, PeerId, QueryId, WantId};
use blobmesh_protocol::wire::message::{AskResult, Hello, Message};
use blobmesh_protocol::{Config, Hash, Time};

pub const MS: Duration = Duration::from_millis(1);
pub const SIZE: u64 = 100_000;

pub fn hash(n: u8) -> Hash {
    Hash::of(&[n])
}

pub fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

/// Drives one engine and remembers what it asked for.
#[derive(Debug)]
pub struct Rig {
    pub engine: Engine,
    pub now: Time,
    pub outputs: Vec<Output>,
    next_want: u64,
}

impl Rig {
    /// A settled node with an edge and a DHT.
    pub fn new() -> Self {
        Self::with(Config { edge: true, ..Config::default() })
    }

    /// A settled node that asks the edge as soon as it has told its neighbours.
    pub fn with(config: Config) -> Self {
        Self::listening(Config { edge_pause: Duration::ZERO, ..config })
    }

    /// A settled node that listens to its neighbours before it asks the edge.
    pub fn listening(config: Config) -> Self {
        let mut rig = Self::unsettled(config);
        rig.tell(Input::Settled);
        rig
    }

    pub fn unsettled(config: Config) -> Self {
        Self::of(peer(0), config)
    }

    pub fn of(me: PeerId, config: Config) -> Self {
        let engine = Engine::new(config, me, 7, Time::ZERO);
        Self { engine, now: Time::ZERO, outputs: Vec::new(), next_want: 0 }
    }

    pub fn tell(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.outputs.push(output);
        }
    }

    /// Lets time pass, with every timeout at its moment.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.engine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Timeout);
        }
        self.now = end;
    }

    /// Starts a get whose store look-up finds nothing.
    pub fn get(&mut self, hash: Hash) -> WantId {
        let want = self.want(hash, None);
        self.look(hash, LookResult::Absent);
        want
    }

    /// Says what the store holds of a hash that it is being looked into for.
    pub fn look(&mut self, hash: Hash, result: LookResult) {
        let look = self.take_look(hash);
        self.tell(Input::Looked { look, result });
    }

    /// Starts a get that wants no more than the bytes of a blob of up to `len_max` bytes.
    pub fn read(&mut self, hash: Hash, len_max: u64) -> WantId {
        self.next_want += 1;
        let want = WantId(self.next_want);
        self.tell(Input::Read { want, hash, timeout: None, len_max });
        want
    }

    pub fn want(&mut self, hash: Hash, timeout: Option<Duration>) -> WantId {
        self.next_want += 1;
        let want = WantId(self.next_want);
        self.tell(Input::Get { want, hash, timeout });
        want
    }

    /// Connects a neighbour that greets and tells a filter of `held`.
    pub fn neighbour(&mut self, n: u8, held: &[Hash]) -> PeerId {
        let peer = self.silent_neighbour(n);
        let prefixes: Vec<[u8; 8]> = held.iter().map(Hash::prefix).collect();
        let filter = OwnFilter::build(1, prefixes.into_iter());
        self.say(peer, Message::Filter(filter.frame().expect("not too full")));
        peer
    }

    /// Connects a neighbour that greets, tells a filter of `held` and answers small requests.
    pub fn small_neighbour(&mut self, n: u8, held: &[Hash]) -> PeerId {
        let peer = self.neighbour(n, held);
        self.say(peer, Message::Hello(Hello::ours()));
        peer
    }

    /// Connects a neighbour that greets, tells no filter and answers no small requests.
    pub fn silent_neighbour(&mut self, n: u8) -> PeerId {
        self.tell(Input::Connected { peer: peer(n) });
        self.say(peer(n), Message::Hello(Hello { features: 0, ..Hello::ours() }));
        peer(n)
    }

    pub fn say(&mut self, peer: PeerId, message: Message) {
        self.tell(Input::Message { peer, message });
    }

    /// Answers the question that is out to `peer` about `hash`.
    pub fn answer(&mut self, peer: PeerId, hash: Hash, result: AskResult) {
        let id = self.take_ask(peer, hash).expect("a question is out");
        self.say(peer, Message::Answer { id, result });
    }

    pub fn end(&mut self, fetch: FetchId, outcome: FetchOutcome) {
        self.tell(Input::FetchEnded { fetch, outcome });
    }

    pub fn complete(&mut self, fetch: FetchId) {
        self.tell(Input::Progress { fetch, bytes: SIZE, groups: 0..2, size: SIZE });
        self.end(fetch, FetchOutcome::Complete { size: SIZE });
    }

    pub fn take_look(&mut self, of: Hash) -> LookId {
        self.take(|output| match output {
            Output::Look { look, hash } if *hash == of => Some(*look),
            _ => None,
        })
        .expect("the store is looked into")
    }

    pub fn take_ask(&mut self, to: PeerId, of: Hash) -> Option<u32> {
        self.take(|output| match output {
            Output::Send { peer, message: Message::Ask { id, hash } }
                if *peer == to && *hash == of =>
            {
                Some(*id)
            }
            _ => None,
        })
    }

    pub fn take_fetch(&mut self, from: Source) -> Option<FetchId> {
        self.take(|output| match output {
            Output::Fetch { fetch, source, .. } if *source == from => Some(*fetch),
            _ => None,
        })
    }

    /// Takes the fetches that a source was asked for, in order, and the groups of each; none where it is all of them.
    pub fn take_fetches(&mut self, of: Source) -> Vec<(FetchId, Option<Range<u64>>)> {
        let mut asked = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Fetch { fetch, source, groups, .. } if *source == of => {
                asked.push((*fetch, groups.clone()));
                false
            }
            _ => true,
        });
        asked
    }

    /// Takes the ranges that the edge was asked for.
    pub fn take_ranges_of_edge(&mut self) -> Vec<(FetchId, Range<u64>)> {
        let asked = self.take_fetches(Source::Edge).into_iter();
        asked.map(|(fetch, groups)| (fetch, groups.expect("a range"))).collect()
    }

    /// Takes a small request that is out to `to` about `of`, and whether its blob is kept.
    pub fn take_small(&mut self, to: PeerId, of: Hash) -> Option<(FetchId, bool)> {
        self.take(|output| match output {
            Output::FetchSmall { fetch, hash, peer, keep } if *peer == to && *hash == of => {
                Some((*fetch, *keep))
            }
            _ => None,
        })
    }

    pub fn take_stop(&mut self, of: FetchId) -> bool {
        self.take(|output| match output {
            Output::StopFetch { fetch } if *fetch == of => Some(()),
            _ => None,
        })
        .is_some()
    }

    pub fn take_search(&mut self) -> Option<QueryId> {
        self.take(|output| match output {
            Output::FindProviders { query, .. } => Some(*query),
            _ => None,
        })
    }

    pub fn take_drop(&mut self, of: PeerId) -> Option<DropReason> {
        self.take(|output| match output {
            Output::Drop { peer, reason } if *peer == of => Some(*reason),
            _ => None,
        })
    }

    pub fn take_end(&mut self, of: WantId) -> Option<(Result<(), WantError>, Receipt)> {
        self.take(|output| match output {
            Output::Ended { want, result, receipt } if *want == of => {
                Some((*result, (**receipt).clone()))
            }
            _ => None,
        })
    }

    /// Takes the messages sent to a peer, in order.
    pub fn take_messages(&mut self, to: PeerId) -> Vec<Message> {
        let mut messages = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Send { peer, message } if *peer == to => {
                messages.push(message.clone());
                false
            }
            _ => true,
        });
        messages
    }

    pub fn take_provides(&mut self) -> Vec<Hash> {
        let mut provides = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Provide { hash } => {
                provides.push(*hash);
                false
            }
            _ => true,
        });
        provides
    }

    fn take<T>(&mut self, pick: impl Fn(&Output) -> Option<T>) -> Option<T> {
        let place = self.outputs.iter().position(|output| pick(output).is_some())?;
        pick(&self.outputs.remove(place))
    }
}
