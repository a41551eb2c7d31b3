//! Contention: what ends it when neighbours let the same ranges go for each other again and again.
//!
//! Of two who claim the same range one goes before the other, but ranges may overlap without being the same, and of three
//! each may go before the next. Who has let go a few times in a row, and got nothing meanwhile, asks again after a pause at
//! random that doubles each time (truncated binary exponential backoff, as in IEEE 802.3, 4.2.3.2.5).

use crate::engine::Shell;
use crate::time::Time;

/// So often in a row one lets go and asks again at once: most are settled by then.
const FREE: u32 = 4;
/// A pause is at most this part of the time that a claim counts: longer ones have those who contend come by turns, each when
/// the claim of the one before has lapsed, at an edge that takes seconds to answer.
const PAUSES_PER_CLAIM: u32 = 8;

/// Is how often what the edge was asked for was let go since it last gave something.
#[derive(Debug, Default)]
pub(super) struct Contention {
    yields: u32,
    /// How many bytes the edge had given by the last of them.
    given: u64,
    until: Option<Time>,
}

impl Contention {
    /// Takes in that what the edge was asked for was let go, after it gave `given` bytes in all.
    pub(super) fn yielded(&mut self, given: u64, shell: &mut Shell) {
        if given > self.given {
            (self.yields, self.given) = (0, given);
        }
        self.yields = self.yields.saturating_add(1);
        let Some(doublings) = self.yields.checked_sub(FREE + 1) else { return };
        let (first, most) = (shell.config.edge_pause, shell.config.claim_ttl / PAUSES_PER_CLAIM);
        let pause =
            first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(most);
        self.until = Some(shell.now + pause / 2 + shell.jitter(pause / 2));
    }

    /// Returns until when the edge is not to be asked; none if it may be.
    pub(super) fn rests_until(&self, now: Time) -> Option<Time> {
        self.until.filter(|until| *until > now)
    }
}
