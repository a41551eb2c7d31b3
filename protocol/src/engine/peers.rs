//! What is known of neighbours: their filters, how far those can be believed, how fast they answer,
//! and who is banned.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::blob::Hash;
use crate::config::Config;
use crate::engine::resolver::pair_weight;
use crate::filter::{FilterDelta, FilterError, FilterFrame, PeerFilter};
use crate::id::PeerId;
use crate::time::Time;
use crate::wire::small::Packs;

/// After how many fetches in a row that fell silent a peer is not given the benefit of the doubt any more: two rounds of
/// those that are under way at once.
const MUTE_STALLS: u32 = 32;
/// How long a filter that proved to be behind rules nothing out, unless its neighbour tells of a change before: longer than
/// word of a blob takes.
const BEHIND_FOR: Duration = Duration::from_secs(2);
/// How many answer times the hedge delay is learned from.
const ANSWER_TIMES_MAX: usize = 64;
/// The least number of answer times that say anything.
const ANSWER_TIMES_MIN: usize = 8;
/// One place in so many is for those who came first: nobody can push them out, whatever ids they make up.
const KEPT_PART: usize = 4;
/// The part of the places that may be free of a node that knows only some of its site.
const SPARE_PART: usize = 8;

#[derive(Debug)]
pub(crate) struct Peers {
    me: PeerId,
    neighbours: BTreeMap<PeerId, Neighbour>,
    /// How many neighbours there ever were.
    came: u64,
    bans: BTreeMap<PeerId, Time>,
    answer_times: VecDeque<Duration>,
    /// What 95 of 100 of them took; none until it is asked for again.
    p95: Option<Duration>,
}

/// Says whether there is room for one neighbour more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is.
    Free,
    /// This neighbour goes for it.
    InsteadOf(PeerId),
    /// There is none.
    None,
}

/// Says what a neighbour's filter makes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Opinion {
    /// A fresh filter that can be believed says maybe.
    Likely,
    /// There is no evidence.
    Unknown,
    /// A fresh filter says maybe, and has lied too often.
    Doubtful,
    /// A fresh filter says no.
    RuledOut,
}

/// Describes a neighbour for status reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// The neighbour.
    pub peer: PeerId,
    /// How many blobs its filter holds; none before a filter came.
    pub filter_blobs: Option<u64>,
    /// How long its last answer took; none before one came.
    pub rtt: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Neighbour {
    /// How many came before it.
    came: u64,
    filter: Option<KnownFilter>,
    rtt: Option<Duration>,
    /// Questions asked on the word of its filter, and how many of them were answered with absent.
    judged: (u32, u32),
    ignored_until: Option<Time>,
    /// Until when its filter is known to lack what it holds.
    behind_until: Option<Time>,
    pub(crate) greeted: bool,
    /// Whether it answers small requests.
    pub(crate) answers_small: bool,
    /// Whether it answers delta requests.
    pub(crate) answers_delta: bool,
    /// As what it takes many small requests.
    pub(crate) packs: Packs,
    /// Whether it takes the names of holders that are no neighbours of its own.
    pub(crate) takes_names: bool,
    /// Whether it takes what neighbours of ours claim.
    pub(crate) takes_rumours: bool,
    /// Until when holders that it names are not believed, because one came to nothing.
    names_rest_until: Option<Time>,
    /// Until when it gets none, because one failed.
    small_rests_until: Option<Time>,
    /// When it last answered one, or began to have one to answer.
    small_heard: Time,
    /// How many it has answered.
    small_answers: u64,
    /// How many fetches from it fell silent since one of them came to an end.
    stalls: u32,
    /// When it was last sent the whole filter because it asked.
    filter_asked: Option<Time>,
    next_ask: u32,
    asks: BTreeMap<u32, Hash>,
}

#[derive(Debug)]
struct KnownFilter {
    filter: PeerFilter,
    heard: Time,
}

impl Peers {
    pub(crate) fn new(me: PeerId) -> Self {
        let (neighbours, bans) = (BTreeMap::new(), BTreeMap::new());
        Self { me, neighbours, came: 0, bans, answer_times: VecDeque::new(), p95: None }
    }

    /// Returns this node's own name.
    pub(crate) fn me(&self) -> PeerId {
        self.me
    }

    pub(crate) fn insert(&mut self, peer: PeerId) {
        let neighbour = Neighbour { came: self.came, ..Neighbour::default() };
        self.came += 1;
        self.neighbours.insert(peer, neighbour);
    }

    /// Returns whether there is room for a newcomer.
    ///
    /// Where all places are taken, it gets that of the neighbour with the least weight for this node, if its own is
    /// more. A pair of nodes has one weight, the same on both sides, so that each ends up with those who want it most,
    /// too; and who that is, chance decides and not who came first. Else those who came first would know
    /// each other and nobody else, and a site of more nodes than there are places would be as many islands, each of
    /// which asks the edge for everything.
    pub(crate) fn room_for(&self, newcomer: PeerId, config: &Config) -> Room {
        if self.neighbours.len() < config.neighbours_max {
            return Room::Free;
        }
        let mut by_age: Vec<(u64, PeerId)> =
            self.neighbours.iter().map(|(peer, neighbour)| (neighbour.came, *peer)).collect();
        by_age.sort_unstable();
        let kept = config.neighbours_max / KEPT_PART;
        let weight = |peer: PeerId| (pair_weight(self.me, peer), peer);
        let lightest = by_age.into_iter().skip(kept).map(|(_, peer)| weight(peer)).min();
        match lightest.filter(|lightest| *lightest < weight(newcomer)) {
            Some((_, peer)) => Room::InsteadOf(peer),
            None => Room::None,
        }
    }

    /// Forgets a neighbour and returns the hashes it owed an answer for.
    pub(crate) fn remove(&mut self, peer: PeerId) -> Vec<Hash> {
        let gone = self.neighbours.remove(&peer);
        gone.map(|neighbour| neighbour.asks.into_values().collect()).unwrap_or_default()
    }

    pub(crate) fn get_mut(&mut self, peer: PeerId) -> Option<&mut Neighbour> {
        self.neighbours.get_mut(&peer)
    }

    pub(crate) fn contains(&self, peer: PeerId) -> bool {
        self.neighbours.contains_key(&peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.neighbours.len()
    }

    /// Returns whether nearly all places are taken, so that there may be nodes beyond the neighbours: where there are, one
    /// comes for another all the time.
    pub(crate) fn is_crowded(&self, config: &Config) -> bool {
        let most = config.neighbours_max;
        self.neighbours.len() >= most - most / SPARE_PART
    }

    /// Returns whether a neighbour takes what others claim.
    pub(crate) fn takes_rumours(&self, peer: PeerId) -> bool {
        self.neighbours.get(&peer).is_some_and(|neighbour| neighbour.takes_rumours)
    }

    pub(crate) fn ids(&self) -> Vec<PeerId> {
        self.neighbours.keys().copied().collect()
    }

    pub(crate) fn infos(&self) -> Vec<NeighbourInfo> {
        let info = |(peer, neighbour): (&PeerId, &Neighbour)| NeighbourInfo {
            peer: *peer,
            filter_blobs: neighbour.filter.as_ref().map(|known| known.filter.count()),
            rtt: neighbour.rtt,
        };
        self.neighbours.iter().map(info).collect()
    }

    /// Sorts the neighbours by what their filters make of `hash`: those to ask, best first, and
    /// those that are ruled out.
    pub(crate) fn sort_for(
        &self,
        hash: &Hash,
        now: Time,
        config: &Config,
    ) -> (Vec<(PeerId, Opinion)>, Vec<PeerId>) {
        let mut asked = Vec::new();
        let mut skipped = Vec::new();
        for (peer, neighbour) in &self.neighbours {
            match neighbour.opinion(hash, now, config) {
                Opinion::RuledOut => skipped.push(*peer),
                opinion @ (Opinion::Likely | Opinion::Unknown | Opinion::Doubtful) => {
                    asked.push((opinion, neighbour.rtt.unwrap_or(Duration::MAX), *peer));
                }
            }
        }
        asked.sort();
        (asked.into_iter().map(|(opinion, _, peer)| (peer, opinion)).collect(), skipped)
    }

    /// Returns the neighbours that may hold `hash` and answer delta requests, best first.
    pub(crate) fn delta_holders(&self, hash: &Hash, now: Time, config: &Config) -> Vec<PeerId> {
        let answers = |peer: &PeerId| {
            self.neighbours.get(peer).is_some_and(|neighbour| neighbour.answers_delta)
        };
        let (holders, _) = self.sort_for(hash, now, config);
        holders.into_iter().map(|(peer, _)| peer).filter(answers).collect()
    }

    /// Returns how many neighbours have said hello, and so what they answer.
    pub(crate) fn greeted(&self) -> usize {
        self.neighbours.values().filter(|neighbour| neighbour.greeted).count()
    }

    pub(crate) fn opinion(&self, peer: PeerId, hash: &Hash, now: Time, config: &Config) -> Opinion {
        self.neighbours
            .get(&peer)
            .map_or(Opinion::Unknown, |neighbour| neighbour.opinion(hash, now, config))
    }

    pub(crate) fn ban(&mut self, peer: PeerId, until: Time, bans_max: usize) {
        if self.bans.len() >= bans_max {
            let soonest = self.bans.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer);
            soonest.and_then(|peer| self.bans.remove(&peer));
        }
        self.bans.insert(peer, until);
    }

    pub(crate) fn is_banned(&self, peer: PeerId, now: Time) -> bool {
        self.bans.get(&peer).is_some_and(|until| *until > now)
    }

    /// Returns how long the edge should wait for the LAN: what 95 of 100 answers took lately, within
    /// the bounds of the configuration (Dean, Barroso, *The tail at scale*, CACM 2013).
    pub(crate) fn hedge_delay(&mut self, config: &Config) -> Duration {
        if self.answer_times.len() < ANSWER_TIMES_MIN {
            return config.hedge_initial.clamp(config.hedge_min, config.hedge_max);
        }
        let p95 = *self.p95.get_or_insert_with(|| {
            let mut times: Vec<Duration> = self.answer_times.iter().copied().collect();
            times.sort();
            let p95 = times.len() * 95 / 100;
            times[p95.min(times.len() - 1)]
        });
        p95.clamp(config.hedge_min, config.hedge_max)
    }

    /// Returns whether a peer may be sent small requests.
    pub(crate) fn takes_small(&self, peer: PeerId, now: Time, config: &Config) -> bool {
        config.small_per_peer_max > 0
            && self.neighbours.get(&peer).is_some_and(|neighbour| {
                let rests = neighbour.small_rests_until.is_some_and(|until| until > now);
                neighbour.answers_small && !rests
            })
    }

    /// Returns as what a peer takes many small requests.
    pub(crate) fn takes_packs(&self, peer: PeerId) -> Packs {
        self.neighbours.get(&peer).map_or(Packs::None, |neighbour| neighbour.packs)
    }

    /// Takes in that a neighbour answered a small request.
    pub(crate) fn small_answered(&mut self, peer: PeerId, now: Time) {
        self.small_heard(peer, now);
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.small_answers += 1;
        }
    }

    /// Returns how many small requests a neighbour has answered.
    pub(crate) fn small_answers(&self, peer: PeerId) -> u64 {
        self.neighbours.get(&peer).map_or(0, |neighbour| neighbour.small_answers)
    }

    /// Takes in that a neighbour is heard, or got a small request while it had none to answer.
    pub(crate) fn small_heard(&mut self, peer: PeerId, now: Time) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.small_heard = now;
        }
    }

    /// Returns for how long a neighbour that owes answers to small requests has given none.
    pub(crate) fn small_silence(&self, peer: PeerId, now: Time) -> Option<Duration> {
        self.neighbours.get(&peer).map(|neighbour| now - neighbour.small_heard)
    }

    /// Takes in that small requests come to nothing at a neighbour.
    pub(crate) fn rest_small(&mut self, peer: PeerId, until: Time) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.small_rests_until = Some(until);
        }
    }

    /// Takes in that a fetch from a peer fell silent.
    pub(crate) fn stalled(&mut self, peer: PeerId) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.stalls = neighbour.stalls.saturating_add(1);
        }
    }

    /// Takes in that a peer has brought a fetch to an end.
    pub(crate) fn spoke(&mut self, peer: PeerId) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.stalls = 0;
        }
    }

    /// Takes in that a peer gave a blob. Where its filter had ruled that out, word of what it holds is still on its way:
    /// the filter rules out nothing for a while. Returns whether that is news.
    pub(crate) fn gave(&mut self, peer: PeerId, hash: &Hash, now: Time, config: &Config) -> bool {
        let Some(neighbour) = self.get_mut(peer) else { return false };
        let is_news = neighbour.opinion(hash, now, config) == Opinion::RuledOut;
        if is_news {
            neighbour.behind_until = Some(now + BEHIND_FOR);
        }
        is_news
    }

    /// Returns whether a peer has been silent so often that it is not worth another attempt.
    pub(crate) fn is_mute(&self, peer: PeerId) -> bool {
        self.neighbours.get(&peer).is_none_or(|neighbour| neighbour.stalls >= MUTE_STALLS)
    }

    /// Takes in that a neighbour has answered a small request after all.
    pub(crate) fn end_rest_of_small(&mut self, peer: PeerId) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.small_rests_until = None;
        }
    }

    /// Returns whether a neighbour is believed that names a holder.
    pub(crate) fn believes_names_of(&self, peer: PeerId, now: Time) -> bool {
        let rests = |neighbour: &Neighbour| neighbour.names_rest_until.is_some_and(|at| at > now);
        self.neighbours.get(&peer).is_some_and(|neighbour| !rests(neighbour))
    }

    /// Takes in that a holder which a neighbour named came to nothing.
    pub(crate) fn rest_names(&mut self, peer: PeerId, until: Time) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.names_rest_until = neighbour.names_rest_until.max(Some(until));
        }
    }

    /// Takes in whether a neighbour's filter told the truth, by an answer whose time says nothing.
    pub(crate) fn judge(&mut self, peer: PeerId, lesson: Lesson, now: Time, config: &Config) {
        if let Some(neighbour) = self.get_mut(peer) {
            neighbour.judge(lesson, now, config);
        }
    }

    /// Takes in an answer and returns whether a question of that number was out for that hash.
    pub(crate) fn answered(&mut self, peer: PeerId, id: u32) -> Option<Hash> {
        self.get_mut(peer)?.asks.remove(&id)
    }

    /// Remembers how long an answer took, and whether the filter had told the truth.
    pub(crate) fn learn(
        &mut self,
        peer: PeerId,
        took: Duration,
        lesson: Lesson,
        now: Time,
        config: &Config,
    ) {
        if self.answer_times.len() >= ANSWER_TIMES_MAX {
            self.answer_times.pop_front();
        }
        self.answer_times.push_back(took);
        self.p95 = None;
        let Some(neighbour) = self.get_mut(peer) else { return };
        neighbour.rtt = Some(took);
        neighbour.judge(lesson, now, config);
    }
}

/// Says what an answer teaches about the filter of the peer that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// The filter said maybe, and the peer has the blob.
    Truth,
    /// The filter said maybe, and the peer does not have it.
    Lie,
    /// The peer was not asked on the word of its filter.
    Nothing,
}

impl Neighbour {
    /// Numbers a question about `hash`.
    pub(crate) fn ask(&mut self, hash: Hash) -> u32 {
        let id = self.number_ask();
        self.asks.insert(id, hash);
        id
    }

    /// Numbers a question whose answer is no news to the resolver.
    pub(crate) fn number_ask(&mut self) -> u32 {
        let id = self.next_ask;
        self.next_ask = self.next_ask.wrapping_add(1);
        id
    }

    /// Returns whether it may have the whole filter again, which is the largest answer to the smallest
    /// question there is.
    pub(crate) fn may_ask_for_filter(&mut self, now: Time, interval: Duration) -> bool {
        let may = self.filter_asked.is_none_or(|asked| now - asked >= interval);
        if may {
            self.filter_asked = Some(now);
        }
        may
    }

    /// Forgets the question about `hash`, so that a late answer is not heard.
    pub(crate) fn forget_ask(&mut self, hash: Hash) {
        self.asks.retain(|_, asked| *asked != hash);
    }

    pub(crate) fn accept(&mut self, frame: FilterFrame, now: Time) -> Result<(), FilterError> {
        (self.filter, self.behind_until) = (None, None);
        self.filter = Some(KnownFilter { filter: PeerFilter::accept(frame)?, heard: now });
        Ok(())
    }

    /// Applies a change, and returns whether it fitted; the whole filter is needed where it did not.
    pub(crate) fn apply(&mut self, delta: &FilterDelta, now: Time) -> bool {
        self.behind_until = None;
        let Some(known) = self.filter.as_mut() else { return false };
        let fits = known.filter.apply(delta).is_ok();
        if fits {
            known.heard = now;
        } else {
            self.filter = None;
        }
        fits
    }

    fn opinion(&self, hash: &Hash, now: Time, config: &Config) -> Opinion {
        let fresh = self.filter.as_ref().filter(|known| now - known.heard <= config.filter_ttl);
        let Some(known) = fresh else { return Opinion::Unknown };
        let ignored = self.ignored_until.is_some_and(|until| until > now);
        let behind = self.behind_until.is_some_and(|until| until > now);
        match (known.filter.may_hold(hash), ignored) {
            (false, _) if behind => Opinion::Unknown,
            (false, _) => Opinion::RuledOut,
            (true, false) => Opinion::Likely,
            (true, true) => Opinion::Doubtful,
        }
    }

    /// Judges a filter by its measured error: one answer in five wasted is more than ten times what
    /// an honest filter wastes.
    fn judge(&mut self, lesson: Lesson, now: Time, config: &Config) {
        let (asks, lies) = &mut self.judged;
        match lesson {
            Lesson::Nothing => return,
            Lesson::Truth => *asks += 1,
            Lesson::Lie => {
                *asks += 1;
                *lies += 1;
            }
        }
        if *asks < config.filter_judged_after {
            return;
        }
        if *lies * 5 > *asks {
            self.ignored_until = Some(now + config.filter_ignored_for);
        }
        self.judged = (0, 0);
    }
}
