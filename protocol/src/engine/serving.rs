//! Who is served, and who is asked to come again.

use std::collections::BTreeMap;

use super::{Output, ServeVerdict, Shell};
use crate::id::{PeerId, ServeId};

#[derive(Debug, Default)]
pub(crate) struct Serving {
    running: BTreeMap<ServeId, PeerId>,
    by_peer: BTreeMap<PeerId, usize>,
}

impl Serving {
    pub(crate) fn ask(&mut self, serve: ServeId, peer: PeerId, welcome: bool, shell: &mut Shell) {
        let of_peer = self.by_peer.get(&peer).copied().unwrap_or(0);
        let room = self.running.len() < shell.config.serves_max
            && of_peer < shell.config.serves_per_peer_max;
        let verdict = if welcome && room {
            self.running.insert(serve, peer);
            self.by_peer.insert(peer, of_peer + 1);
            shell.stats.serves += 1;
            ServeVerdict::Admit
        } else {
            shell.stats.serves_refused += 1;
            ServeVerdict::Busy { retry_after: shell.config.busy_retry_after }
        };
        shell.emit(Output::Serve { serve, verdict });
    }

    pub(crate) fn end(&mut self, serve: ServeId) {
        let Some(peer) = self.running.remove(&serve) else { return };
        match self.by_peer.get_mut(&peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.by_peer.remove(&peer);
            }
        }
    }
}
