//! How transfers end: by themselves, because nobody wants them any more, or with a process.

use blobmesh_protocol::engine::{FetchOutcome, Input};
use blobmesh_protocol::id::{FetchId, ServeId};

use super::{From, Response, Transfer, TransferId, outcome_failed};
use crate::world::{Event, NodeIndex, World};

/// How a transfer ends whose requester's process ends.
const KILLED: &str = "killed";

impl World {
    /// Takes in that a transfer's last group is under the blob's final name.
    pub(in crate::world) fn transfer_finished(&mut self, node: NodeIndex, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (hash, size) = (transfer.hash, transfer.size);
        let Some(host) = self.hosts.get(node) else { return };
        let empty = size == 0 || host.store.size(&hash).is_some();
        if !empty && !host.store.is_full(&hash) {
            // What another fetch was to bring did not come: the engine asks again.
            return self.end_fetch(id, outcome_failed("groups are missing"));
        }
        if host.store.size(&hash).is_none() {
            self.store_blob(node, hash, size, (false, false));
        }
        self.end_fetch(id, FetchOutcome::Complete { size });
    }

    /// Ends a transfer and tells the requester's engine how.
    pub(in crate::world) fn end_fetch(&mut self, id: TransferId, outcome: FetchOutcome) {
        let word = outcome_word(&outcome);
        let Some(transfer) = self.close_transfer(id, word) else { return };
        self.checks.fetch_ended(transfer.node, transfer.fetch);
        self.tell(transfer.node, Input::FetchEnded { fetch: transfer.fetch, outcome });
    }

    /// Ends a transfer that the requester's engine wants no more.
    pub(in crate::world) fn stop_fetch(&mut self, node: NodeIndex, fetch: FetchId) {
        let Some(host) = self.hosts.get(node) else { return };
        if let Some(id) = host.fetches.get(&fetch).copied() {
            self.close_transfer(id, "stopped");
        }
    }

    /// Ends what a node that ends has under way, on both sides.
    pub(in crate::world) fn abandon_transfers(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get(node) else { return };
        let fetched: Vec<TransferId> = host.fetches.values().copied().collect();
        let served: Vec<TransferId> = host.serves.values().copied().collect();
        for id in fetched {
            self.close_transfer(id, KILLED);
        }
        for id in served {
            let Some(transfer) = self.transfers.get(id) else { continue };
            let requester = transfer.node;
            self.close_flow(id);
            if !self.are_apart(node, requester) {
                // A requester hears that the connection is gone before what that did to its streams.
                let after = self.delay(node, requester) + self.model.step;
                let response = Response::Failed { detail: "connection lost" };
                self.schedule(after, requester, Event::Answered { transfer: id, response });
            }
        }
        if let Some(host) = self.hosts.get_mut(node) {
            host.serves.clear();
        }
    }

    /// Forgets a transfer on the requester's side and lets the provider know.
    pub(super) fn close_transfer(
        &mut self,
        id: TransferId,
        outcome: &'static str,
    ) -> Option<Transfer> {
        self.settle_bytes(id);
        self.close_flow(id);
        let transfer = self.transfers.running.remove(&id)?;
        if let Some(host) = self.hosts.get_mut(transfer.node) {
            host.fetches.remove(&transfer.fetch);
            let of_blob = |other: &TransferId| {
                self.transfers.get(*other).is_some_and(|other| other.hash == transfer.hash)
            };
            if outcome != KILLED && !host.fetches.values().any(of_blob) {
                host.store.save_part(&transfer.hash);
            }
        }
        self.tally.transfer_ended(&transfer, self.now, outcome);
        if let (From::Node(provider), Some(serve)) = (transfer.from, transfer.serve) {
            self.use_connection(transfer.node, provider, self.now);
            let after = self.delay(transfer.node, provider);
            let known =
                self.hosts.get(provider).is_some_and(|host| host.serves.contains_key(&serve));
            if known {
                self.schedule(after, provider, Event::Released { serve });
            }
        }
        Some(transfer)
    }

    /// Ends everything that is under way, at the end of a run.
    pub(in crate::world) fn end_transfers(&mut self) {
        let all: Vec<TransferId> = self.transfers.running.keys().copied().collect();
        for id in all {
            self.close_transfer(id, "unfinished");
        }
    }

    pub(in crate::world) fn release(&mut self, provider: NodeIndex, serve: ServeId) {
        if let Some(host) = self.hosts.get_mut(provider) {
            host.serves.remove(&serve);
        }
        self.tell(provider, Input::ServeEnded { serve });
    }
}

fn outcome_word(outcome: &FetchOutcome) -> &'static str {
    match outcome {
        FetchOutcome::Complete { .. } => "complete",
        FetchOutcome::Read { .. } => "read",
        FetchOutcome::Large { .. } => "large",
        FetchOutcome::Part => "part",
        FetchOutcome::Absent => "absent",
        FetchOutcome::Busy { .. } => "busy",
        FetchOutcome::WrongBytes { .. } => "wrong_bytes",
        FetchOutcome::Failed { .. }
        | FetchOutcome::Misbehaved { .. }
        | FetchOutcome::Refused { .. }
        | FetchOutcome::StoreFailed { .. } => "failed",
    }
}
