//! The requests that are out, by their numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::SessionError;
use crate::small::Request;

/// Holds the requests that are out, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    requests: Mutex<Numbered>,
    /// Told when there are fewer.
    pub(super) fewer: Notify,
}

#[derive(Debug, Default)]
struct Numbered {
    by_id: HashMap<u32, Request>,
    next: u32,
    /// When there were none last, or one was answered.
    heard: Option<Instant>,
    /// Set when no more may be added.
    closed: bool,
}

impl Unanswered {
    /// Numbers a request.
    pub(super) fn add(&self, request: Request) -> u32 {
        let mut numbered = self.lock();
        if numbered.by_id.is_empty() {
            numbered.heard = Some(Instant::now());
        }
        loop {
            let id = numbered.next;
            numbered.next = id.wrapping_add(1);
            // One that nobody answers keeps its number, though the others have gone round.
            if let Entry::Vacant(free) = numbered.by_id.entry(id) {
                free.insert(request);
                return id;
            }
        }
    }

    /// Numbers requests that follow each other, and returns the first number; none where one of them is in use, and
    /// once it is closed.
    pub(super) fn add_all(&self, requests: &[Request]) -> Option<u32> {
        let mut numbered = self.lock();
        if numbered.closed {
            return None;
        }
        if numbered.by_id.is_empty() {
            numbered.heard = Some(Instant::now());
        }
        let first = numbered.next;
        let ids = || {
            (0..requests.len()).scan(first, |id, _| {
                let this = *id;
                *id = id.wrapping_add(1);
                Some(this)
            })
        };
        if ids().any(|id| numbered.by_id.contains_key(&id)) {
            return None;
        }
        numbered.by_id.extend(ids().zip(requests.iter().copied()));
        numbered.next = ids().last().map_or(first, |last| last.wrapping_add(1));
        Some(first)
    }

    pub(super) fn take(&self, id: u32) -> Result<Request, SessionError> {
        let taken = self.lock().by_id.remove(&id);
        self.fewer.notify_one();
        taken.ok_or(SessionError::NotAsked)
    }

    pub(super) fn take_all(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().by_id).into_values().collect()
    }

    /// Takes all out, and no more in.
    pub(super) fn close(&self) -> Vec<Request> {
        self.lock().closed = true;
        self.take_all()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    pub(super) fn heard(&self) {
        self.lock().heard = Some(Instant::now());
    }

    /// Returns for how long nothing was heard, and whether something is owed.
    pub(super) fn silence(&self) -> (Duration, bool) {
        let numbered = self.lock();
        let silence = numbered.heard.map_or(Duration::ZERO, |heard| heard.elapsed());
        (silence, !numbered.by_id.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
