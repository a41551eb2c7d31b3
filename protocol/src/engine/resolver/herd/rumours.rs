//! What those bring from the edge who are no neighbours.
//!
//! A site may have more nodes than one has places for neighbours, and claims are told to neighbours alone. So who hears a claim
//! there tells a few others who want the blob, once, and they do the same. Whom is not left to chance each time: that reaches
//! 997 of 1,000 nodes only where each tells six (the root of z = 1 - e^(-6z); rumour mongering, Demers et al., *Epidemic
//! Algorithms for Replicated Database Maintenance*, PODC 1987). [`Links`] stay, are used both ways, and reach as many
//! with half the words once they all have been.
//!
//! Anybody may make a rumour up. So rumours keep a node from the edge only as long as the crowd brings it something: after
//! [`CROWD_PATIENCE`] without anything it asks for a range all the same, and if nothing comes then either, those of
//! [`RUMOUR_PATIENCE`] are forgotten, and who told them is not believed again in this get. A node that has many
//! places free knows all others; it tells and believes none.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::Herd;
use super::links::{self, Links};
use crate::blob::Hash;
use crate::engine::peers::Peers;
use crate::engine::resolver::Resolver;
use crate::engine::resolver::resolution::Resolution;
use crate::engine::resolver::swarm::{Swarm, ranges};
use crate::engine::{Output, Shell};
use crate::id::PeerId;
use crate::time::Time;
use crate::wire::message::Message;

/// How many a neighbour hears that is about to ask the edge: of all its neighbours together it hears of nearly all.
const SEEKER_RUMOURS: usize = 4;
/// The most that are remembered of one blob; further ones are passed over. Each is 104 bytes.
const RUMOURS_MAX: usize = 512;
/// The most neighbours of whom is remembered what came of that they told.
const TELLERS_MAX: usize = 256;
/// How long one is remembered at most of which nothing came.
const RUMOUR_TTL: Duration = Duration::from_secs(60);
/// How long one counts where the list is not proven here, so that nobody can say what came.
const UNPROVEN_TTL: Duration = Duration::from_secs(3);
/// A crowd asks for no more ranges when it waits for so many: more at once come no sooner, but later to those who wait for
/// them. At 25 MB/s each they fill 6.4 Gbit/s.
const CROWD_RANGES_MAX: usize = 32;
/// The crowd is believed for so long after it last brought something.
const CROWD_PATIENCE: Duration = Duration::from_secs(3);
/// What a rumour says may take so long where the crowd brings nothing else: its first ranges share the edge's link, and
/// come together.
const RUMOUR_PATIENCE: Duration = Duration::from_secs(20);

/// For so long after this node has asked its neighbours whom to wait for they may be answering that.
const SEEK_ECHO: Duration = Duration::from_millis(500);

/// Of more nodes than one knows each begins to ask the edge within this time, at random: so those who come later have heard
/// of what the first of them claim.
const TURN: Duration = Duration::from_millis(250);
/// How soon a node looks again whether a crowd that brought as much as it can has room.
const CROWD_LOOK: Duration = Duration::from_millis(250);

/// Is what a neighbour heard that somebody brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rumoured {
    /// Who brings it.
    pub(crate) owner: PeerId,
    /// How many groups of the blob the edge had given it.
    pub(crate) done: u64,
    /// First group and number of groups.
    pub(crate) run: (u64, u64),
}

/// Is what was heard of claims, by owner and first group: of neighbours' own, too, as they come back as rumours.
#[derive(Debug, Default)]
pub(super) struct Rumours {
    heard: BTreeMap<(PeerId, u64), Rumour>,
    /// What came of that neighbours told.
    tellers: BTreeMap<PeerId, Teller>,
    links: Links,
}

/// Counts what a neighbour told.
#[derive(Clone, Copy, Debug, Default)]
struct Teller {
    came: u32,
    /// Of which nothing came.
    failed: u32,
}

#[derive(Clone, Debug)]
struct Rumour {
    groups: Range<u64>,
    /// Who told it first.
    by: PeerId,
    done: u64,
    at: Time,
}

/// Says what is known of a crowd.
#[derive(Debug)]
pub(super) struct Crowd {
    /// The ranges that it brings, as is rumoured, and of which nothing has come.
    pub(super) brings: Vec<Range<u64>>,
    /// Until when it is believed.
    pub(super) believed_until: Time,
}

impl Crowd {
    /// Returns whether it brings as much as it can.
    fn is_busy(&self, now: Time) -> bool {
        self.brings.len() >= CROWD_RANGES_MAX && self.is_believed(now)
    }

    pub(super) fn is_believed(&self, now: Time) -> bool {
        self.believed_until > now
    }
}

impl Rumours {
    /// Takes in a claim, and returns whether it is news.
    fn hear(&mut self, owner: PeerId, rumour: Rumour) -> bool {
        let key = (owner, rumour.groups.start);
        let has_room = self.heard.len() < RUMOURS_MAX && self.is_believed(rumour.by);
        let news = has_room && !self.heard.contains_key(&key);
        if news {
            self.heard.insert(key, rumour);
        }
        news
    }

    /// Returns whether a neighbour is believed: one that told more of which nothing came than of which something did is not.
    /// What all bring stands still when the edge does, so one that told much of which something came is believed for longer.
    fn is_believed(&self, by: PeerId) -> bool {
        self.tellers.get(&by).is_none_or(|teller| teller.failed <= teller.came)
    }

    /// Forgets those of which nothing came for long, and counts that against those who told them.
    fn doubt(&mut self, now: Time) {
        let tellers = &mut self.tellers;
        self.heard.retain(|_, rumour| {
            let fresh = now - rumour.at < RUMOUR_PATIENCE;
            if !fresh {
                count(tellers, rumour.by, |teller| teller.failed += 1);
            }
            fresh
        });
    }

    /// Forgets those of which something came, and those that are old.
    fn settle(&mut self, swarm: Option<&Swarm>, now: Time) {
        let tellers = &mut self.tellers;
        self.heard.retain(|_, rumour| {
            let came = swarm.is_some_and(|swarm| swarm.pieces.is_spread(&rumour.groups));
            if came {
                count(tellers, rumour.by, |teller| teller.came += 1);
            }
            !came && now - rumour.at < RUMOUR_TTL
        });
    }

    /// Forgets a range that its owner does not bring.
    pub(super) fn drop_claim(&mut self, owner: PeerId, first: u64) {
        self.heard.remove(&(owner, first));
    }

    /// Forgets what a neighbour was to bring that is gone.
    pub(super) fn forget(&mut self, owner: PeerId) {
        self.heard.retain(|(other, _), _| *other != owner);
    }

    /// Returns whether somebody brings the beginning, and until when that is believed, where nobody can say what came.
    pub(super) fn begun(&self, now: Time) -> Option<Time> {
        let until = self.heard.values().map(|rumour| rumour.at + UNPROVEN_TTL).max()?;
        (until > now).then_some(until)
    }
}

fn count(tellers: &mut BTreeMap<PeerId, Teller>, by: PeerId, what: impl FnOnce(&mut Teller)) {
    if tellers.len() < TELLERS_MAX || tellers.contains_key(&by) {
        what(tellers.entry(by).or_default());
    }
}

impl Herd {
    /// Returns whether what a neighbour tells is told because of a link: those who were asked whom to wait for tell, too.
    fn is_told_by_link(&self, now: Time) -> bool {
        self.listens_until.is_none_or(|until| now > until + SEEK_ECHO)
    }

    /// Returns when neighbours last showed that the edge gives them something.
    fn moved_at(&self) -> Time {
        let moved = self.claims.values().flatten().map(|claim| claim.moved);
        moved.max().unwrap_or(Time::ZERO)
    }
}

impl Resolution {
    /// Returns what is known of those beyond the neighbours, as far as it has not come.
    pub(super) fn crowd(&mut self, shell: &Shell) -> Crowd {
        let now = shell.now;
        self.herd.lapse(true, shell);
        self.herd.rumours.settle(self.swarm.as_ref(), now);
        let heard = self.swarm.as_ref().map_or(Time::ZERO, |swarm| swarm.heard_at());
        let believed_until = heard.max(self.herd.moved_at()) + CROWD_PATIENCE;
        if believed_until <= now {
            self.herd.rumours.doubt(now);
        }
        let brings = self.herd.rumours.heard.values().map(|rumour| rumour.groups.clone()).collect();
        Crowd { brings, believed_until }
    }

    /// Returns the neighbours that want the blob, too: before its size is known those who said so, if they are enough for links.
    fn crowd_of(&self, peers: &Peers, now: Time) -> Vec<PeerId> {
        let seekers: Vec<_> = self.herd.seekers(now).filter(|peer| peers.contains(*peer)).collect();
        if self.swarm.is_none() && seekers.len() > links::CHOSEN {
            return seekers;
        }
        self.herd_of(peers, now)
    }

    /// Returns when to look again whether it is our turn to ask the edge; none if it is.
    pub(super) fn waits_for_crowd(&mut self, crowd: &Crowd, shell: &mut Shell) -> Option<Time> {
        let turn = *self.herd.turn.get_or_insert_with(|| shell.now + shell.jitter(TURN));
        if turn > shell.now {
            return Some(turn);
        }
        crowd.is_busy(shell.now).then(|| shell.now + CROWD_LOOK)
    }
}

impl Resolver {
    /// Takes in what a neighbour heard that somebody brings from the edge.
    pub(crate) fn rumour_told(
        &mut self,
        by: PeerId,
        hash: Hash,
        rumoured: Rumoured,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Rumoured { owner, done, run } = rumoured;
        let Some(groups) = ranges(&[run], u64::MAX, 1).and_then(|runs| runs.into_iter().next())
        else {
            return;
        };
        let about_us = owner == peers.me() || peers.is_banned(owner, shell.now);
        if about_us || !self.resolutions.contains_key(&hash) {
            return;
        }
        if !self.pass_on(hash, (owner, by), (groups.clone(), done), peers, shell) {
            return;
        }
        self.yield_to(hash, (owner, done), std::slice::from_ref(&groups), peers.me(), shell);
        self.advance(hash, peers, shell);
    }

    /// Tells a few others who want the blob what somebody claims, if that is news here, and returns whether it is. Where all
    /// of them may be neighbours it is not.
    pub(super) fn pass_on(
        &mut self,
        hash: Hash,
        (owner, by): (PeerId, PeerId),
        (groups, done): (Range<u64>, u64),
        peers: &Peers,
        shell: &mut Shell,
    ) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let crowded = peers.is_crowded(&shell.config) && shell.config.shares_parts;
        if crowded && by != owner && running.herd.is_told_by_link(shell.now) {
            running.herd.rumours.links.used_by(by);
        }
        let came = running.swarm.as_ref().is_some_and(|swarm| swarm.pieces.is_spread(&groups));
        let rumour = Rumour { groups: groups.clone(), by, done, at: shell.now };
        if !crowded || came || !running.herd.rumours.hear(owner, rumour) {
            return false;
        }
        let mut others = running.crowd_of(peers, shell.now);
        others.retain(|peer| peers.takes_rumours(*peer));
        let run = (groups.start, groups.end - groups.start);
        let links = running.herd.rumours.links.among(&others, |places| shell.pick(places));
        for peer in links.into_iter().filter(|peer| *peer != owner && *peer != by) {
            let message = Message::Rumour { hash, owner, done, run };
            shell.emit(Output::Send { peer, message });
        }
        true
    }

    /// Tells a neighbour that is about to ask the edge some of what was heard that others bring.
    pub(super) fn tell_rumours_to(
        &self,
        hash: Hash,
        peer: PeerId,
        peers: &Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get(&hash) else { return };
        let heard = &running.herd.rumours.heard;
        if heard.is_empty() || !peers.takes_rumours(peer) {
            return;
        }
        let first = shell.pick(heard.len());
        let some = heard.iter().cycle().skip(first).take(SEEKER_RUMOURS.min(heard.len()));
        for ((owner, start), rumour) in some.filter(|((owner, _), _)| *owner != peer) {
            let run = (*start, rumour.groups.end - start);
            let message = Message::Rumour { hash, owner: *owner, done: rumour.done, run };
            shell.emit(Output::Send { peer, message });
        }
    }
}
