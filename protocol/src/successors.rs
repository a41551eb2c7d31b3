//! What a user gets after what: what is worth getting ahead.
//!
//! Each get opens a window, and what is got within it are its successors. The next time the same is got, they are
//! what to get ahead: the probability graph with a lookahead window of Griffioen and Appleton ("Reducing File System
//! Latency using a Predictive Approach", USENIX Summer 1994), of which the last time alone counts. Where too little
//! of what was predicted was got, only what followed both of the last two times is predicted; so whoever gets
//! things in no order has little fetched for nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::blob::Hash;
use crate::time::Time;

/// How long after a get others count as its successors.
pub const WINDOW: Duration = Duration::from_secs(600);
/// How many successors one get has at most: the first ones.
pub const SUCCESSORS_MAX: usize = 32;
/// How many windows are open at most; the oldest are closed first.
pub const OPEN_MAX: usize = 32;
/// How many gets are remembered; those that were got the longest ago are forgotten. All of them take 1.2 MiB at most.
pub const REMEMBERED_MAX: usize = 1_024;
/// From how many predictions on their quality counts.
const PREDICTED_MIN: u32 = 16;
/// Both counts are halved here, so that what was long ago counts little.
const PREDICTED_MAX: u32 = 128;

/// Is what a user got: a blob, or a tree with all that is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    /// The blob, or the tree's manifest.
    pub hash: Hash,
    /// Whether all that the tree names was got with it.
    pub with_tree: bool,
}

/// Knows what followed what. It does not read a clock: time comes with each get and must not go backwards.
#[derive(Clone, Debug, Default)]
pub struct Successors {
    remembered: HashMap<Root, Remembered>,
    /// The gets whose windows are open, the oldest first; each once.
    open: VecDeque<Open>,
    /// What was predicted and not got yet.
    awaited: HashSet<Root>,
    quality: Quality,
    /// Counts what was remembered, to know which is the longest ago.
    clock: u64,
}

#[derive(Clone, Debug, Default)]
struct Remembered {
    followed: Vec<Successor>,
    /// The clock when that was known.
    at: u64,
}

/// Is what to get ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// What it followed last time.
    pub after: Root,
    /// In the order in which they followed, at most [`SUCCESSORS_MAX`].
    pub roots: Vec<Root>,
}

/// Is one that followed last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// What followed.
    pub root: Root,
    /// Whether it followed the time before, too.
    pub twice: bool,
}

/// Is what followed one get last time, as it is kept from one run to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The get.
    pub root: Root,
    /// What followed, in order.
    pub followed: Vec<Successor>,
}

#[derive(Clone, Debug)]
struct Open {
    root: Root,
    since: Time,
    following: Vec<Root>,
}

/// Counts what was predicted and what of it was got, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quality {
    predicted: u32,
    right: u32,
}

impl Successors {
    /// Takes up what an earlier run knew, the longest ago first; of too many rows or successors the last rows and the first
    /// successors.
    pub fn restore(rows: Vec<Row>) -> Self {
        let mut known = Self::default();
        let surplus = rows.len().saturating_sub(REMEMBERED_MAX);
        for mut row in rows.into_iter().skip(surplus) {
            row.followed.truncate(SUCCESSORS_MAX);
            known.remember(row.root, row.followed);
        }
        known
    }

    /// Returns what the next run is to know, the longest ago first. Windows that are open count as if they ended now, unless
    /// nothing is in them yet.
    pub fn rows(&self) -> Vec<Row> {
        let mut ended = self.clone();
        ended.open.retain(|open| !open.following.is_empty());
        while ended.close_oldest() {}
        let mut rows: Vec<_> = ended.remembered.into_iter().collect();
        rows.sort_unstable_by_key(|(_, remembered)| remembered.at);
        let row =
            |(root, remembered): (Root, Remembered)| Row { root, followed: remembered.followed };
        rows.into_iter().map(row).collect()
    }

    /// Notes that a user got these with one request, and returns what to get ahead: what followed the last of them that
    /// anything followed, without what was got meanwhile. What comes by one request does not follow itself.
    pub fn got(&mut self, now: Time, roots: &[Root]) -> Option<Prediction> {
        self.close_those_over(now, roots);
        for root in roots {
            if self.awaited.remove(root) {
                self.quality.was_right();
            }
            for open in &mut self.open {
                if open.following.len() < SUCCESSORS_MAX && !open.following.contains(root) {
                    open.following.push(*root);
                }
            }
        }
        let predictions = roots.iter().rev().map(|root| self.predict(*root, roots));
        let predicted = predictions.into_iter().find(|predicted| !predicted.roots.is_empty());
        roots.iter().for_each(|root| self.open_window(now, *root));
        if let Some(predicted) = &predicted {
            self.await_all(&predicted.roots);
        }
        predicted
    }

    /// Forgets what a user does not want any more.
    pub fn forget(&mut self, hashes: &HashSet<Hash>) {
        let stays = |root: &Root| !hashes.contains(&root.hash);
        self.remembered.retain(|root, remembered| {
            remembered.followed.retain(|successor| stays(&successor.root));
            stays(root) && !remembered.followed.is_empty()
        });
        self.open.retain_mut(|open| {
            open.following.retain(stays);
            stays(&open.root)
        });
        self.awaited.retain(stays);
    }

    /// Closes the windows that are over, and those of earlier gets of the same, which begin anew.
    fn close_those_over(&mut self, now: Time, roots: &[Root]) {
        while self.open.front().is_some_and(|oldest| now.since(oldest.since) > WINDOW) {
            self.close_oldest();
        }
        while let Some(index) = self.open.iter().position(|open| roots.contains(&open.root))
            && let Some(open) = self.open.remove(index)
        {
            // Got twice in a row: that says nothing of what follows.
            if !open.following.is_empty() {
                self.close(open);
            }
        }
    }

    fn open_window(&mut self, now: Time, root: Root) {
        while self.open.len() >= OPEN_MAX {
            self.close_oldest();
        }
        if self.open.iter().all(|open| open.root != root) {
            self.open.push_back(Open { root, since: now, following: Vec::new() });
        }
    }

    fn close_oldest(&mut self) -> bool {
        let oldest = self.open.pop_front();
        let was_there = oldest.is_some();
        if let Some(open) = oldest {
            self.close(open);
        }
        was_there
    }

    /// Makes what followed in a window what is remembered.
    fn close(&mut self, open: Open) {
        let last = self.remembered.get(&open.root).map_or(&[][..], |last| &last.followed);
        let followed_last = |root: &Root| last.iter().any(|successor| successor.root == *root);
        let successor = |root| Successor { root, twice: followed_last(&root) };
        let followed = open.following.into_iter().map(successor).collect();
        self.remember(open.root, followed);
    }

    fn remember(&mut self, root: Root, followed: Vec<Successor>) {
        if followed.is_empty() {
            self.remembered.remove(&root);
            return;
        }
        self.clock += 1;
        self.remembered.insert(root, Remembered { followed, at: self.clock });
        if self.remembered.len() > REMEMBERED_MAX {
            let oldest = self.remembered.iter().min_by_key(|(_, remembered)| remembered.at);
            if let Some(root) = oldest.map(|(root, _)| *root) {
                self.remembered.remove(&root);
            }
        }
    }

    fn predict(&self, after: Root, with: &[Root]) -> Prediction {
        let is_bold = self.quality.is_good();
        let is_likely = |successor: &&Successor| is_bold || successor.twice;
        let was_got =
            |root: &Root| with.contains(root) || self.open.iter().any(|open| open.root == *root);
        let followed = self.remembered.get(&after).map_or(&[][..], |known| &known.followed);
        let likely = followed.iter().filter(is_likely).map(|successor| successor.root);
        Prediction { after, roots: likely.filter(|root| !was_got(root)).collect() }
    }

    fn await_all(&mut self, predicted: &[Root]) {
        for root in predicted {
            // What is awaited already counts once.
            self.quality.predicted += u32::from(self.awaited.insert(*root));
        }
        self.quality.age();
        // What nobody got for so long is not worth its memory; it was counted.
        if self.awaited.len() > REMEMBERED_MAX {
            self.awaited.clear();
        }
    }
}

impl Quality {
    /// Says whether at least half of what was predicted was got, or too little was predicted to tell.
    fn is_good(self) -> bool {
        self.predicted < PREDICTED_MIN || self.right * 2 >= self.predicted
    }

    /// Counts one that was right; of those predicted before both were halved no more than there are.
    fn was_right(&mut self) {
        self.right = (self.right + 1).min(self.predicted);
    }

    fn age(&mut self) {
        if self.predicted >= PREDICTED_MAX {
            self.predicted /= 2;
            self.right /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn root(n: u64) -> Root {
        Root { hash: Hash::of(&n.to_le_bytes()), with_tree: n.is_multiple_of(2) }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// Gets all of them a second apart, and returns what each predicted.
    fn get(known: &mut Successors, from: u64, gets: &[u64]) -> Vec<Vec<Root>> {
        let each = (from..).zip(gets);
        each.map(|(second, n)| one(known, second, root(*n))).collect()
    }

    /// Gets one, and returns what that predicted.
    fn one(known: &mut Successors, second: u64, root: Root) -> Vec<Root> {
        known.got(at(second), &[root]).map_or_else(Vec::new, |predicted| predicted.roots)
    }

    fn roots(numbers: &[u64]) -> Vec<Root> {
        numbers.iter().map(|n| root(*n)).collect()
    }

    const LATER: u64 = 10_000;

    #[test]
    fn what_followed_last_time_is_predicted_in_order() {
        let mut known = Successors::default();
        assert!(get(&mut known, 0, &[1, 2, 3]).iter().all(Vec::is_empty));
        assert_eq!(get(&mut known, LATER, &[1, 2]), [roots(&[2, 3]), roots(&[3])]);
        // This time 3 did not follow.
        assert_eq!(get(&mut known, 2 * LATER, &[1]), [roots(&[2])]);
    }

    #[test]
    fn tree_and_its_manifest_are_two_things() {
        let mut known = Successors::default();
        let whole = Root { with_tree: true, ..root(1) };
        one(&mut known, 0, whole);
        one(&mut known, 1, root(2));
        assert_eq!(one(&mut known, LATER, Root { with_tree: false, ..whole }), []);
        assert_eq!(one(&mut known, LATER + 1, whole), roots(&[2]));
    }

    #[test]
    fn window_ends_after_ten_minutes() {
        for (after, followed) in [(600, 1), (601, 0)] {
            let mut known = Successors::default();
            one(&mut known, 0, root(1));
            one(&mut known, after, root(2));
            assert_eq!(one(&mut known, LATER, root(1)).len(), followed, "{after} s");
        }
    }

    #[test]
    fn same_blob_again_begins_its_window_anew() {
        let mut known = Successors::default();
        let predicted = get(&mut known, 0, &[1, 2, 1, 3, 1]);
        // At the second 1 what followed the first was got just now.
        assert_eq!(predicted[2..], [vec![], vec![], vec![]]);
        assert_eq!(get(&mut known, LATER, &[1])[0], []);
        assert_eq!(get(&mut known, LATER, &[2])[0], roots(&[3]), "1 was got just now");
    }

    #[test]
    fn who_gets_things_in_no_order_has_only_what_followed_twice() {
        let mut known = Successors::default();
        // 1 is followed by 2 each time, and by eight that never come again.
        let mut fresh = 100..;
        let mut last = Vec::new();
        for round in 0..6 {
            let mut gets = vec![1, 2];
            gets.extend(fresh.by_ref().take(8));
            last = get(&mut known, round * LATER, &gets).swap_remove(0);
        }
        assert_eq!(last, roots(&[2]));
        // And where it gets better, what followed once is predicted again.
        for round in 10..40 {
            last = get(&mut known, round * LATER, &[1, 2, 3, 4]).swap_remove(0);
        }
        assert_eq!(last, roots(&[2, 3, 4]));
        get(&mut known, 50 * LATER, &[1, 2, 5]);
        assert_eq!(get(&mut known, 60 * LATER, &[1])[0], roots(&[2, 5]));
    }

    #[test]
    fn what_is_forgotten_neither_predicts_nor_is_predicted() {
        let mut known = Successors::default();
        get(&mut known, 0, &[1, 2, 3]);
        known.forget(&HashSet::from([root(2).hash]));
        assert_eq!(get(&mut known, LATER, &[1, 2]), [roots(&[3]), vec![]]);
    }

    #[test]
    fn what_comes_by_one_request_does_not_follow_itself() {
        let mut known = Successors::default();
        known.got(at(0), &roots(&[1, 2]));
        known.got(at(1), &roots(&[3, 4]));
        let predicted = known.got(at(LATER), &roots(&[1, 2, 1]));
        assert_eq!(predicted, Some(Prediction { after: root(1), roots: roots(&[3, 4]) }));
        assert_eq!(known.got(at(LATER + 1), &roots(&[3, 4])), None);
        get(&mut known, 2 * LATER, &[5, 6]);
        assert_eq!(known.got(at(3 * LATER), &roots(&[5, 6])), None, "6 is on its way");
    }

    #[test]
    fn same_blob_twice_in_a_row_and_a_run_that_ends_soon_unlearn_nothing() {
        let mut known = Successors::default();
        get(&mut known, 0, &[1, 2]);
        get(&mut known, LATER, &[1, 1]);
        let mut next = Successors::restore(known.rows());
        assert_eq!(get(&mut next, 0, &[1]), [roots(&[2])]);
    }

    #[test]
    fn next_run_knows_what_this_one_does_with_open_windows() {
        let mut known = Successors::default();
        get(&mut known, 0, &[1, 2]);
        get(&mut known, LATER, &[3, 1, 4]);
        let mut next = Successors::restore(known.rows());
        assert_eq!(next.rows(), known.rows());
        assert_eq!(get(&mut next, 0, &[3, 1]), [roots(&[1, 4]), roots(&[4])]);
    }

    #[test]
    fn too_many_rows_leave_the_last_ones() {
        let row = |n| Row {
            root: root(n),
            followed: vec![Successor { root: root(n + 1), twice: false }; 40],
        };
        let rows: Vec<_> = (0..1_030).map(row).collect();
        let known = Successors::restore(rows.clone());
        let kept = known.rows();
        assert_eq!((kept.len(), kept[0].root), (REMEMBERED_MAX, rows[6].root));
        assert_eq!(kept[0].followed.len(), SUCCESSORS_MAX);
    }

    proptest! {
        /// Whatever is got when: all bounds hold, and nothing is predicted that was not got before.
        #[test]
        fn bounds_hold(gets in prop::collection::vec((0..60_u64, 0..200_u64), 0..600)) {
            let mut known = Successors::default();
            let (mut now, mut got) = (0, HashSet::new());
            for (n, later) in gets {
                now += later;
                let predicted = one(&mut known, now, root(n));
                prop_assert!(predicted.len() <= SUCCESSORS_MAX);
                prop_assert!(predicted.iter().all(|root| got.contains(root)));
                prop_assert!(!predicted.contains(&root(n)));
                got.insert(root(n));
                prop_assert!(known.open.len() <= OPEN_MAX);
                prop_assert!(known.quality.right <= known.quality.predicted);
            }
        }
    }
}
