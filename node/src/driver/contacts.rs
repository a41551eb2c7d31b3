//! Contacts: where neighbours may be found, and when to dial them.
//!
//! A contact is an address that the user named, or one that mDNS showed. Both are dialled until a link
//! stands, named ones for ever with growing pauses, shown ones as long as they are shown. Identity is
//! proven by the handshake; what mDNS says is a hint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blobmesh_protocol::PeerId;
use tokio::time::Instant;

use crate::discovery::Candidate;
use crate::swarm::convert;

/// How long a node looks for its neighbours by mDNS before it says that a blob is nowhere. Those that
/// are there answer within 50 ms; a second covers a query that was lost and asked again.
const DISCOVERY_TIME: Duration = Duration::from_millis(1_200);
/// How long the peers a user named may take to link before the node goes on without them.
const DIAL_TIME: Duration = Duration::from_secs(3);
/// How long a link must have lasted to say that the peer wants us; one that ended earlier counts like a
/// dial that failed.
const PROVEN_TIME: Duration = Duration::from_secs(30);
/// How long a peer for which there was no room is left alone.
const REFUSED_PAUSE: Duration = Duration::from_secs(180);
/// How many peers are remembered that were linked, or that rest after a short link.
const PEERS_MAX: usize = 512;
/// How long after one address of a peer the next one is dialled: a neighbour has answered by then, and a second connection
/// to it would be made only to be closed.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(50);
/// The first pause before a named peer is dialled again.
const REDIAL_INITIAL: Duration = Duration::from_millis(250);
/// The longest pause before a named peer is dialled again.
const REDIAL_MAX: Duration = Duration::from_secs(30);
/// How many addresses that mDNS showed are remembered at once, and how many candidates wait.
const SHOWN_MAX: usize = 256;
/// How long an address that was shown is not dialled again.
const SHOWN_PAUSE: Duration = Duration::from_secs(2);
/// How long a candidate that is to dial us is waited for before we dial it.
const DIALLED_TIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Contacts {
    named: Vec<Named>,
    /// Addresses that were shown and dialled.
    shown: BTreeMap<String, Shown>,
    /// Candidates that are to dial us, and until when they are waited for.
    waiting: Vec<(Instant, Candidate)>,
    peers: BTreeMap<PeerId, Standing>,
    started: Instant,
    discovers: bool,
    settled: bool,
}

#[derive(Debug)]
struct Shown {
    dialled: Instant,
    /// The candidate's other addresses, for when this one fails.
    others: Vec<String>,
}

/// How it went with a peer that was linked.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// Since when it is linked, if it is.
    linked: Option<Instant>,
    /// How often in a row a link with it ended early.
    failures: u32,
    /// Until when we open no link with it.
    rests: Instant,
}

#[derive(Debug)]
struct Named {
    address: String,
    peer: Option<PeerId>,
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due(Instant),
    Dialling(Instant),
    Linked,
}

impl Contacts {
    pub(super) fn new(peers: &[String], discovers: bool, now: Instant) -> Self {
        let mut named: Vec<Named> = Vec::new();
        for address in peers {
            let peer = convert::peer_of_address(address).ok().flatten();
            let same = |other: &&mut Named| {
                bare(&other.address) == bare(address)
                    && (other.peer.is_none() || peer.is_none() || other.peer == peer)
            };
            match named.iter_mut().find(same) {
                Some(same) if same.peer.is_some() => {}
                // The one that names the peer proves whom it leads to.
                Some(same) => (same.address, same.peer) = (address.clone(), peer),
                None => {
                    let state = State::Due(now);
                    named.push(Named { address: address.clone(), peer, state, failures: 0 });
                }
            }
        }
        Self {
            named,
            shown: BTreeMap::new(),
            waiting: Vec::new(),
            peers: BTreeMap::new(),
            started: now,
            discovers,
            settled: false,
        }
    }

    /// Returns the named addresses to dial now: of each peer one at a time, as long as it may still answer there.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let late = |named: &Named| matches!(named.state, State::Dialling(since) if now - since > DIAL_TIME);
        self.named.iter_mut().filter(|named| late(named)).for_each(|named| named.fail(now));
        let begun = |named: &Named| match named.state {
            State::Dialling(since) if now - since < NEXT_ADDRESS_AFTER => named.peer,
            State::Due(_) | State::Dialling(_) | State::Linked => None,
        };
        let mut begun: BTreeSet<PeerId> = self.named.iter().filter_map(begun).collect();
        let mut due = Vec::new();
        for named in &mut self.named {
            if !matches!(named.state, State::Due(at) if at <= now) {
                continue;
            }
            if named.peer.is_some_and(|peer| !begun.insert(peer)) {
                named.state = State::Due(now + NEXT_ADDRESS_AFTER);
                continue;
            }
            named.state = State::Dialling(now);
            due.push(named.address.clone());
        }
        due
    }

    /// Returns when [`due`](Self::due) or [`settle`](Self::settle) should be asked again.
    pub(super) fn next(&self) -> Option<Instant> {
        let of_named = self.named.iter().filter_map(|named| match named.state {
            State::Due(at) => Some(at),
            State::Dialling(since) => Some(since + DIAL_TIME),
            State::Linked => None,
        });
        let settle = (!self.settled).then(|| self.started + self.settle_time());
        let of_waiting = self.waiting.iter().map(|(until, _)| *until);
        of_named.chain(of_waiting).chain(settle).min()
    }

    /// Returns true once: when the node has looked for its neighbours long enough.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        if self.settled {
            return false;
        }
        let tried = |named: &Named| named.failures > 0 || named.state == State::Linked;
        let discovered = !self.discovers || now >= self.started + DISCOVERY_TIME;
        let in_time = now < self.started + self.settle_time();
        self.settled = (discovered && self.named.iter().all(tried)) || !in_time;
        self.settled
    }

    /// Waits for a candidate to dial us; it is shown again if there is no room.
    pub(super) fn wait(&mut self, candidate: Candidate, now: Instant) {
        let known = self.waiting.iter().any(|(_, waiting)| waiting.name == candidate.name);
        if !known && self.waiting.len() < SHOWN_MAX {
            self.waiting.push((now + DIALLED_TIME, candidate));
        }
    }

    /// Takes the candidates that were waited for long enough.
    pub(super) fn waited(&mut self, now: Instant) -> Vec<Candidate> {
        self.waiting.extract_if(.., |(until, _)| *until <= now).map(|(_, waited)| waited).collect()
    }

    /// Takes the addresses of a candidate and returns the one to dial, none if it was dialled a moment
    /// ago.
    pub(super) fn show(&mut self, mut addresses: Vec<String>, now: Instant) -> Option<String> {
        if addresses.is_empty() {
            return None;
        }
        let address = addresses.remove(0);
        let shown = self.shown.get(&address);
        if shown.is_some_and(|shown| now - shown.dialled < SHOWN_PAUSE) {
            return None;
        }
        if self.shown.len() >= SHOWN_MAX {
            let oldest = self.shown.iter().min_by_key(|(_, shown)| shown.dialled);
            if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
                self.shown.remove(&oldest);
            }
        }
        self.shown.insert(address.clone(), Shown { dialled: now, others: addresses });
        Some(address)
    }

    /// Returns whether a peer that we dialled at `address` is a contact, and learns who it is.
    pub(super) fn is_contact(&mut self, peer: PeerId, address: &str) -> bool {
        let mut found = self.shown.contains_key(bare(address));
        for named in &mut self.named {
            if named.peer == Some(peer) || bare(&named.address) == bare(address) {
                named.peer = Some(peer);
                found = true;
            }
        }
        found
    }

    /// Returns whether we may open a link with a peer; one that it opens is taken anyway.
    pub(super) fn may_link(&self, peer: PeerId, now: Instant) -> bool {
        self.peers.get(&peer).is_none_or(|standing| standing.rests <= now)
    }

    /// Returns the peers with whom we may not open a link now.
    pub(super) fn resting(&self, now: Instant) -> impl Iterator<Item = PeerId> {
        let resting = self.peers.iter().filter(move |(_, standing)| standing.rests > now);
        resting.map(|(peer, _)| *peer)
    }

    pub(super) fn linked(&mut self, peer: PeerId, now: Instant) {
        self.standing(peer, now).linked.get_or_insert(now);
        for named in self.named.iter_mut().filter(|named| named.peer == Some(peer)) {
            named.state = State::Linked;
        }
    }

    /// Takes in that a link has ended. Only one that lasted makes up for earlier failures: a peer that
    /// takes us in and drops us again would be dialled for ever.
    pub(super) fn unlinked(&mut self, peer: PeerId, now: Instant) {
        let standing = self.standing(peer, now);
        let lasted = standing.linked.take().is_some_and(|since| now - since >= PROVEN_TIME);
        if lasted {
            self.peers.remove(&peer);
        } else {
            standing.rests = now + pause(standing.failures);
            standing.failures += 1;
        }
        for named in self.named.iter_mut().filter(|named| named.peer == Some(peer)) {
            named.failures = if lasted { 0 } else { named.failures };
            named.fail(now);
        }
    }

    /// Leaves a peer alone for a while, because there is no room for it.
    pub(super) fn refused(&mut self, peer: PeerId, now: Instant) {
        let until = now + REFUSED_PAUSE;
        self.standing(peer, now).rests = until;
        for named in self.named.iter_mut().filter(|named| named.peer == Some(peer)) {
            named.state = State::Due(until);
        }
    }

    /// Forgets all contacts: there is no way to dial them any more.
    pub(super) fn give_up(&mut self) {
        self.named.clear();
        self.waiting.clear();
        self.shown.clear();
        self.discovers = false;
    }

    fn standing(&mut self, peer: PeerId, now: Instant) -> &mut Standing {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, s)| (s.linked.is_some(), s.rests));
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
            }
        }
        let fresh = Standing { linked: None, failures: 0, rests: now };
        self.peers.entry(peer).or_insert(fresh)
    }

    /// Takes in that a dial failed, and returns the next address of the same candidate to dial.
    pub(super) fn failed(&mut self, address: &str, now: Instant) -> Option<String> {
        for named in self.named.iter_mut().filter(|named| named.address == address) {
            named.fail(now);
        }
        let others = self.shown.remove(address)?.others;
        self.show(others, now)
    }

    fn settle_time(&self) -> Duration {
        match (self.discovers, self.named.is_empty()) {
            (_, false) => DIAL_TIME,
            (true, true) => DISCOVERY_TIME,
            (false, true) => Duration::ZERO,
        }
    }
}

impl Named {
    fn fail(&mut self, now: Instant) {
        self.state = State::Due(now + pause(self.failures));
        self.failures += 1;
    }
}

/// Returns the pause after a failure that was preceded by `failures` others.
fn pause(failures: u32) -> Duration {
    REDIAL_INITIAL.saturating_mul(1 << failures.min(16)).min(REDIAL_MAX)
}

/// Returns an address without the peer it may name at its end.
fn bare(address: &str) -> &str {
    address.split("/p2p/").next().unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "/ip4/192.0.2.7/tcp/4001";

    const OTHER: &str = "/ip4/192.0.2.8/tcp/4001";

    fn peer() -> PeerId {
        PeerId::from_bytes([1; 32])
    }

    /// A peer that addresses can name: its id is a key.
    fn real_peer() -> (PeerId, String) {
        let peer = crate::identity::Identity::generate().expect("random").peer();
        (peer, convert::peer_text(&peer))
    }

    #[tokio::test]
    async fn named_peer_is_dialled_again_with_growing_pauses_until_linked() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[ADDRESS.to_owned()], false, start);
        assert_eq!(contacts.due(start), vec![ADDRESS.to_owned()]);
        assert!(contacts.due(start).is_empty(), "once");
        contacts.failed(ADDRESS, start);
        let first = contacts.next().expect("a pause");
        contacts.due(first);
        contacts.failed(ADDRESS, first);
        let second = contacts.next().expect("a pause");
        assert!(second - first > first - start, "the pause grows");
        assert!(contacts.is_contact(peer(), ADDRESS));
        contacts.linked(peer(), start);
        assert!(contacts.due(second + REDIAL_MAX).is_empty());
        contacts.unlinked(peer(), second);
        assert_eq!(contacts.due(second + REDIAL_MAX).len(), 1);
    }

    #[tokio::test]
    async fn peer_is_dialled_at_one_address_after_another() {
        let start = Instant::now();
        let (peer, id) = real_peer();
        let (first, second) = (format!("{ADDRESS}/p2p/{id}"), format!("{OTHER}/p2p/{id}"));
        // The same address twice is one, and the peer that it names is kept.
        let named = [ADDRESS.to_owned(), first.clone(), ADDRESS.to_owned(), second.clone()];
        let mut contacts = Contacts::new(&named, false, start);
        assert_eq!(contacts.due(start), vec![first]);
        assert_eq!(contacts.next(), Some(start + NEXT_ADDRESS_AFTER));
        let then = start + NEXT_ADDRESS_AFTER;
        assert_eq!(contacts.due(then), vec![second]);
        assert!(!contacts.settle(then), "nobody has answered");
        contacts.linked(peer, then);
        assert!(contacts.settle(then));
        assert!(contacts.due(then + DIAL_TIME + DIAL_TIME).is_empty());
    }

    #[tokio::test]
    async fn other_peers_are_dialled_at_once_also_where_one_was_before() {
        let start = Instant::now();
        let (_, id) = real_peer();
        let named = [format!("{ADDRESS}/p2p/{id}"), OTHER.to_owned()];
        assert_eq!(Contacts::new(&named, false, start).due(start), named);
    }

    #[tokio::test]
    async fn node_settles_when_all_named_peers_answered_or_their_time_is_over() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[ADDRESS.to_owned()], false, start);
        contacts.due(start);
        assert!(!contacts.settle(start));
        contacts.is_contact(peer(), ADDRESS);
        contacts.linked(peer(), start);
        assert!(contacts.settle(start), "all are linked");
        assert!(!contacts.settle(start), "once");
        let mut silent = Contacts::new(&[ADDRESS.to_owned()], false, start);
        silent.due(start);
        assert!(!silent.settle(start + DIAL_TIME - Duration::from_millis(1)));
        assert!(silent.settle(start + DIAL_TIME));
    }

    #[tokio::test]
    async fn node_without_contacts_settles_at_once_and_with_mdns_after_its_time() {
        let start = Instant::now();
        assert!(Contacts::new(&[], false, start).settle(start));
        let mut discovering = Contacts::new(&[], true, start);
        assert!(!discovering.settle(start));
        assert!(discovering.settle(start + DISCOVERY_TIME));
    }

    #[tokio::test]
    async fn shown_address_is_dialled_once_a_moment_and_remembered_within_the_bound() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[], true, start);
        let one = || vec![ADDRESS.to_owned()];
        assert_eq!(contacts.show(one(), start).as_deref(), Some(ADDRESS));
        assert_eq!(contacts.show(one(), start), None);
        assert!(contacts.show(one(), start + SHOWN_PAUSE).is_some());
        for port in 0..2 * SHOWN_MAX {
            contacts.show(vec![format!("/ip4/192.0.2.8/tcp/{port}")], start);
        }
        assert!(contacts.shown.len() <= SHOWN_MAX);
    }

    #[tokio::test]
    async fn second_address_of_a_candidate_is_dialled_when_the_first_fails() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[], true, start);
        let other = "/ip4/198.51.100.7/tcp/4001";
        contacts.show(vec![ADDRESS.to_owned(), other.to_owned()], start);
        assert_eq!(contacts.failed(ADDRESS, start).as_deref(), Some(other));
        assert_eq!(contacts.failed(other, start), None);
    }

    #[tokio::test]
    async fn peer_that_drops_us_is_tried_ever_more_rarely_until_a_link_lasts() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[ADDRESS.to_owned()], false, start);
        assert!(contacts.is_contact(peer(), ADDRESS));
        let (mut now, mut tries) = (start, 0);
        while now < start + Duration::from_secs(600) {
            tries += contacts.due(now).len();
            assert!(contacts.may_link(peer(), now), "both pauses are the same");
            contacts.linked(peer(), now);
            contacts.unlinked(peer(), now);
            assert!(!contacts.may_link(peer(), now));
            contacts.settle(now);
            assert_eq!(contacts.resting(now).collect::<Vec<_>>(), vec![peer()]);
            now = contacts.next().expect("a pause");
        }
        assert!(tries < 30, "{tries} dials in ten minutes");
        contacts.linked(peer(), now);
        let end = now + PROVEN_TIME;
        contacts.unlinked(peer(), end);
        assert!(contacts.may_link(peer(), end));
        assert_eq!(contacts.next(), Some(end + REDIAL_INITIAL), "it wants us again");
    }

    #[tokio::test]
    async fn peer_for_which_there_was_no_room_is_left_alone_for_minutes() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[ADDRESS.to_owned()], false, start);
        contacts.due(start);
        assert!(contacts.is_contact(peer(), ADDRESS));
        contacts.linked(peer(), start);
        contacts.unlinked(peer(), start);
        contacts.refused(peer(), start);
        assert!(contacts.settle(start));
        assert_eq!(contacts.next(), Some(start + REFUSED_PAUSE));
        let early = start + REFUSED_PAUSE - Duration::from_secs(1);
        assert!(!contacts.may_link(peer(), early));
        assert!(contacts.may_link(peer(), start + REFUSED_PAUSE));
    }

    #[tokio::test]
    async fn peers_are_remembered_within_the_bound() {
        let start = Instant::now();
        let mut contacts = Contacts::new(&[], false, start);
        for n in 0..2 * u32::try_from(PEERS_MAX).expect("small") {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            contacts.linked(PeerId::from_bytes(bytes), start);
        }
        assert!(contacts.peers.len() <= PEERS_MAX);
    }
}
