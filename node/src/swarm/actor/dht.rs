//! Searches and announcements in the DHT.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use blobmesh_protocol::Hash;
use blobmesh_protocol::id::QueryId;
use libp2p::PeerId as LibPeerId;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::kad::{
    self, GetProvidersOk, InboundRequest, ProgressStep, ProviderRecord, QueryResult, QueryStats,
    RecordKey,
};
use libp2p::swarm::{ConnectionId, NetworkBehaviour};

use super::{Actor, ended};
use crate::swarm::addresses;
use crate::swarm::announce::Inserted;
use crate::swarm::records::ADDRESSES_PER_PROVIDER_MAX;
use crate::swarm::{SwarmEvent, convert};

/// How many searches run at once; one more ends at once with nothing found.
const FINDS_MAX: usize = 64;
/// How many providers one search reports.
const PROVIDERS_PER_FIND_MAX: usize = 64;

/// The provider searches that run.
#[derive(Debug, Default)]
pub(super) struct Finds {
    running: HashMap<kad::QueryId, Find>,
}

#[derive(Debug)]
struct Find {
    query: QueryId,
    reported: HashSet<LibPeerId>,
}

impl Finds {
    /// Ends all searches, each with its event.
    pub(super) fn end_all(&mut self) -> impl Iterator<Item = SwarmEvent> {
        self.running.drain().map(|(_, find)| ended(find.query))
    }
}

impl Actor {
    pub(super) fn find(&mut self, query: QueryId, hash: Hash) {
        if self.finds.running.len() >= FINDS_MAX {
            self.outbox.push_back(ended(query));
            return;
        }
        let id = self.swarm.behaviour_mut().kad.get_providers(record_key(&hash));
        self.finds.running.insert(id, Find { query, reported: HashSet::new() });
    }

    pub(super) fn stop_find(&mut self, query: QueryId) {
        let found = self.finds.running.iter().find(|(_, find)| find.query == query);
        let Some(id) = found.map(|(id, _)| *id) else { return };
        self.finds.running.remove(&id);
        if let Some(mut running) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            running.finish();
        }
    }

    pub(super) fn provide(&mut self, hash: Hash) {
        match self.announcer.insert(hash) {
            // Peers that ask this very node find it at once.
            Inserted::New => self.hold_record(&hash),
            Inserted::Known => {}
            Inserted::Full => self.outbox.push_back(SwarmEvent::Provided { hash, ok: false }),
        }
    }

    pub(super) fn stop_providing(&mut self, hash: Hash) {
        self.announcer.remove(&hash);
        self.swarm.behaviour_mut().kad.stop_providing(&record_key(&hash));
    }

    /// Starts the announcements that are due; returns when the next one will be.
    pub(super) fn announce(&mut self) -> Option<Instant> {
        // Without a peer in the table an announcement would reach nobody and be spent.
        if self.announcer.is_empty() || self.routable == 0 {
            return None;
        }
        let now = Instant::now();
        while let Some(hash) = self.announcer.next(now) {
            match self.swarm.behaviour_mut().kad.start_providing(record_key(&hash)) {
                Ok(id) => {
                    self.announcing.insert(id, hash);
                }
                // Not reached: the announcer has the same bound as the records.
                Err(_) => {
                    self.announcer.finished(&hash, false, now);
                }
            }
        }
        self.announcer.wakes_at(now)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "other results are of no use")]
    pub(super) fn on_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, stats } => match result {
                QueryResult::GetProviders(result) => {
                    let found = match result {
                        Ok(GetProvidersOk::FoundProviders { providers, .. }) => providers,
                        Ok(GetProvidersOk::FinishedWithNoAdditionalRecord { .. }) | Err(_) => {
                            HashSet::new()
                        }
                    };
                    self.on_found(id, found, &step);
                }
                QueryResult::StartProviding(result) => {
                    self.on_announced(id, result.is_ok(), &stats);
                }
                _ => {}
            },
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } => self.on_record(record),
            kad::Event::RoutablePeer { peer, address }
            // This node dialled the address, so it may tell it on, unless it is a name.
            | kad::Event::PendingRoutablePeer { peer, address }
                if addresses::is_dialable(&address, addresses::is_loopback(&address)) =>
            {
                self.swarm.behaviour_mut().kad.add_address(&peer, address);
            }
            kad::Event::RoutingUpdated { .. } => {
                let buckets = self.swarm.behaviour_mut().kad.kbuckets();
                self.routable = buckets.map(|bucket| bucket.num_entries()).sum();
            }
            _ => {}
        }
    }

    /// Puts a peer's addresses into the routing table, in place of those it had there.
    pub(super) fn route(&mut self, peer: LibPeerId, known: &[Multiaddr]) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        for address in known {
            // A name would have to be looked up by all who hear of it.
            if addresses::is_dialable(address, addresses::is_loopback(address)) {
                kad.add_address(&peer, address.clone());
            }
        }
        if known.is_empty() {
            return;
        }
        let Some(bucket) = kad.kbucket(peer) else { return };
        let entry = bucket.iter().find(|entry| *entry.node.key.preimage() == peer);
        let listed: Vec<_> =
            entry.iter().flat_map(|entry| entry.node.value.iter().cloned()).collect();
        for address in listed {
            if !known.contains(&convert::without_peer(&address)) {
                kad.remove_address(&peer, &address);
            }
        }
    }

    fn on_found(&mut self, id: kad::QueryId, found: HashSet<LibPeerId>, step: &ProgressStep) {
        let local = *self.swarm.local_peer_id();
        // A search that was stopped has no entry any more.
        let Some(find) = self.finds.running.get_mut(&id) else { return };
        let query = find.query;
        let room = PROVIDERS_PER_FIND_MAX.saturating_sub(find.reported.len());
        let new: Vec<_> = found
            .into_iter()
            .filter(|peer| *peer != local && !find.reported.contains(peer))
            .take(room)
            .collect();
        find.reported.extend(&new);
        if step.last {
            self.finds.running.remove(&id);
        }
        new.iter().for_each(|peer| self.learn_addresses(*peer));
        let peers: Vec<_> = new.iter().filter_map(convert::from_libp2p).collect();
        if !peers.is_empty() {
            self.outbox.push_back(SwarmEvent::Providers { query, peers });
        }
        if step.last {
            self.outbox.push_back(ended(query));
        }
    }

    /// Keeps the addresses that came with a provider: libp2p forgets them with the search.
    fn learn_addresses(&mut self, peer: LibPeerId) {
        // libp2p has no other way to ask for them than the one the swarm takes before a dial. It looks
        // them up in the routing table and in the searches that run, and changes nothing.
        let nothing = ConnectionId::new_unchecked(0);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let known =
            kad.handle_pending_outbound_connection(nothing, Some(peer), &[], Endpoint::Dialer);
        let near = self.told.iter().any(addresses::is_loopback);
        for address in known.unwrap_or_default() {
            if addresses::is_dialable(&address, near) {
                self.addresses.remember(peer, &address);
            }
        }
    }

    fn on_announced(&mut self, id: kad::QueryId, done: bool, stats: &QueryStats) {
        let Some(hash) = self.announcing.remove(&id) else { return };
        let reached = done && stats.num_successes() > 0;
        if self.announcer.finished(&hash, reached, Instant::now()) {
            self.outbox.push_back(SwarmEvent::Provided { hash, ok: true });
        }
    }

    /// Stores a record that a peer left for others, with addresses that make sense to them.
    fn on_record(&mut self, mut record: ProviderRecord) {
        // libp2p has checked that the record is of the peer that sent it.
        let Some(connected) = self.peers.get(&record.provider) else { return };
        let near = connected.links.iter().any(|link| addresses::is_loopback(&link.address));
        record.addresses.retain(|address| addresses::is_dialable(address, near));
        record.addresses.truncate(ADDRESSES_PER_PROVIDER_MAX);
        let provider = record.provider;
        if let Err(error) = kad::store::RecordStore::add_provider(
            self.swarm.behaviour_mut().kad.store_mut(),
            record,
        ) {
            tracing::debug!(%provider, %error, "provider record refused");
        }
    }

    fn hold_record(&mut self, hash: &Hash) {
        let local = *self.swarm.local_peer_id();
        let record = ProviderRecord::new(record_key(hash), local, Vec::new());
        // Not refused: the announcer has the same bound as the records.
        kad::store::RecordStore::add_provider(self.swarm.behaviour_mut().kad.store_mut(), record)
            .ok();
    }
}

fn record_key(hash: &Hash) -> RecordKey {
    RecordKey::new(hash.as_bytes())
}
