//! The model of the edge: what it holds, how it answers, and each node's connections to it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::{Hash, Time};

use super::flows::{Flows, PipeId};
use super::links::{Route, goodput};
use super::transfers::{From, Response, outcome_failed};
use super::{Calibration, Event, NodeIndex, World};
use crate::plan;
use crate::random::Random;

/// How long a request to an edge that does not answer takes to fail: the edge client's own deadline.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Up to this length a node verifies a blob from the edge as a whole; of a longer one it takes the list first, and
/// the last group beside it.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Edge {
    spec: plan::Edge,
    pipe: Option<PipeId>,
    blobs: BTreeMap<Hash, u64>,
    pub(super) out: bool,
    pub(super) requests: u64,
    per_connection: f64,
    random: Random,
}

/// Is a node's idle connections to the edge.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Windows in bytes, and since when each is idle.
    idle: Vec<(f64, Time)>,
}

/// Idle connections that a node keeps to the edge.
const IDLE_MAX: usize = 16;

impl Edge {
    pub(super) fn new(
        spec: &plan::Edge,
        model: &Calibration,
        random: &Random,
        flows: &mut Flows,
    ) -> Self {
        Self {
            pipe: spec.rate.map(|rate| flows.add_pipe(goodput(rate, model))),
            per_connection: spec
                .rate_per_connection
                .map_or(f64::INFINITY, |rate| goodput(rate, model)),
            spec: spec.clone(),
            blobs: BTreeMap::new(),
            out: false,
            requests: 0,
            random: random.fork("edge", 0),
        }
    }

    pub(super) fn put(&mut self, hash: Hash, size: u64) {
        self.blobs.insert(hash, size);
    }

    pub(super) fn pipe(&self) -> Option<PipeId> {
        self.pipe
    }
}

impl World {
    /// Asks the edge for a blob, or groups of it.
    pub(super) fn fetch_from_edge(
        &mut self,
        node: NodeIndex,
        (fetch, groups): (FetchId, Option<Range<u64>>),
        hash: Hash,
    ) {
        if self.edge.is_none() {
            let outcome = outcome_failed("there is no edge");
            let ended = Input::FetchEnded { fetch, outcome };
            return self.schedule(Duration::ZERO, node, Event::told(ended));
        }
        let id = self.open_transfer(node, fetch, hash, From::Edge);
        self.transfers.set_groups(id, groups);
        let way = self.route_from_edge(node).delay;
        let unknown = self.hosts.get(node).is_none_or(|host| host.store.part(&hash).is_none());
        let warm = self.has_warm_edge_connection(node);
        let off = self.is_off_edge(node);
        let dial = if warm { Duration::ZERO } else { way * 2 * self.model.edge_dial_round_trips };
        let Some(edge) = &mut self.edge else { return };
        if off {
            let response = Response::Failed { detail: "the edge did not answer in time" };
            let answered = Event::Answered { transfer: id, response };
            return self.schedule(FIRST_BYTE_TIMEOUT, node, answered);
        }
        edge.requests += 1;
        let size = edge.blobs.get(&hash).copied();
        let fails = edge.random.chance(edge.spec.error_rate);
        let first_byte = Duration::from_nanos(edge.spec.first_byte.draw(&mut edge.random));
        let response = match size {
            _ if fails => Response::Failed { detail: "the edge answered 500" },
            None => Response::Absent,
            Some(size) => {
                self.transfers.set_size(id, size);
                Response::Begins
            }
        };
        let listed = unknown && size.is_some_and(|size| size > WHOLE_BYTES_MAX);
        let list = if listed { way * 2 } else { Duration::ZERO };
        let after = dial + way * 2 + first_byte + list + self.model.step;
        self.schedule(after, node, Event::Answered { transfer: id, response });
    }

    /// Returns the way from the edge to a node.
    pub(super) fn route_from_edge(&mut self, node: NodeIndex) -> Route {
        let host = self.hosts.get(node);
        let site = host.map_or(plan::SiteId(0), |host| host.spec.site);
        let own = host.and_then(|host| host.down);
        let mut route = self.sites.inbound(site);
        route.path.extend(own);
        route.path.extend(self.edge.as_ref().and_then(Edge::pipe));
        route
    }

    /// Returns what one connection of a source is limited to.
    pub(super) fn edge_limit(&self, from: From) -> f64 {
        match (from, &self.edge) {
            (From::Edge, Some(edge)) => edge.per_connection,
            (From::Edge | From::Node(_), _) => f64::INFINITY,
        }
    }

    /// Returns whether no packet passes between a node and the edge.
    pub(super) fn is_off_edge(&self, node: NodeIndex) -> bool {
        let site = self.hosts.get(node).map(|host| host.spec.site);
        let out = self.edge.as_ref().is_none_or(|edge| edge.out);
        out || site.is_none_or(|site| self.sites.is_cut(site))
    }

    fn has_warm_edge_connection(&self, node: NodeIndex) -> bool {
        let idle = self.hosts.get(node).map(|host| &host.edge_connections.idle);
        idle.is_some_and(|idle| !idle.is_empty())
    }

    /// Takes an idle connection's window; none where a new connection is made, or the window has
    /// fallen back.
    pub(super) fn take_edge_window(&mut self, node: NodeIndex) -> Option<f64> {
        let (window, since) = self.hosts.get_mut(node)?.edge_connections.idle.pop()?;
        (self.now - since < self.model.edge_idle).then_some(window)
    }

    /// Puts a connection to the others that are idle.
    pub(super) fn give_edge_window(&mut self, node: NodeIndex, window: f64) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(node)
            && host.edge_connections.idle.len() < IDLE_MAX
        {
            host.edge_connections.idle.push((window, now));
        }
    }
}
