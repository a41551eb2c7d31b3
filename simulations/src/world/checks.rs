//! Invariants, looked at while a world runs: what must hold whatever happens.
//!
//! A simulation that goes on after one of them is broken measures nothing, so a violation is written
//! down with its moment and its node, and the run's outcome carries it. Looked at are what the engine
//! asks of its driver and what its own bounds promise; what only a model could break is not.

use std::collections::{BTreeMap, BTreeSet};

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::receipt::Found;
use blobmesh_protocol::engine::{Output, Source};
use blobmesh_protocol::id::{FetchId, WantId};

use super::host::Host;
use super::store::Store;
use super::{Ended, NodeIndex, World};

/// Violations that are written down; of more only their number is.
const VIOLATIONS_MAX: usize = 100;

/// Watches engines from outside.
#[derive(Debug, Default)]
pub(super) struct Checks {
    violations: Vec<String>,
    count: u64,
    seen: BTreeMap<NodeIndex, Seen>,
}

/// Is what one engine asked for and has not taken back.
#[derive(Debug, Default)]
struct Seen {
    fetches: BTreeMap<FetchId, (Hash, Source)>,
    /// How many fetches run at one source for one hash, so that one too many is noticed.
    sources: BTreeMap<(Hash, Source), usize>,
    last_fetch: Option<FetchId>,
    last_ended: BTreeSet<WantId>,
}

impl Checks {
    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn violate(&mut self, what: String) {
        self.count += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// Looks at what an engine asks for.
    pub(super) fn saw(&mut self, node: NodeIndex, output: &Output) {
        if let Output::Send { .. } = output {
            return;
        }
        let seen = self.seen.entry(node).or_default();
        match output {
            Output::Fetch { fetch, hash, source, groups } => {
                self.saw_fetch(node, *fetch, (*hash, *source), groups.is_some());
            }
            Output::FetchSmall { fetch, hash, peer, .. } => {
                self.saw_fetch(node, *fetch, (*hash, Source::Peer(*peer)), false);
            }
            Output::StopFetch { fetch } => self.fetch_ended(node, *fetch),
            Output::Ended { want, .. } => {
                if !seen.last_ended.insert(*want) {
                    self.violate(format!("node {node}: {want:?} ended twice"));
                }
            }
            Output::Look { .. }
            | Output::PrepareEdge
            | Output::Send { .. }
            | Output::FindProviders { .. }
            | Output::StopFindProviders { .. }
            | Output::Provide { .. }
            | Output::Unprovide { .. }
            | Output::Serve { .. }
            | Output::Drop { .. } => {}
        }
    }

    /// Looks at a fetch, of one range or of everything.
    fn saw_fetch(&mut self, node: NodeIndex, fetch: FetchId, of: (Hash, Source), ranged: bool) {
        let seen = self.seen.entry(node).or_default();
        let new = seen.last_fetch.is_none_or(|last| last < fetch);
        seen.last_fetch = Some(fetch);
        let running = seen.sources.entry(of).or_default();
        *running += 1;
        let most = match of.1 {
            Source::Edge if ranged => RANGES_OF_EDGE,
            Source::Peer(_) if ranged => RANGES_PER_SOURCE,
            Source::Edge | Source::Peer(_) => 1,
        };
        let single = *running <= most;
        seen.fetches.insert(fetch, of);
        let (hash, source) = of;
        if !new {
            self.violate(format!("node {node}: {fetch:?} is used twice"));
        }
        if !single {
            self.violate(format!("node {node}: two fetches of {hash:?} at {source:?}"));
        }
    }

    /// Takes in that a fetch is no more.
    pub(super) fn fetch_ended(&mut self, node: NodeIndex, fetch: FetchId) {
        let Some(seen) = self.seen.get_mut(&node) else { return };
        match seen.fetches.remove(&fetch) {
            Some(of) => {
                if let Some(running) = seen.sources.get_mut(&of) {
                    *running -= 1;
                    if *running == 0 {
                        seen.sources.remove(&of);
                    }
                }
            }
            None => self.violate(format!("node {node}: {fetch:?} ended and never ran")),
        }
    }

    /// Looks at the end of a get: what was fetched is there. What was found in the store may have had to
    /// go between the look and its answer.
    pub(super) fn get_ended(&mut self, node: NodeIndex, ended: &Ended, store: Option<&Store>) {
        let hash = &ended.receipt.hash;
        let held = store.is_some_and(|store| store.size(hash).is_some());
        if ended.result.is_ok() && ended.receipt.found != Some(Found::Local) && !held {
            self.violate(format!("node {node}: {hash:?} was promised and is not held"));
        }
    }

    /// Forgets an engine that is gone.
    pub(super) fn forget(&mut self, node: NodeIndex) {
        self.seen.remove(&node);
    }
}

impl World {
    /// Looks at a node after an event.
    pub(super) fn check(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get(node) else { return };
        if let Some(what) = broken_bound(host) {
            let at = self.now;
            self.checks.violate(format!("{at}: node {node}: {what}"));
        }
    }

    /// Looks at a world that has come to its end: what a node sent is what its link carried. Bytes are
    /// counted flow by flow on one side, and summed over all flows of the link on the other.
    pub(super) fn check_conservation(&mut self) {
        for (node, host) in self.hosts.iter().enumerate() {
            let Some(up) = host.up else { continue };
            let carried = self.flows.carried(self.now, up);
            let (sent, flows) = self.tally.sent_by(node);
            if (carried - sent).abs() > 1.0 + flows + carried * 1e-9 {
                let what = format!("node {node}: its link carried {carried} bytes, it sent {sent}");
                self.checks.violate(what);
            }
        }
    }
}

/// Returns which bound of its own configuration a node is beyond.
fn broken_bound(host: &Host) -> Option<String> {
    let config = &host.spec.config;
    if !host.is_up() {
        return None;
    }
    if host.serves.len() > config.serves_max + SERVES_ASKED_MAX {
        return Some(format!("{} services", host.serves.len()));
    }
    let resolutions = host.resolutions;
    if resolutions > config.resolutions_max {
        return Some(format!("{resolutions} resolutions"));
    }
    let fetches = host.fetches.len();
    // Beside those of the bound: the edge, and those that are started beside late ones.
    if fetches > resolutions * (config.fetches_per_hash_max + LATE_MAX) {
        return Some(format!("{fetches} fetches for {resolutions} resolutions"));
    }
    None
}

/// Services whose end is still under way to the provider, beside those admitted.
const SERVES_ASKED_MAX: usize = 1_024;
/// Sources of one hash that are started beside late ones.
const LATE_MAX: usize = 5;
/// Ranges of one hash that one source brings at once.
const RANGES_PER_SOURCE: usize = 2;
/// Ranges that the edge brings of one blob at once: as many as fetches of one blob by default.
const RANGES_OF_EDGE: usize = 32;
