//! Which candidate is reported when.
//!
//! This is a plain state machine: the time comes in as an argument. New candidates are reported at
//! [`NEW_PER_SECOND`], so that a flood of forged announcements makes no flood of dials; known ones are
//! repeated every [`REPEAT_INTERVAL`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Candidate;

/// How many candidates are known; further ones are ignored until some have gone.
pub const CANDIDATES_MAX: usize = 256;
/// How many new candidates are reported a second, and at once after a quiet second.
pub const NEW_PER_SECOND: u32 = 8;
/// How often a known candidate is reported again.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// Knows the candidates and when to report each.
#[derive(Debug)]
pub(super) struct Candidates {
    known: HashMap<String, Known>,
    /// Names of candidates never reported, in the order they came; some may be gone meanwhile.
    fresh: VecDeque<String>,
    repeats: BTreeSet<(Instant, String)>,
    /// When the second of `new_in_second` began.
    second: Instant,
    new_in_second: u32,
}

#[derive(Debug)]
struct Known {
    candidate: Candidate,
    /// When it is reported again; none while it waits among the fresh.
    repeat: Option<Instant>,
}

impl Candidates {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            known: HashMap::new(),
            fresh: VecDeque::new(),
            repeats: BTreeSet::new(),
            second: now,
            new_in_second: 0,
        }
    }

    /// Takes a candidate in; one that moved is reported at once.
    pub(super) fn found(&mut self, candidate: Candidate, now: Instant) {
        if let Some(known) = self.known.get_mut(&candidate.name) {
            let moved = known.candidate != candidate;
            known.candidate = candidate;
            if let Some(repeat) = known.repeat.as_mut().filter(|_| moved) {
                let name = &known.candidate.name;
                self.repeats.remove(&(*repeat, name.clone()));
                *repeat = now;
                self.repeats.insert((now, name.clone()));
            }
            return;
        }
        if self.known.len() >= CANDIDATES_MAX {
            tracing::debug!(name = candidate.name, "candidate ignored: there are too many");
            return;
        }
        self.fresh.push_back(candidate.name.clone());
        self.known.insert(candidate.name.clone(), Known { candidate, repeat: None });
    }

    /// Forgets a candidate that said farewell or whose announcement expired.
    pub(super) fn lost(&mut self, name: &str) {
        match self.known.remove(name).map(|known| known.repeat) {
            Some(Some(repeat)) => {
                self.repeats.remove(&(repeat, name.to_owned()));
            }
            Some(None) => self.fresh.retain(|other| other != name),
            None => {}
        }
    }

    /// Returns a candidate to report now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Candidate> {
        let name = match self.next_fresh(now) {
            Some(name) => name,
            None if self.repeats.first().is_some_and(|(at, _)| *at <= now) => {
                self.repeats.pop_first()?.1
            }
            None => return None,
        };
        let known = self.known.get_mut(&name)?;
        let repeat = now + REPEAT_INTERVAL;
        known.repeat = Some(repeat);
        self.repeats.insert((repeat, name));
        Some(known.candidate.clone())
    }

    /// Returns when [`next`](Self::next) will have something.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let repeat = self.repeats.first().map(|(at, _)| *at);
        let fresh = (!self.fresh.is_empty()).then(|| match self.new_in_second {
            NEW_PER_SECOND.. => self.second + Duration::from_secs(1),
            _ => self.second,
        });
        repeat.into_iter().chain(fresh).min()
    }

    fn next_fresh(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.new_in_second = 0;
        }
        if self.new_in_second >= NEW_PER_SECOND {
            return None;
        }
        let name = self.fresh.pop_front()?;
        self.new_in_second += 1;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::MeshKey;

    fn candidate(number: usize, port: u16) -> Candidate {
        Candidate {
            name: format!("{number:016x}"),
            addresses: vec![format!("/ip4/192.0.2.7/tcp/{port}")],
            dial_first: true,
            mesh: MeshKey::open(),
            salt: [0; 8],
            peer_tag: [0; 8],
        }
    }

    /// Reports what is due from `now` until `until`, each with its time.
    fn run(
        candidates: &mut Candidates,
        mut now: Instant,
        until: Instant,
    ) -> Vec<(Instant, String)> {
        let mut reported = Vec::new();
        loop {
            while let Some(candidate) = candidates.next(now) {
                reported.push((now, candidate.name));
            }
            match candidates.wakes_at() {
                Some(at) if at <= until => {
                    assert!(at > now, "it must not ask to be woken in vain");
                    now = at;
                }
                _ => return reported,
            }
        }
    }

    #[test]
    fn a_candidate_is_reported_at_once_and_repeated() {
        let start = Instant::now();
        let mut candidates = Candidates::new(start);
        assert_eq!(candidates.wakes_at(), None);
        candidates.found(candidate(1, 1), start);
        let reported = run(&mut candidates, start, start + 2 * REPEAT_INTERVAL);
        let name = candidate(1, 1).name;
        let times = [start, start + REPEAT_INTERVAL, start + 2 * REPEAT_INTERVAL];
        assert_eq!(reported, times.map(|at| (at, name.clone())));
    }

    #[test]
    fn a_flood_is_reported_slowly_and_cut_off() {
        let start = Instant::now();
        let mut candidates = Candidates::new(start);
        for number in 0..100_000 {
            candidates.found(candidate(number, 1), start);
        }
        assert_eq!(candidates.known.len(), CANDIDATES_MAX);
        assert_eq!(candidates.fresh.len(), CANDIDATES_MAX);
        let second = run(&mut candidates, start, start + Duration::from_millis(999));
        assert_eq!(second.len(), NEW_PER_SECOND as usize);
        let reported = run(&mut candidates, start, start + Duration::from_secs(100));
        let names: std::collections::HashSet<_> = reported.iter().map(|(_, name)| name).collect();
        assert_eq!(names.len() + second.len(), CANDIDATES_MAX + second.len());
    }

    #[test]
    fn repeats_do_not_wait_for_a_flood_of_new_ones() {
        let start = Instant::now();
        let mut candidates = Candidates::new(start);
        candidates.found(candidate(1, 1), start);
        run(&mut candidates, start, start);
        let later = start + REPEAT_INTERVAL;
        (2..200).for_each(|number| candidates.found(candidate(number, 1), later));
        let reported = run(&mut candidates, later, later);
        assert!(reported.contains(&(later, candidate(1, 1).name)));
    }

    #[test]
    fn a_candidate_that_moved_is_reported_at_once() {
        let start = Instant::now();
        let mut candidates = Candidates::new(start);
        candidates.found(candidate(1, 1), start);
        run(&mut candidates, start, start);
        candidates.found(candidate(1, 1), start);
        assert_eq!(candidates.next(start), None, "nothing changed");
        candidates.found(candidate(1, 2), start);
        assert_eq!(candidates.next(start), Some(candidate(1, 2)));
        assert_eq!(candidates.next(start), None);
    }

    #[test]
    fn a_lost_candidate_is_reported_no_more_and_leaves_its_place() {
        let start = Instant::now();
        let mut candidates = Candidates::new(start);
        (0..CANDIDATES_MAX).for_each(|number| candidates.found(candidate(number, 1), start));
        candidates.lost(&candidate(0, 1).name);
        candidates.lost(&candidate(7_777, 1).name);
        candidates.found(candidate(9_999, 1), start);
        let end = start + Duration::from_secs(60);
        let reported = run(&mut candidates, start, end);
        assert!(reported.iter().all(|(_, name)| *name != candidate(0, 1).name));
        assert!(reported.iter().any(|(_, name)| *name == candidate(9_999, 1).name));
        candidates.lost(&candidate(1, 1).name);
        let reported = run(&mut candidates, end, end + REPEAT_INTERVAL);
        assert!(reported.iter().all(|(_, name)| *name != candidate(1, 1).name));
        assert_eq!(candidates.repeats.len(), CANDIDATES_MAX - 1);
    }
}
