//! Sessions: when nodes come, how long they stay, and whether they come back.

use std::time::Duration;

use super::{Event, NodeIndex, World};
use crate::plan::{Distribution, Group};
use crate::random::Random;

/// Says how a node comes and goes.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    session: Option<Distribution>,
    absence: Option<Distribution>,
    keeps_store: bool,
    random: Random,
}

impl World {
    pub(super) fn set_sessions(&mut self, node: NodeIndex, group: &Group, random: Random) {
        let (session, absence) = (group.session.clone(), group.absence.clone());
        let sessions = Sessions { session, absence, keeps_store: group.keeps_store, random };
        if let Some(host) = self.hosts.get_mut(node) {
            host.sessions = Some(sessions);
        }
    }

    /// Plans the end of the session that begins now.
    pub(super) fn plan_leaving(&mut self, node: NodeIndex) {
        let sessions = self.hosts.get_mut(node).and_then(|host| host.sessions.as_mut());
        let Some(Sessions { session: Some(session), random, .. }) = sessions else { return };
        let stays = Duration::from_nanos(session.draw(random));
        self.schedule(stays, node, Event::Leave);
    }

    /// Ends a node's session, and plans the next one if there is one.
    pub(super) fn leave(&mut self, node: NodeIndex) {
        let sessions = self.hosts.get_mut(node).and_then(|host| host.sessions.as_mut());
        let Some(sessions) = sessions else { return };
        let absence = sessions.absence.as_ref().map(|absence| absence.draw(&mut sessions.random));
        let keeps_store = sessions.keeps_store;
        self.stop(node, keeps_store);
        match absence {
            Some(nanos) => {
                self.schedule_own(self.now + Duration::from_nanos(nanos), Event::Start { node });
            }
            None => self.clients_leave(node),
        }
    }
}
