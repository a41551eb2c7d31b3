//! Whom a node passes rumours on to.
//!
//! Each node chooses [`CHOSEN`] of those who want the blob too, and keeps them while they are neighbours that do, as far
//! as is known; whoever is told two things by another tells it from then on. Where each of many nodes has links to two others or more,
//! chosen at random and used both ways, all of them hang together, also without any one of them (Fenner and Frieze, *On the
//! Connectivity of Random m-Orientable Graphs and Digraphs*, Combinatorica 1982). With three it is half as far from one end of
//! a site to the other as with two, by five words a node, one for each link but the one it came by: who hears of a claim late
//! asks the edge for the same. Of 300 nodes that start from one image two links make 1.29 copies, three 1.13.
//!
//! A node that has told nobody anything is told by those who chose it, and nobody chose one in twenty (e^-3): links alone
//! do not bring the first claims to all. So with each of its first words a node tells some others, too, each of them once:
//! of 1,000 nodes with 64 neighbours each nearly all hear of every claim (the tests below). Who misses one asks the edge for
//! a range that somebody brings already.

use crate::id::PeerId;

/// How many a node chooses.
pub(super) const CHOSEN: usize = 3;
/// How many of those who chose this node it tells; each node is chosen by three on average, and hardly any by more than this.
const BACK_MAX: usize = 8;
/// So many words of a node are told to some others, too.
const EARLY_WORDS: usize = 8;
/// Who hears one of these besides those whom it is linked to.
const EARLY_OTHERS: usize = 4;
/// How many are remembered that told one thing: as many as a node has neighbours, ordinarily.
const ONCE_MAX: usize = 64;

/// Is whom a node passes rumours on to.
#[derive(Debug, Default)]
pub(super) struct Links {
    chosen: Vec<PeerId>,
    /// Those who chose this node, as far as it was told things by them.
    back: Vec<PeerId>,
    /// Those who told this node one thing, and may have chosen somebody else.
    once: Vec<PeerId>,
    /// How many words it has passed on.
    words: usize,
    /// Whom the early ones went to.
    early: Vec<PeerId>,
}

impl Links {
    /// Takes in that somebody has passed a rumour on to this node. Who does so twice has chosen it.
    pub(super) fn used_by(&mut self, peer: PeerId) {
        if self.chosen.contains(&peer) || self.back.contains(&peer) {
            return;
        }
        match self.once.iter().position(|other| *other == peer) {
            Some(place) if self.back.len() < BACK_MAX => {
                self.back.push(self.once.swap_remove(place))
            }
            Some(_) => {}
            None if self.once.len() < ONCE_MAX => self.once.push(peer),
            None => {}
        }
    }

    /// Returns to whom of `others`, who are sorted, the next word goes. Links to anybody else end, and `pick` chooses a place
    /// among so many where there are too few.
    pub(super) fn among(
        &mut self,
        others: &[PeerId],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Vec<PeerId> {
        let is_there = |peer: &PeerId| others.binary_search(peer).is_ok();
        self.chosen.retain(is_there);
        self.back.retain(is_there);
        self.once.retain(is_there);
        while self.chosen.len() < CHOSEN {
            let taken = |peer: &PeerId| self.chosen.contains(peer) || self.back.contains(peer);
            let Some(next) = one_of(others, taken, &mut pick) else { break };
            self.chosen.push(next);
        }
        let mut to = [&self.chosen[..], &self.back[..]].concat();
        if self.words < EARLY_WORDS {
            self.words += 1;
            for _ in 0..EARLY_OTHERS {
                let taken = |peer: &PeerId| to.contains(peer) || self.early.contains(peer);
                let Some(next) = one_of(others, taken, &mut pick) else { break };
                self.early.push(next);
                to.push(next);
            }
        }
        to
    }
}

/// Returns one of `others` who is not taken.
fn one_of(
    others: &[PeerId],
    taken: impl Fn(&PeerId) -> bool,
    mut pick: impl FnMut(usize) -> usize,
) -> Option<PeerId> {
    if others.iter().all(&taken) {
        return None;
    }
    let (before, from) = others.split_at(pick(others.len()).min(others.len()));
    from.iter().chain(before).find(|peer| !taken(peer)).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    fn peer(n: usize) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&u64::try_from(n).expect("small").to_le_bytes());
        PeerId::from_bytes(bytes)
    }

    fn number(peer: &PeerId) -> usize {
        let number = peer.as_bytes().first_chunk().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(*number)).expect("small")
    }

    /// A generator of numbers that are as good as random (xorshift; Marsaglia, *Xorshift RNGs*, 2003).
    struct Chance(u64);

    impl Chance {
        fn pick(&mut self, places: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 11).expect("64 bits") % places
        }
    }

    /// Links of a node whose early words are over.
    fn later(others: &[PeerId]) -> Links {
        let mut links = Links::default();
        for _ in 0..EARLY_WORDS {
            links.among(others, |_| 0);
        }
        links
    }

    /// Nodes that know some of each other.
    struct Site {
        links: Vec<Links>,
        neighbours: Vec<Vec<PeerId>>,
        chance: Chance,
    }

    impl Site {
        fn new(nodes: usize, known: usize) -> Self {
            let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
            let mut neighbours = vec![BTreeSet::new(); nodes];
            for node in 0..nodes {
                while neighbours[node].len() < known / 2 {
                    let other = chance.pick(nodes);
                    if other != node {
                        neighbours[node].insert(peer(other));
                        neighbours[other].insert(peer(node));
                    }
                }
            }
            let links = (0..nodes).map(|_| Links::default()).collect();
            let neighbours = neighbours.into_iter().map(|of| of.into_iter().collect()).collect();
            Self { links, neighbours, chance }
        }

        /// Has one node claim something, of which its neighbours hear from itself, and returns how many heard of it and how many
        /// words were passed on. `deaf` pass nothing on.
        fn tell(&mut self, first: usize, deaf: impl Fn(usize) -> bool) -> (usize, usize) {
            let (mut heard, mut words) = (BTreeSet::from([first]), 0);
            let mut telling = VecDeque::new();
            for near in self.neighbours[first].iter().map(number) {
                heard.insert(near);
                telling.push_back((near, first));
            }
            while let Some((node, by)) = telling.pop_front() {
                if deaf(node) {
                    continue;
                }
                let (chance, neighbours) = (&mut self.chance, &self.neighbours[node]);
                let links = self.links[node].among(neighbours, |places| chance.pick(places));
                for to in links.into_iter().filter(|to| ![peer(by), peer(first)].contains(to)) {
                    let to = number(&to);
                    words += 1;
                    // Also where it is no news.
                    self.links[to].used_by(peer(node));
                    if heard.insert(to) {
                        telling.push_back((to, node));
                    }
                }
            }
            (heard.len(), words)
        }
    }

    #[test]
    fn nearly_all_of_many_nodes_hear_by_five_words_each() {
        let mut site = Site::new(1_000, 64);
        let reached: Vec<_> = (0..100).map(|n| site.tell(n * 7, |_| false)).collect();
        for (after, least) in [(0, 970), (20, 990), (60, 994)] {
            assert!(reached[after..].iter().all(|(heard, _)| *heard >= least), "{reached:?}");
        }
        assert!(reached[20..].iter().all(|(_, words)| *words < 5_300), "{reached:?}");
    }

    #[test]
    fn hardly_anybody_misses_what_a_tenth_of_all_pass_on_to_nobody() {
        let mut site = Site::new(1_000, 64);
        let reached: Vec<_> = (0..100).map(|n| site.tell(n * 7, |node| node % 10 == 1)).collect();
        assert!(reached[80..].iter().all(|(heard, _)| *heard > 970), "{reached:?}");
    }

    #[test]
    fn links_stay_until_the_other_side_goes() {
        let others: Vec<_> = (0..10).map(peer).collect();
        let mut chance = Chance(1);
        let mut links = later(&others);
        let first = links.among(&others, |places| chance.pick(places));
        assert_eq!(first.len(), CHOSEN);
        for _ in 0..5 {
            assert_eq!(links.among(&others, |places| chance.pick(places)), first);
        }
        let rest: Vec<_> = others.iter().copied().filter(|peer| *peer != first[0]).collect();
        let then = links.among(&rest, |places| chance.pick(places));
        assert_eq!((then.len(), then[0]), (CHOSEN, first[1]));
        assert!(!then.contains(&first[0]));
    }

    #[test]
    fn those_who_chose_a_node_are_told_up_to_a_bound() {
        let others: Vec<_> = (0..30).map(peer).collect();
        let mut links = later(&others[29..]);
        (0..20).chain(0..20).for_each(|n| links.used_by(peer(n)));
        links.used_by(peer(0));
        let told: BTreeSet<_> = links.among(&others, |_| 0).into_iter().collect();
        assert_eq!(told.len(), BACK_MAX + CHOSEN);
        assert!((0..BACK_MAX).all(|n| told.contains(&peer(n))));
    }

    #[test]
    fn early_words_go_to_others_each_time_and_make_no_links() {
        let others: Vec<_> = (0..60).map(peer).collect();
        let mut links = Links::default();
        let told: Vec<_> = (0..=EARLY_WORDS).map(|_| links.among(&others, |_| 0)).collect();
        let (last, early) = told.split_last().expect("several");
        assert_eq!(last.len(), CHOSEN);
        assert!(early.iter().all(|to| to.len() == CHOSEN + EARLY_OTHERS && to.starts_with(last)));
        let all: BTreeSet<_> = early.iter().flatten().collect();
        assert_eq!(all.len(), CHOSEN + EARLY_WORDS * EARLY_OTHERS);
        // Nor does it make one to hear one.
        links.used_by(peer(59));
        assert_eq!(links.among(&others, |_| 0), *last);
        links.used_by(peer(59));
        assert_eq!(links.among(&others, |_| 0), [&last[..], &[peer(59)]].concat());
    }

    #[test]
    fn no_more_are_remembered_who_told_one_thing_than_there_is_room_for() {
        let mut links = Links::default();
        (0..ONCE_MAX * 3).for_each(|n| links.used_by(peer(n)));
        assert_eq!(links.once.len(), ONCE_MAX);
    }

    #[test]
    fn few_others_are_all_told_and_nobody_is_no_trouble() {
        let mut links = Links::default();
        assert_eq!(links.among(&[], |_| 0), []);
        assert_eq!(links.among(&[peer(1)], |_| 0), [peer(1)]);
        (0..2).for_each(|_| links.used_by(peer(1)));
        assert_eq!(links.among(&[peer(1), peer(2)], |_| 7), [peer(1), peer(2)]);
    }
}
