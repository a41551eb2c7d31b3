//! Bad neighbours: what a get loses that would have been quick without them.
//!
//! A getter, three neighbours that hold a blob and an edge that has it too, all in virtual time. Links are of a rate
//! that those who use them at once share; an edge's answer takes a round trip, and its first connection two more. What
//! the get takes is compared with what it takes where nobody holds the blob. Limits are those of the product: a
//! twentieth, and 50 ms at least.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests pick out the outputs they are about")]
#![allow(clippy::print_stdout, reason = "what a get took is what one looks for")]
#![allow(clippy::cast_precision_loss, reason = "sizes far below 2^52 become ratios")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::blob::{GROUP_LEN, GroupSet};
use blobmesh_protocol::engine::{FetchOutcome, Input, LookResult, Output, Source};
use blobmesh_protocol::id::{FetchId, PeerId, WantId};
use blobmesh_protocol::wire::message::{AskResult, Message};
use blobmesh_protocol::{Config, Time};
use support::{MS, Rig, hash};

const SIZE: u64 = 64 << 20;
const GROUPS: u64 = SIZE / GROUP_LEN;
/// Bytes in a millisecond of 200 Mbit/s.
const EDGE_RATE: u64 = 25_000;
const EDGE_TRIP: Duration = Duration::from_millis(50);
/// What a connection takes before its first request: TCP and TLS.
const EDGE_DIAL: Duration = Duration::from_millis(100);
const LAN_TRIP: Duration = MS;
const NEIGHBOURS: u8 = 3;
/// Longer than any of these gets takes.
const LIMIT: Duration = Duration::from_secs(60);

/// What neighbours send, by the time since the get began.
type Sends = fn(Duration) -> u64;

/// Is what is on its way of one fetch.
struct Flow {
    source: Source,
    /// The groups that are still to come, in order.
    groups: Vec<u64>,
    everything: bool,
    begins: Time,
    /// Bytes of the next group that came.
    came: u64,
}

/// Is a get among neighbours and an edge.
struct Site {
    rig: Rig,
    want: WantId,
    began: Time,
    held: GroupSet,
    flows: BTreeMap<FetchId, Flow>,
    /// Answers on their way.
    answers: Vec<(Time, Input)>,
    sends: Sends,
    /// When the connection to the edge is there.
    dialled: Option<Time>,
    from_edge: u64,
    requests: u32,
}

impl Site {
    fn new(holders: u8, sends: Sends) -> Self {
        let config = Config { edge: true, provider_search: false, ..Config::default() };
        let mut rig = Rig::listening(config);
        for n in 1..=holders {
            rig.small_neighbour(n, &[hash(1)]);
        }
        rig.outputs.clear();
        let began = rig.now;
        let want = rig.want(hash(1), None);
        Self {
            rig,
            want,
            began,
            held: GroupSet::new(GROUPS),
            flows: BTreeMap::new(),
            answers: Vec::new(),
            sends,
            dialled: None,
            from_edge: 0,
            requests: 0,
        }
    }

    /// Has the get come to its end, and returns how long it took.
    fn run(mut self) -> Took {
        loop {
            self.perform();
            if let Some((result, _)) = self.rig.take_end(self.want) {
                assert_eq!(result, Ok(()));
                let time = self.rig.now - self.began;
                return Took { time, from_edge: self.from_edge, requests: self.requests };
            }
            assert!(self.rig.now - self.began < LIMIT, "{} of {GROUPS} groups", self.held.held());
            self.rig.pass(MS);
            self.answer();
            self.move_bytes();
        }
    }

    /// Does what the engine asks for.
    fn perform(&mut self) {
        while !self.rig.outputs.is_empty() {
            let outputs = std::mem::take(&mut self.rig.outputs);
            for output in outputs {
                match output {
                    Output::Look { look, .. } => {
                        self.rig.tell(Input::Looked { look, result: LookResult::Absent });
                    }
                    Output::FetchSmall { fetch, peer, .. } => {
                        let outcome = FetchOutcome::Large { size: SIZE };
                        self.hear(peer, Input::FetchEnded { fetch, outcome });
                    }
                    Output::Send { peer, message: Message::Ask { id, .. } } => {
                        let result = AskResult::Have { size: SIZE };
                        let message = Message::Answer { id, result };
                        self.hear(peer, Input::Message { peer, message });
                    }
                    Output::PrepareEdge => self.dial(),
                    Output::Fetch { fetch, source, groups, .. } => {
                        self.begin(fetch, source, groups)
                    }
                    Output::StopFetch { fetch } => drop(self.flows.remove(&fetch)),
                    ended @ Output::Ended { .. } => return self.rig.outputs.push(ended),
                    _ => {}
                }
            }
        }
    }

    /// Has a neighbour answer, if it can send anything.
    fn hear(&mut self, _from: PeerId, answer: Input) {
        if (self.sends)(self.rig.now - self.began) > 0 {
            self.answers.push((self.rig.now + LAN_TRIP, answer));
        }
    }

    fn answer(&mut self) {
        let now = self.rig.now;
        let due: Vec<_> = self.answers.extract_if(.., |(at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, answer)| self.rig.tell(answer));
    }

    fn dial(&mut self) {
        self.dialled.get_or_insert(self.rig.now + EDGE_DIAL);
    }

    fn begin(&mut self, fetch: FetchId, source: Source, groups: Option<Range<u64>>) {
        let now = self.rig.now;
        let begins = match source {
            Source::Peer(_) => now + LAN_TRIP,
            Source::Edge => {
                self.dial();
                self.requests += 1;
                // The list comes behind the first answer.
                let list = if self.held.held() == 0 { EDGE_TRIP } else { Duration::ZERO };
                self.dialled.map_or(now, |at| at.max(now)) + EDGE_TRIP + list
            }
        };
        let everything = groups.is_none();
        let mut groups: Vec<u64> =
            groups.unwrap_or(0..GROUPS).take_while(|n| *n < GROUPS).collect();
        groups.retain(|group| !self.held.contains(*group));
        self.flows.insert(fetch, Flow { source, groups, everything, begins, came: 0 });
    }

    /// Lets a millisecond's bytes come: each source shares its rate among what is asked of it.
    fn move_bytes(&mut self) {
        let (now, age) = (self.rig.now, self.rig.now - self.began);
        let sources: Vec<(FetchId, Source)> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.begins <= now)
            .map(|(fetch, flow)| (*fetch, flow.source))
            .collect();
        for (fetch, source) in &sources {
            let sharing = sources.iter().filter(|(_, other)| other == source).count() as u64;
            let rate = if *source == Source::Edge { EDGE_RATE } else { (self.sends)(age) };
            let Some(flow) = self.flows.get_mut(fetch) else { continue };
            flow.came += rate / sharing;
            self.deliver(*fetch);
            self.perform();
        }
    }

    /// Tells of the groups of a fetch that are there, and of its end.
    fn deliver(&mut self, fetch: FetchId) {
        while let Some(flow) = self.flows.get_mut(&fetch) {
            let Some(group) = flow.groups.first().copied() else {
                let size = SIZE;
                let whole = flow.everything || self.held.is_full();
                let outcome =
                    if whole { FetchOutcome::Complete { size } } else { FetchOutcome::Part };
                self.flows.remove(&fetch);
                return self.rig.end(fetch, outcome);
            };
            if flow.came < GROUP_LEN {
                return;
            }
            flow.came -= GROUP_LEN;
            flow.groups.remove(0);
            if flow.source == Source::Edge {
                self.from_edge += GROUP_LEN;
            }
            self.held.insert(group);
            let (bytes, groups) = (GROUP_LEN, group..group + 1);
            self.rig.tell(Input::Progress { fetch, bytes, groups, size: SIZE });
            // What it has stopped is gone before its next group comes.
            self.perform();
        }
    }
}

struct Took {
    time: Duration,
    from_edge: u64,
    requests: u32,
}

/// Returns what a get takes beside so many neighbours that send so much, and what it may take at most.
fn beside(holders: u8, sends: Sends) -> (Took, Duration) {
    let alone = Site::new(0, |_| 0).run().time;
    let limit = alone + (alone / 20).max(50 * MS);
    (Site::new(holders, sends).run(), limit)
}

/// Gets a blob beside each of these, and returns in what it took longer, or more bytes, than it may.
fn costs(cases: &[(&str, u8, Sends)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, holders, sends) in cases {
        let (took, limit) = beside(*holders, *sends);
        let told = format!(
            "{name}: {:?} of {limit:?}, {:.3} copies of the edge in {} requests",
            took.time,
            took.from_edge as f64 / SIZE as f64,
            took.requests
        );
        println!("{told}");
        // What is brought twice is what the neighbours were asked for last.
        if took.time > limit || took.from_edge > SIZE + SIZE / 8 {
            faults.push(told);
        }
    }
    faults
}

#[test]
fn bad_holders_cost_a_get_next_to_nothing() {
    let faults = costs(&[
        ("dead", NEIGHBOURS, |_| 0),
        ("dead after 0.3 s", NEIGHBOURS, |age| if age < 300 * MS { 6_250 } else { 0 }),
        ("one dead after 0.3 s", 1, |age| if age < 300 * MS { 25_000 } else { 0 }),
        ("slow", NEIGHBOURS, |_| 66),
        ("one slow", 1, |_| 66),
        ("0.7 MB/s", NEIGHBOURS, |_| 700),
        ("flapping", NEIGHBOURS, |age| 6_250 * u64::from(age.as_secs() % 2 == 0)),
        ("flapping, late", NEIGHBOURS, |age| {
            let (second, part) = (age.as_secs(), age.subsec_millis());
            6_250 * u64::from(second == 0 || second % 2 == 0 && part >= 400)
        }),
        ("flapping, two in three", NEIGHBOURS, |age| {
            6_250 * u64::from(age.as_millis() % 1_500 < 1_000)
        }),
        ("one flapping quickly", 1, |age| 20_000 * u64::from(age.as_millis() % 600 < 300)),
    ]);
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn quick_holders_leave_the_edge_alone_though_they_pause_for_a_moment() {
    let (took, _) = beside(NEIGHBOURS, |age| if age.as_millis() % 200 < 40 { 0 } else { 30_000 });
    assert_eq!((took.from_edge, took.requests), (0, 0));
    // A longer pause has it asked, and what it was asked for is let go when they are back.
    let (took, _) =
        beside(NEIGHBOURS, |age| if (400..520).contains(&age.as_millis()) { 0 } else { 25_000 });
    assert_eq!(took.from_edge, 0);
}
