//! The stream: what a lone node asks of an edge where each request is a connection.
//!
//! Connections that carry ranges at once take the link from each other, each of them begins slowly, and one that goes
//! from range to range is idle for a round trip each time. So whoever is alone asks for all that is missing at once,
//! behind the first request, which proves the list. Where one connection brings little, several may bring more: then, and
//! as soon as there is anybody else to bring some of it, the stream is cut at the end of a range, and ranges follow.

use std::time::Duration;

use super::super::Resolver;
use super::super::resolution::{Resolution, Running};
use super::{FIRST_RANGES, Herd, range_groups};
use crate::blob::{GROUP_LEN, Hash};
use crate::engine::{Shell, Source};
use crate::id::FetchId;
use crate::time::{Time, rate_of, time_for};

/// A connection that takes longer than this for a range is slow for what most links carry.
const SLOW_RANGE: Duration = Duration::from_secs(1);

/// Is what the only request under way had brought when a range of it was over last, and when that was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    fetch: FetchId,
    bytes: u64,
    since: Time,
}

impl Herd {
    /// Takes in how far the only request is, and returns whether its connection is slow.
    fn is_slow(&mut self, fetch: FetchId, running: &Running, range_bytes: u64, now: Time) -> bool {
        let begun = Pace { fetch, bytes: 0, since: running.started };
        let pace = *self.pace.get_or_insert(begun);
        let pace = if pace.fetch == fetch { pace } else { begun };
        let (bytes, took) = (running.bytes - pace.bytes, now - pace.since);
        if bytes >= range_bytes {
            self.took(time_for(range_bytes, rate_of(bytes, took)));
            self.pace = Some(Pace { fetch, bytes: running.bytes, since: now });
        } else {
            self.pace = Some(pace);
        }
        took >= SLOW_RANGE && bytes < range_bytes
    }
}

impl Resolver {
    /// Returns whether one request is to bring all that the edge is to give; one that is under way and is no longer to
    /// is cut.
    pub(super) fn streams_from_edge(&mut self, hash: Hash, shell: &Shell) -> bool {
        let Some(running) = self.resolutions.get_mut(&hash) else { return false };
        let may_stream = self.edge_apart && running.is_alone();
        if !may_stream {
            running.herd.pace = None;
        }
        let streams = may_stream && !running.is_stream_slow(shell);
        if !streams {
            running.cut_stream(range_groups(shell));
        }
        streams
    }
}

impl Resolution {
    /// Returns whether nobody but the edge is known to give any of the blob, nor to want it.
    fn is_alone(&self) -> bool {
        self.swarm.as_ref().is_some_and(|swarm| swarm.holders() == 0) && !self.is_of_herd()
    }

    fn is_stream_slow(&mut self, shell: &Shell) -> bool {
        let mut of_edge = self.fetches.iter().filter(|(_, fetch)| fetch.source == Source::Edge);
        let slow_now = match (of_edge.next(), of_edge.next()) {
            (Some((id, fetch)), None) => {
                self.herd.is_slow(*id, fetch, shell.config.edge_range_bytes, shell.now)
            }
            _ => {
                self.herd.pace = None;
                false
            }
        };
        slow_now || self.herd.range_time.is_some_and(|time| time >= SLOW_RANGE)
    }

    /// Has a request for more than the usual be over at the end of the range that it is about to bring.
    fn cut_stream(&mut self, range: u64) {
        let Some(swarm) = &mut self.swarm else { return };
        for fetch in self.fetches.values_mut().filter(|fetch| fetch.source == Source::Edge) {
            let Some(own) = fetch.groups.clone().filter(|_| !fetch.is_cut) else { continue };
            // What is in the buffers on the way has come for nothing, if it lies behind.
            let at = own.start + fetch.bytes / GROUP_LEN + range / 2;
            let cut = own.start..at.next_multiple_of(range);
            if own.end - own.start <= FIRST_RANGES * range || cut.end >= own.end {
                continue;
            }
            swarm.pieces.bring(&own, false);
            swarm.pieces.bring(&cut, true);
            // Others may bring the rest.
            swarm.moisten();
            (fetch.groups, fetch.is_cut, self.herd.dry) = (Some(cut), true, false);
        }
    }
}
