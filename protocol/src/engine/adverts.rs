//! Which blobs the DHT is told of, and when.
//!
//! An advert is dear: about 43 requests and 69 KB over the whole mesh. So only what was added or
//! pinned here is advertised, a bounded number of blobs, through a token bucket, again and again.
//!
//! Source: Maymounkov, Mazières, *Kademlia* (IPTPS 2002), whose provider records libp2p added.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Output, Shell, Timer};
use crate::blob::Hash;
use crate::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Adverts {
    /// When each blob is advertised next, soonest first.
    due: BTreeSet<(Time, Hash)>,
    by_hash: BTreeMap<Hash, Time>,
    /// Spent tokens; one comes back every `1 / adverts_per_s`.
    spent: u32,
    refilled: Time,
    timer: Option<Time>,
}

impl Adverts {
    pub(crate) fn add(&mut self, hash: Hash, shell: &mut Shell) {
        if !shell.config.adverts || self.by_hash.contains_key(&hash) {
            return;
        }
        if self.by_hash.len() >= shell.config.adverts_max {
            shell.stats.adverts_refused += 1;
            return;
        }
        self.schedule(hash, shell.now);
        self.run(shell);
    }

    pub(crate) fn remove(&mut self, hash: &Hash, shell: &mut Shell) {
        if let Some(at) = self.by_hash.remove(hash) {
            self.due.remove(&(at, *hash));
            shell.emit(Output::Unprovide { hash: *hash });
        }
    }

    /// Puts out what is due, as far as the tokens reach.
    pub(crate) fn run(&mut self, shell: &mut Shell) {
        self.refill(shell);
        while let Some((at, hash)) = self.due.first().copied() {
            if at > shell.now || self.spent >= shell.config.adverts_burst {
                break;
            }
            self.spent += 1;
            shell.stats.adverts += 1;
            shell.emit(Output::Provide { hash });
            self.due.remove(&(at, hash));
            self.schedule(hash, shell.now + shell.config.advert_interval);
        }
        self.start_timer(shell);
    }

    /// Says that the timer fired, and does what is due.
    pub(crate) fn fire(&mut self, shell: &mut Shell) {
        if self.timer.is_some_and(|at| at <= shell.now) {
            self.timer = None;
        }
        self.run(shell);
    }

    fn schedule(&mut self, hash: Hash, at: Time) {
        self.due.insert((at, hash));
        self.by_hash.insert(hash, at);
    }

    fn refill(&mut self, shell: &Shell) {
        let token = token_interval(shell);
        let tokens = (shell.now - self.refilled).as_nanos() / token.as_nanos().max(1);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(tokens);
        self.refilled =
            if self.spent == 0 { shell.now } else { self.refilled + token.saturating_mul(tokens) };
    }

    fn start_timer(&mut self, shell: &mut Shell) {
        let Some((at, _)) = self.due.first().copied() else { return };
        let ready = if self.spent >= shell.config.adverts_burst {
            (self.refilled + token_interval(shell)).max(at)
        } else {
            at
        };
        if self.timer.is_none_or(|timer| timer > ready) {
            self.timer = Some(ready);
            shell.start_timer(ready - shell.now, Timer::Advert);
        }
    }
}

fn token_interval(shell: &Shell) -> Duration {
    Duration::from_secs(1) / shell.config.adverts_per_s.max(1)
}
