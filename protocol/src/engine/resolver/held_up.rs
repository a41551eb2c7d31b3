//! Silence that is the node's own.
//!
//! A store that stands still, or a machine with too little processor time, keeps from the engine what its sources gave
//! long ago. Who was silent meanwhile is given that time again, up to a bound: where a node is held up again and again,
//! a source that is dead is found all the same.

use std::time::Duration;

use super::Resolver;
use super::resolution::Running;
use crate::engine::Shell;
use crate::time::Time;

/// How many times the time of a stall a source is excused, from one word of it to the next.
const EXCUSED_STALLS: u32 = 3;

impl Resolver {
    /// Takes in that the node was held up, and may not have heard what its sources said.
    pub(crate) fn held_up(&mut self, shell: &mut Shell) {
        shell.stats.held_up += 1;
        let most = shell.config.stall_timeout.saturating_mul(EXCUSED_STALLS);
        let fetches =
            self.resolutions.values_mut().flat_map(|running| running.fetches.values_mut());
        fetches.for_each(|fetch| fetch.excuse(most, shell.now));
    }
}

impl Running {
    fn excuse(&mut self, most: Duration, now: Time) {
        let excused = (now - self.heard).min(most.saturating_sub(self.excused));
        self.heard = self.heard + excused;
        self.excused += excused;
    }
}
