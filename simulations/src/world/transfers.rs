//! Transfers: one fetch at one source, from the request to the last byte.
//!
//! A request travels to its provider, whose engine admits it or not ([`request`]); then bytes flow, group after
//! group of what the requester misses, and each group that is whole is verified and stored ([`flowing`]). A
//! provider that misbehaves is found out at the first group, as the group list that came before it is checked.
//! [`ending`] has all the ways in which a transfer ends. This file is what is known of those under way.

mod ending;
mod flowing;
mod request;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::blob::GROUP_LEN;
use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::id::{FetchId, ServeId};
use blobmesh_protocol::{Hash, Time};

use super::NodeIndex;
use super::flows::FlowId;

/// Names a transfer; a number is never used for two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TransferId(pub(super) u64);

/// Is what a provider says to a request.
#[derive(Clone, Debug)]
pub(super) enum Response {
    /// Here it comes.
    Begins,
    Absent,
    Busy {
        retry_after: Duration,
    },
    /// It is too long to answer a small request with.
    Large {
        size: u64,
    },
    Failed {
        detail: &'static str,
    },
}

/// Says who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Node(NodeIndex),
    Edge,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) node: NodeIndex,
    pub(super) fetch: FetchId,
    pub(super) hash: Hash,
    pub(super) from: From,
    pub(super) size: u64,
    pub(super) started: Time,
    pub(super) first_byte: Option<Time>,
    pub(super) flow: Option<FlowId>,
    /// The provider's number for it, once its engine was asked.
    serve: Option<ServeId>,
    /// The groups that were asked for; none for all.
    groups: Option<Range<u64>>,
    /// Whether it is a small request.
    small: bool,
    /// The groups that are to come.
    pieces: Vec<Range<u64>>,
    /// The bytes at which the flow is looked at next.
    mark: u64,
    /// Bytes that were told to the engine.
    told: u64,
    /// Bytes up to the end of the last group that was stored.
    stored: u64,
    /// Bytes that are to come in all.
    wanted: u64,
    /// What the flow's own window allows in bytes a second, while it grows.
    window: Option<Window>,
    /// What the way allows beside the pipes: loss, one connection of the edge.
    limit: f64,
    /// Whether what comes is not of the blob.
    wrong: bool,
    /// Whether the bytes come over a lane.
    lane: bool,
}

/// Is a window of TCP in slow start.
#[derive(Clone, Copy, Debug)]
struct Window {
    bytes: f64,
    round_trip: Duration,
}

/// Holds the transfers of a world.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    running: BTreeMap<TransferId, Transfer>,
    /// The transfers by the slots of their flows, and who fetches.
    by_flow: Vec<Option<(FlowId, TransferId, NodeIndex)>>,
}

impl Transfers {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn get(&self, id: TransferId) -> Option<&Transfer> {
        self.running.get(&id)
    }

    pub(super) fn set_size(&mut self, id: TransferId, size: u64) {
        if let Some(transfer) = self.get_mut(id) {
            transfer.size = size;
        }
    }

    pub(super) fn set_groups(&mut self, id: TransferId, groups: Option<Range<u64>>) {
        if let Some(transfer) = self.get_mut(id) {
            transfer.groups = groups;
        }
    }

    fn get_mut(&mut self, id: TransferId) -> Option<&mut Transfer> {
        self.running.get_mut(&id)
    }

    /// Returns the transfer of a flow.
    pub(super) fn of_flow(&self, flow: FlowId) -> Option<TransferId> {
        let (own, id, _) = self.by_flow.get(flow.slot).copied().flatten()?;
        (own == flow).then_some(id)
    }

    /// Returns the flows of all transfers, and where their bytes come from.
    pub(super) fn flows(&self) -> impl Iterator<Item = (From, FlowId)> {
        self.running.values().filter_map(|transfer| Some((transfer.from, transfer.flow?)))
    }

    /// Returns the node that a flow's bytes come to.
    pub(super) fn node_of_flow(&self, flow: FlowId) -> Option<NodeIndex> {
        let (own, _, node) = self.by_flow.get(flow.slot).copied().flatten()?;
        (own == flow).then_some(node)
    }

    fn set_flow(&mut self, flow: FlowId, of: Option<(TransferId, NodeIndex)>) {
        if self.by_flow.len() <= flow.slot {
            self.by_flow.resize(flow.slot + 1, None);
        }
        if let Some(place) = self.by_flow.get_mut(flow.slot) {
            *place = of.map(|(id, node)| (flow, id, node));
        }
    }
}

impl Transfer {
    /// Returns the bytes that came and were told of.
    pub(super) fn bytes(&self) -> u64 {
        self.told
    }
}

/// Returns the whole bytes of a number that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and a cast saturates"
)]
fn whole_bytes(bytes: f64) -> u64 {
    bytes as u64
}

fn run_len(size: u64, run: &Range<u64>) -> u64 {
    (run.end * GROUP_LEN).min(size).saturating_sub(run.start * GROUP_LEN)
}

pub(super) fn outcome_failed(detail: &str) -> FetchOutcome {
    FetchOutcome::Failed { detail: detail.to_owned() }
}
