//! What neighbours are told of our store: the whole filter when they come, then changes.
//!
//! Changes go out at once, those of one moment together, as a user adds a blob or a directory and expects to get it next
//! door; a stream of changes travels together, one message an interval. Removals are not told one by one, a bloom filter
//! cannot unlearn: the filter is built again under a new generation when enough blobs are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Output, Shell, Timer};
use crate::blob::Hash;
use crate::filter::OwnFilter;
use crate::id::PeerId;
use crate::time::Time;
use crate::wire::message::{Hello, Message};

/// Changes are told so long after the first of them. A directory is one message then and not hundreds, of which the burst
/// would let the first few through and hold back the rest, so that whoever pulls it at once finds a part of it.
const MOMENT: Duration = Duration::from_millis(1);
/// Removals that are always put up with before the filter is built again.
const REMOVALS_TOLERATED: usize = 16;

#[derive(Debug)]
pub(crate) struct Gossip {
    /// The prefixes of the blobs held: what filters are built from, 8 bytes a blob.
    held: BTreeSet<[u8; 8]>,
    filter: OwnFilter,
    /// Generation and sequence of the filter that all neighbours were told of last.
    told: (u64, u64),
    /// Messages of the burst that were spent; one comes back each gossip interval.
    spent: u32,
    refilled: Time,
    /// Blobs that went since the filter was built.
    removed: usize,
    flush_scheduled: bool,
}

impl Gossip {
    pub(crate) fn new() -> Self {
        Self {
            held: BTreeSet::new(),
            filter: OwnFilter::build(1, std::iter::empty()),
            told: (1, 0),
            spent: 0,
            refilled: Time::ZERO,
            removed: 0,
            flush_scheduled: false,
        }
    }

    pub(crate) fn start(&self, shell: &mut Shell) {
        shell.start_timer(shell.config.filter_refresh, Timer::Refresh);
    }

    /// Returns whether a blob may be held; a shared prefix of two hashes makes it a maybe.
    pub(crate) fn may_hold(&self, hash: &Hash) -> bool {
        self.held.contains(&hash.prefix())
    }

    pub(crate) fn greet(&self, peer: PeerId, shell: &mut Shell) {
        shell.emit(Output::Send { peer, message: Message::Hello(Hello::ours()) });
        self.send_whole(peer, shell);
    }

    /// Tells one neighbour the whole filter; a store too large for any filter tells nothing, and is
    /// asked for everything.
    pub(crate) fn send_whole(&self, peer: PeerId, shell: &mut Shell) {
        let Some(frame) = self.filter.frame() else { return };
        shell.stats.filters_sent += 1;
        shell.emit(Output::Send { peer, message: Message::Filter(frame) });
    }

    pub(crate) fn hold(&mut self, hash: &Hash, shell: &mut Shell) {
        let prefix = hash.prefix();
        if !self.held.insert(prefix) {
            return;
        }
        if self.filter.insert(prefix) {
            self.rebuild();
        }
        self.schedule(shell);
    }

    pub(crate) fn release(&mut self, hash: &Hash, shell: &mut Shell) {
        if !self.held.remove(&hash.prefix()) {
            return;
        }
        self.removed += 1;
        if self.removed > REMOVALS_TOLERATED.max(self.held.len() / 10) {
            self.rebuild();
            self.schedule(shell);
        }
    }

    /// Tells the neighbours what changed since they were told last, if anything did.
    pub(crate) fn flush(&mut self, neighbours: &[PeerId], shell: &mut Shell) {
        self.flush_scheduled = false;
        if self.told != self.state() {
            self.tell(neighbours, shell);
        }
    }

    /// Tells the neighbours that the filter still stands, and what changed.
    pub(crate) fn refresh(&mut self, neighbours: &[PeerId], shell: &mut Shell) {
        shell.start_timer(shell.config.filter_refresh, Timer::Refresh);
        if self.removed > 0 {
            self.rebuild();
        }
        self.tell(neighbours, shell);
    }

    fn schedule(&mut self, shell: &mut Shell) {
        self.refill(shell);
        if self.flush_scheduled {
            return;
        }
        let has_burst = self.spent < shell.config.gossip_burst;
        let wait = if has_burst { MOMENT } else { shell.config.gossip_interval };
        self.flush_scheduled = true;
        shell.start_timer(wait, Timer::Gossip);
    }

    fn refill(&mut self, shell: &Shell) {
        let interval = shell.config.gossip_interval.as_nanos().max(1);
        let back = (shell.now - self.refilled).as_nanos() / interval;
        if back > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
            self.refilled = shell.now;
        }
    }

    fn tell(&mut self, neighbours: &[PeerId], shell: &mut Shell) {
        let delta = self.filter.delta_since(self.told.0, self.told.1);
        self.told = self.state();
        if !self.filter.is_acceptable() {
            return;
        }
        self.spent += 1;
        for peer in neighbours {
            match &delta {
                Some(delta) => {
                    shell.stats.deltas_sent += 1;
                    let message = Message::FilterDelta(delta.clone());
                    shell.emit(Output::Send { peer: *peer, message });
                }
                None => self.send_whole(*peer, shell),
            }
        }
    }

    fn rebuild(&mut self) {
        let generation = self.filter.generation() + 1;
        self.filter = OwnFilter::build(generation, self.held.iter().copied());
        self.removed = 0;
    }

    fn state(&self) -> (u64, u64) {
        (self.filter.generation(), self.filter.sequence())
    }
}
