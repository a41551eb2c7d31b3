//! Looking into filters: how often they let through what their owner does not hold.
//!
//! A filter of `m` bits with `n` blobs and `k` hash functions says maybe to an absent blob with
//! (1 - e^(-kn/m))^k (Bloom, *Space/time trade-offs in hash coding with allowable errors*, CACM 1970). The
//! gets of a plan meet too few absent blobs to measure shares of some in a thousand, so at each get hashes
//! that nobody holds are looked up besides, in the filter of every neighbour: not in one of the model's
//! making, but in the frames and deltas that its owner sent, taken in as a receiver does. `k` and `m` are
//! those of the frame, `n` is the number of blobs in the owner's store.

use std::collections::BTreeMap;

use blobmesh_protocol::Hash;
use blobmesh_protocol::filter::PeerFilter;
use blobmesh_protocol::wire::message::Message;

use super::{NodeIndex, World};
use crate::random::Random;
use crate::stats::proportion_interval;

/// The quantile of the normal distribution that an interval of 99.99 % reaches to. A sweep has a hundred
/// runs and more, and with 95 % a right law would be outside in five of them.
const QUANTILE: f64 = 3.890_592;

/// Looks into filters, and counts.
#[derive(Debug)]
pub(super) struct Probe {
    /// Hashes that are looked up in each neighbour's filter at a get.
    looks_per_get: usize,
    random: Random,
    filters: BTreeMap<NodeIndex, Told>,
    looks: u64,
    maybes: u64,
    /// The sum over all looks of what the law says.
    law: f64,
}

/// Is the filter that a node told its neighbours.
#[derive(Debug)]
struct Told {
    filter: PeerFilter,
    hashes: u8,
    bits: usize,
}

impl Probe {
    pub(super) fn new(looks_per_get: usize, random: &Random) -> Self {
        let random = random.fork("probe", 0);
        Self { looks_per_get, random, filters: BTreeMap::new(), looks: 0, maybes: 0, law: 0.0 }
    }

    /// Takes in what a node tells a neighbour; it tells all of them the same.
    fn told(&mut self, node: NodeIndex, message: &Message) {
        match message {
            Message::Filter(frame) => {
                let known = self.filters.get(&node).map(|told| &told.filter);
                let state = known.map(|filter| (filter.generation(), filter.sequence()));
                if state == Some((frame.generation, frame.sequence)) {
                    return;
                }
                let (hashes, bits) = (frame.hashes, frame.bits.len() * 8);
                if let Ok(filter) = PeerFilter::accept(frame.clone()) {
                    self.filters.insert(node, Told { filter, hashes, bits });
                }
            }
            Message::FilterDelta(delta) => {
                // The same delta to the next neighbour is of old, and changes nothing.
                let _old = self.filters.get_mut(&node).map(|told| told.filter.apply(delta));
            }
            Message::Hello(_)
            | Message::FilterRequest
            | Message::Ask { .. }
            | Message::Answer { .. }
            | Message::Groups { .. }
            | Message::Claims { .. }
            | Message::Near { .. }
            | Message::Rumour { .. }
            | Message::Goodbye => {}
        }
    }

    /// Looks hashes that nobody holds up in the filter of a node that holds so many blobs.
    fn look(&mut self, node: NodeIndex, blobs: usize) {
        let Some(told) = self.filters.get(&node) else { return };
        let law = false_positives(told.hashes, blobs, told.bits);
        for _ in 0..self.looks_per_get {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&self.random.draw().to_le_bytes());
            self.looks += 1;
            self.law += law;
            self.maybes += u64::from(told.filter.may_hold(&Hash::from_bytes(bytes)));
        }
    }

    /// Puts what was counted: how many looks, the share of maybes and its interval, and the law's share.
    pub(super) fn sum(&self, put: &mut impl FnMut(&'static str, f64) -> Option<f64>) {
        put("filter.looks", self.looks as f64);
        let Some(share) = proportion_interval(self.maybes, self.looks, QUANTILE) else { return };
        put("filter.wrong", share.middle);
        put("filter.wrong.low", share.low);
        put("filter.wrong.high", share.high);
        put("filter.law", self.law / self.looks as f64);
    }
}

impl World {
    /// Looks into filters at every get from now on.
    pub(super) fn look_into_filters(&mut self, looks_per_get: usize) {
        self.probe = (looks_per_get > 0).then(|| Probe::new(looks_per_get, &self.random));
    }

    pub(super) fn probe_told(&mut self, node: NodeIndex, message: &Message) {
        if let Some(probe) = &mut self.probe {
            probe.told(node, message);
        }
    }

    /// Looks into the filters of a node's neighbours.
    pub(super) fn probe_neighbours(&mut self, node: NodeIndex) {
        let (Some(probe), Some(host)) = (&mut self.probe, self.hosts.get(node)) else { return };
        for neighbour in host.links.keys() {
            if let Some(host) = self.hosts.get(*neighbour) {
                probe.look(*neighbour, host.store.count());
            }
        }
    }
}

/// Returns the share of absent blobs that a filter of `bits` bits with so many blobs and hash functions says
/// maybe to.
fn false_positives(hashes: u8, blobs: usize, bits: usize) -> f64 {
    let hashes = f64::from(hashes);
    let fill = 1.0 - libm::exp(-hashes * blobs as f64 / bits as f64);
    libm::pow(fill, hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_is_that_of_the_tables() {
        // Ten bits a blob and seven functions: 0.00819 (Broder and Mitzenmacher, 2004).
        assert!((false_positives(7, 1_000, 10_000) - 0.008_194).abs() < 1e-6);
        assert_eq!(false_positives(7, 0, 10_000), 0.0);
    }
}
