//! Whom a node passes rumours on to.
//!
//! Each node chooses [`CHOSEN`] of those who want the blob too, and keeps them while they are neighbours that do, as far as is
//! known; whoever is told by another tells it from then on. Where each of many nodes has links to two others, chosen at random and used both ways, all of
//! them hang together, also without any one of them (Fenner and Frieze, *On the Connectivity of Random m-Orientable Graphs
//! and Digraphs*, Combinatorica 1982). So what one hears all hear, by three words a node: one for each link but the
//! one it came by.

use crate::id::PeerId;

/// How many a node chooses.
pub(super) const CHOSEN: usize = 2;
/// How many of those who chose this node it tells; each node is chosen by two on average, and hardly any by more than this.
const BACK_MAX: usize = 8;

/// Is whom a node passes rumours on to.
#[derive(Debug, Default)]
pub(super) struct Links {
    chosen: Vec<PeerId>,
    /// Those who chose this node, as far as it was told something by them.
    back: Vec<PeerId>,
}

impl Links {
    /// Takes in that somebody has passed a rumour on to this node.
    pub(super) fn used_by(&mut self, peer: PeerId) {
        let known = self.chosen.contains(&peer) || self.back.contains(&peer);
        if !known && self.back.len() < BACK_MAX {
            self.back.push(peer);
        }
    }

    /// Returns the links to some of `others`, who are sorted. Links to anybody else end, and `pick` chooses a place among so
    /// many where there are too few.
    pub(super) fn among(
        &mut self,
        others: &[PeerId],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Vec<PeerId> {
        let is_there = |peer: &PeerId| others.binary_search(peer).is_ok();
        self.chosen.retain(is_there);
        self.back.retain(is_there);
        while self.chosen.len() < CHOSEN && self.chosen.len() + self.back.len() < others.len() {
            let (before, from) = others.split_at(pick(others.len()).min(others.len()));
            let is_free = |peer: &&PeerId| !self.chosen.contains(peer) && !self.back.contains(peer);
            let Some(next) = from.iter().chain(before).find(is_free) else { break };
            self.chosen.push(*next);
        }
        [&self.chosen[..], &self.back[..]].concat()
    }
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

        /// Has one node tell, and returns how many heard of it and how many words that took. `deaf` pass nothing on.
        fn tell(&mut self, first: usize, deaf: impl Fn(usize) -> bool) -> (usize, usize) {
            let (mut heard, mut words) = (BTreeSet::from([first]), 0);
            let mut telling = VecDeque::from([(first, None)]);
            while let Some((node, by)) = telling.pop_front() {
                if deaf(node) {
                    continue;
                }
                let (chance, neighbours) = (&mut self.chance, &self.neighbours[node]);
                let links = self.links[node].among(neighbours, |places| chance.pick(places));
                for to in links.into_iter().filter(|to| Some(*to) != by.map(peer)) {
                    let to = (0..self.links.len()).find(|n| peer(*n) == to).expect("a node");
                    words += 1;
                    // Also where it is no news.
                    self.links[to].used_by(peer(node));
                    if heard.insert(to) {
                        telling.push_back((to, Some(node)));
                    }
                }
            }
            (heard.len(), words)
        }
    }

    #[test]
    fn all_of_many_nodes_hear_by_three_words_each() {
        let mut site = Site::new(1_000, 64);
        let reached: Vec<_> = (0..20).map(|n| site.tell(n * 37, |_| false)).collect();
        // Before all links have been used the word goes one way only.
        assert!(reached[0].0 > 700, "{reached:?}");
        let all = |(heard, words): &(usize, usize)| *heard == 1_000 && *words < 3_300;
        assert!(reached[10..].iter().all(all), "{reached:?}");
    }

    #[test]
    fn hardly_anybody_misses_what_a_tenth_of_all_pass_on_to_nobody() {
        let mut site = Site::new(1_000, 64);
        let reached: Vec<_> =
            (0..20).map(|n| site.tell(n * 37 + 1, |node| node % 10 == 0)).collect();
        assert!(reached[10..].iter().all(|(heard, _)| *heard > 980), "{reached:?}");
    }

    #[test]
    fn links_stay_until_the_other_side_goes() {
        let mut links = Links::default();
        let others: Vec<_> = (0..10).map(peer).collect();
        let mut chance = Chance(1);
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
        let mut links = Links::default();
        let others: Vec<_> = (0..30).map(peer).collect();
        (0..20).for_each(|n| links.used_by(peer(n)));
        links.used_by(peer(0));
        let told: BTreeSet<_> = links.among(&others, |_| 0).into_iter().collect();
        assert_eq!(told.len(), BACK_MAX + CHOSEN);
        assert!((0..BACK_MAX).all(|n| told.contains(&peer(n))));
    }

    #[test]
    fn few_others_are_all_told_and_nobody_is_no_trouble() {
        let mut links = Links::default();
        assert_eq!(links.among(&[], |_| 0), []);
        assert_eq!(links.among(&[peer(1)], |_| 0), [peer(1)]);
        links.used_by(peer(1));
        assert_eq!(links.among(&[peer(1), peer(2)], |_| 7), [peer(1), peer(2)]);
    }
}
