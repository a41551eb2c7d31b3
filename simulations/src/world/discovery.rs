//! The model of discovery: nodes of a site see each other some time after they start, and link as far
//! as both have room.
//!
//! A node sees everybody on its LAN but links only with as many as its bound allows; which of them is
//! drawn, and left to the engines of both. When neighbours go it looks again.

use std::time::Duration;

use blobmesh_protocol::engine::Input;

use super::{Event, NodeIndex, World, host};
use crate::plan::SiteId;

/// How long a node looks for its neighbours before it says that a blob is nowhere.
const SETTLE_TIME: Duration = Duration::from_millis(1_200);
/// Round trips from a first packet to open control streams.
const HANDSHAKE_ROUND_TRIPS: u32 = 4;
/// Nodes drawn for each link that is missing; those that would not have it are passed over.
const DRAWS_PER_LINK: usize = 16;

impl World {
    /// Takes in that a node started: it settles after its time, and sees others after theirs.
    pub(super) fn started(&mut self, node: NodeIndex, site: SiteId) {
        match self.sites.discovery(site) {
            Some(after) => {
                self.schedule(SETTLE_TIME, node, Event::told(Input::Settled));
                self.plan_discovery(node, after);
            }
            None => self.schedule(Duration::ZERO, node, Event::told(Input::Settled)),
        }
    }

    /// Has a node that lost a neighbour look for others.
    pub(super) fn look_for_others(&mut self, node: NodeIndex) {
        let Some(site) = self.hosts.get(node).map(|host| host.spec.site) else { return };
        if let Some(after) = self.sites.discovery(site) {
            self.plan_discovery(node, after);
        }
    }

    fn plan_discovery(&mut self, node: NodeIndex, after: Duration) {
        if let Some(host) = self.hosts.get_mut(node)
            && host.is_up()
            && !host.will_discover
        {
            host.will_discover = true;
            self.schedule(after, node, Event::Discover);
        }
    }

    /// Links a node with others of its site that have room.
    pub(super) fn discover(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        host.will_discover = false;
        let site = host.spec.site;
        let missing = host.spec.config.neighbours_max.saturating_sub(host.links.len());
        for other in self.candidates(node, site, missing * DRAWS_PER_LINK) {
            let handshake = self.delay(node, other) * 2 * HANDSHAKE_ROUND_TRIPS + self.model.dial;
            if self.has_room(node) && self.would_take(other, node) && !self.are_apart(node, other) {
                self.open_link(node, other, handshake);
            }
        }
    }

    /// Draws nodes of a site that are up; all of them where it has no more.
    fn candidates(&mut self, node: NodeIndex, site: SiteId, draws: usize) -> Vec<NodeIndex> {
        let mut drawn = self.sites.draw_members(site, draws);
        let is_up = |other: NodeIndex| self.hosts.get(other).is_some_and(host::Host::is_up);
        drawn.retain(|other| *other != node && is_up(*other));
        drawn
    }

    /// Returns whether a node would have another as a neighbour. One that would not is dialled all the same by a real
    /// node, once in minutes.
    fn would_take(&mut self, node: NodeIndex, newcomer: NodeIndex) -> bool {
        if self.has_room(node) {
            return true;
        }
        self.call_back(node);
        let host = self.hosts.get(node);
        host.is_some_and(|host| host.would_take(host::peer_of(newcomer)))
    }

    fn has_room(&self, node: NodeIndex) -> bool {
        self.hosts.get(node).is_some_and(|host| host.links.len() < host.spec.config.neighbours_max)
    }
}
