//! Trouble: nodes that end, parts that cannot reach each other, links that are slow, an edge or a DHT
//! that is out, and peers that misbehave.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use blobmesh_protocol::filter::OwnFilter;
use blobmesh_protocol::wire::message::{AskResult, Message};

use super::{Event, NodeIndex, World, host, links};
use crate::plan::{Behaviour, FaultKind};

/// Is what befalls a world, its nodes drawn.
#[derive(Debug, Default)]
pub(super) struct Faults {
    all: Vec<Drawn>,
    /// The two parts of each partition that stands.
    parts: Vec<(usize, BTreeSet<NodeIndex>, BTreeSet<NodeIndex>)>,
}

/// Is a fault with the nodes it befalls.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    pub(super) lasts: Option<Duration>,
    pub(super) kind: FaultKind,
    pub(super) nodes: Vec<NodeIndex>,
    /// The other part of a partition.
    pub(super) others: Vec<NodeIndex>,
}

impl Faults {
    pub(super) fn push(&mut self, fault: Drawn) -> usize {
        self.all.push(fault);
        self.all.len() - 1
    }

    /// Returns whether a partition stands between two nodes.
    pub(super) fn part(&self, a: NodeIndex, b: NodeIndex) -> bool {
        self.parts.iter().any(|(_, left, right)| {
            (left.contains(&a) && right.contains(&b)) || (left.contains(&b) && right.contains(&a))
        })
    }
}

impl World {
    pub(super) fn strike(&mut self, index: usize) {
        let Some(fault) = self.faults.all.get(index).cloned() else { return };
        if let Some(lasts) = fault.lasts {
            self.schedule_own(self.now + lasts, Event::Healed { index });
        }
        match &fault.kind {
            FaultKind::Kill { .. } => {
                for node in fault.nodes {
                    self.stop(node, true);
                    if let Some(host) = self.hosts.get_mut(node) {
                        host.store.forget_unsaved();
                    }
                    if fault.lasts.is_none() {
                        self.clients_leave(node);
                    }
                }
            }
            FaultKind::Partition { .. } => {
                let (left, right) = (fault.nodes.into_iter(), fault.others.into_iter());
                self.faults.parts.push((index, left.collect(), right.collect()));
                self.apart();
            }
            FaultKind::Slow { rate, .. } => {
                let rate = links::goodput(*rate, &self.model);
                self.set_rates(&fault.nodes, Some(rate));
            }
            FaultKind::EdgeOutage => self.set_edge_out(true),
            FaultKind::UplinkOutage { site } => {
                self.sites.set_cut(*site, true);
                self.apart();
            }
            FaultKind::DhtOutage => self.set_dht_out(true),
            FaultKind::Malicious { behaviour, .. } => {
                self.malicious.extend(fault.nodes.iter().map(|node| (*node, *behaviour)));
            }
        }
    }

    pub(super) fn heal(&mut self, index: usize) {
        let Some(fault) = self.faults.all.get(index).cloned() else { return };
        match &fault.kind {
            FaultKind::Kill { .. } => {
                for node in fault.nodes {
                    self.start(node);
                }
            }
            FaultKind::Partition { .. } => {
                self.faults.parts.retain(|(other, _, _)| *other != index);
                self.together(fault.nodes);
            }
            FaultKind::Slow { .. } => self.set_rates(&fault.nodes, None),
            FaultKind::EdgeOutage => self.set_edge_out(false),
            FaultKind::UplinkOutage { site } => {
                self.sites.set_cut(*site, false);
                self.together(Vec::new());
            }
            FaultKind::DhtOutage => self.set_dht_out(false),
            FaultKind::Malicious { behaviour, .. } => {
                for node in fault.nodes {
                    self.malicious.remove(&(node, *behaviour));
                }
            }
        }
    }

    /// Stops what a new cut goes through: flows at once, links when their silence is noticed.
    fn apart(&mut self) {
        self.cut_flows();
        let mut cut = Vec::new();
        for (node, host) in self.hosts.iter().enumerate() {
            let links = host.links.iter().map(|(peer, link)| (node, *peer, link.id));
            cut.extend(links.filter(|(_, peer, _)| self.are_apart(node, *peer)));
        }
        for (node, peer, link) in cut {
            self.schedule(self.model.silence, node, Event::Silent { peer, link });
        }
    }

    /// Lets flow again what a cut had stopped, and has nodes look for each other.
    fn together(&mut self, nodes: Vec<NodeIndex>) {
        self.cut_flows();
        for node in nodes {
            self.look_for_others(node);
        }
    }

    /// Sets the links of nodes to a rate, or back to what they had.
    fn set_rates(&mut self, nodes: &[NodeIndex], rate: Option<f64>) {
        for node in nodes {
            let Some(host) = self.hosts.get(*node) else { continue };
            let own = [(host.up, host.spec.up), (host.down, host.spec.down)];
            for (pipe, spec) in own {
                let (Some(pipe), Some(spec)) = (pipe, spec) else { continue };
                let rate = rate.unwrap_or_else(|| links::goodput(spec, &self.model));
                self.flows.set_pipe_rate(self.now, pipe, rate);
            }
        }
        self.doubt_marks();
    }

    fn set_edge_out(&mut self, out: bool) {
        if let Some(edge) = &mut self.edge {
            edge.out = out;
        }
        self.cut_flows();
    }

    fn set_dht_out(&mut self, out: bool) {
        if let Some(dht) = &mut self.dht {
            dht.out = out;
        }
    }

    /// Returns whether a node misbehaves so.
    pub(super) fn misbehaves(&self, node: NodeIndex, behaviour: Behaviour) -> bool {
        self.malicious.contains(&(node, behaviour))
    }

    /// Returns the message that leaves a node: a liar's filter is not the one its engine made.
    pub(super) fn twist<'a>(
        &self,
        node: NodeIndex,
        message: &'a Message,
    ) -> Option<Cow<'a, Message>> {
        let full = self.misbehaves(node, Behaviour::FullFilter);
        let empty = self.misbehaves(node, Behaviour::EmptyFilter);
        match message {
            Message::Filter(frame) if full || empty => {
                let generation = frame.generation;
                let lie = if full {
                    let prefixes: Vec<_> = self.blobs.keys().map(|hash| hash.prefix()).collect();
                    OwnFilter::build(generation, prefixes.into_iter())
                } else {
                    OwnFilter::build(generation, std::iter::empty())
                };
                lie.frame().map(|frame| Cow::Owned(Message::Filter(frame)))
            }
            // What follows a lie would contradict it.
            Message::FilterDelta(_) if full || empty => None,
            Message::Hello(_)
            | Message::Filter(_)
            | Message::FilterDelta(_)
            | Message::FilterRequest
            | Message::Groups { .. }
            | Message::Claims { .. }
            | Message::Near { .. }
            | Message::Rumour { .. }
            | Message::Ask { .. }
            | Message::Answer { .. }
            | Message::Goodbye => Some(Cow::Borrowed(message)),
        }
    }

    /// Answers a question with a claim that its engine would not make.
    pub(super) fn claim_to_have(&mut self, node: NodeIndex, from: NodeIndex, id: u32) {
        let result = AskResult::Have { size: 1 << 20 };
        self.send(node, host::peer_of(from), &Message::Answer { id, result });
    }
}
