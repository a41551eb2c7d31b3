//! Holders that neighbours name, of which nothing is known here but that.

use std::time::Duration;

use super::Herd;
use crate::blob::Hash;
use crate::config::Config;
use crate::engine::peers::Peers;
use crate::engine::receipt::{Found, Note};
use crate::engine::resolver::Resolver;
use crate::engine::resolver::resolution::{Holder, Resolution, Running};
use crate::engine::{FetchOutcome, Shell, Source};
use crate::id::PeerId;

/// Holders that neighbours may name of one blob: of more, nobody tries all. Two are of use where the first has no room.
const NAMED_MAX: usize = 4;

/// How long a neighbour is not believed that named one who gave nothing, or nothing in time. It may have done so in good
/// faith: the holder cannot be reached from here, or has much to do.
const NAMES_REST: Duration = Duration::from_secs(60);
const NAMES_REST_LATE: Duration = Duration::from_secs(5);

impl Herd {
    /// Takes in a holder that a neighbour named, and returns whether it is welcome: it was asked for, and not too many
    /// came before.
    fn name(&mut self, holder: PeerId, by: PeerId) -> bool {
        let welcome = self.listens_until.is_some() && self.named.len() < NAMED_MAX;
        welcome && self.named.insert(holder, by).is_none()
    }

    /// Returns how long a source may take to its first group before the edge is asked beside it. One of whom nothing is
    /// known but its name has half of the time: a name is made up in no time.
    pub(in crate::engine::resolver) fn first_group_time(
        &self,
        source: Source,
        config: &Config,
    ) -> Duration {
        let named = source.peer().is_some_and(|peer| self.named.contains_key(&peer));
        if named { config.first_group_hedge / 2 } else { config.first_group_hedge }
    }
}

impl Resolver {
    /// Takes in a peer that holds a blob and is no neighbour, named by one before the edge was asked.
    pub(crate) fn named(
        &mut self,
        by: PeerId,
        hash: Hash,
        holder: PeerId,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let known = holder == peers.me() || peers.is_banned(holder, shell.now);
        if known || !peers.believes_names_of(by, shell.now) || !running.herd.name(holder, by) {
            return;
        }
        running.note(Note::Named { holder, by });
        running.add_holder(Holder { peer: holder, found: Found::Lan });
        self.advance(hash, peers, shell);
    }
}

impl Resolution {
    /// Believes a neighbour's names no more for a while where the holder that it named gave nothing: until its fetch
    /// ended so, or, without an outcome, in time.
    pub(in crate::engine::resolver) fn judge_name(
        &self,
        fetch: &Running,
        outcome: Option<&FetchOutcome>,
        peers: &mut Peers,
        shell: &Shell,
    ) {
        let excused = matches!(
            outcome,
            Some(
                FetchOutcome::Complete { .. }
                    | FetchOutcome::Busy { .. }
                    | FetchOutcome::StoreFailed { .. }
            )
        );
        let by = fetch.source.peer().and_then(|peer| self.herd.named.get(&peer));
        if let Some(by) = by.filter(|_| fetch.bytes == 0 && !excused) {
            let rest = if outcome.is_some() { NAMES_REST } else { NAMES_REST_LATE };
            peers.rest_names(*by, shell.now + rest);
        }
    }
}
