//! Provider records of the DHT: who says to have which blob.
//!
//! libp2p's own `MemoryStore` keeps 3,040 bytes for each key and refuses all keys after the first 1,024,
//! remote ones included. Here a record is eight bytes and a peer's addresses are kept once, whatever it
//! provides: 50,000 keys of one provider each take about 4 MB. Every bound counts remote and local
//! records apart, so that no peer can keep this node from advertising.
//!
//! Value records are refused: the mesh has no use for them. A record is a hint and never trusted.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, hash_map};
use std::iter;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::multiaddr::Multiaddr;

/// How long a provider record lives unless its provider renews it.
pub(super) const RECORD_TTL: Duration = Duration::from_secs(60 * 60);
/// How many addresses of a provider are kept.
pub(super) const ADDRESSES_PER_PROVIDER_MAX: usize = 4;

const KEY_BYTES: usize = 32;
type Key = [u8; KEY_BYTES];

/// Bounds the records; a record over a bound is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Keys with records of other peers.
    pub(super) remote_keys_max: usize,
    /// Records of other peers for one key.
    pub(super) providers_per_key_max: usize,
    /// Records of one other peer.
    pub(super) records_per_peer_max: u32,
    /// Keys that this node provides itself.
    pub(super) local_keys_max: usize,
    /// The least time between two searches for expired records, which visit every key.
    pub(super) sweep_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            remote_keys_max: 50_000,
            providers_per_key_max: 16,
            records_per_peer_max: 2_000,
            local_keys_max: 1_024,
            sweep_interval: Duration::from_secs(60),
        }
    }
}

/// Holds the provider records of this node and those that other peers left with it.
#[derive(Debug)]
pub(super) struct Records {
    local: PeerId,
    limits: Limits,
    /// Expiries count seconds from here, so that four bytes are enough for 136 years.
    epoch: Instant,
    swept: Instant,
    local_keys: HashSet<RecordKey>,
    remote_keys: HashMap<Key, Vec<Entry>>,
    providers: Providers,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    provider: u32,
    expires: u32,
}

impl Records {
    pub(super) fn new(local: PeerId, limits: Limits, now: Instant) -> Self {
        Self {
            local,
            limits,
            epoch: now,
            swept: now,
            local_keys: HashSet::new(),
            remote_keys: HashMap::new(),
            providers: Providers::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn remote_keys(&self) -> usize {
        self.remote_keys.len()
    }

    /// Adds a record as of `now`, after dropping the expired ones where it is time to.
    pub(super) fn add(&mut self, record: ProviderRecord, now: Instant) -> Result<()> {
        if record.provider == self.local {
            return self.add_local(record.key);
        }
        if now.duration_since(self.swept) >= self.limits.sweep_interval {
            self.sweep(now);
        }
        self.add_remote(record, now)
    }

    fn add_local(&mut self, key: RecordKey) -> Result<()> {
        if self.local_keys.len() >= self.limits.local_keys_max && !self.local_keys.contains(&key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.local_keys.insert(key);
        Ok(())
    }

    fn add_remote(&mut self, record: ProviderRecord, now: Instant) -> Result<()> {
        let Some(key) = to_key(&record.key) else { return Err(Error::ValueTooLarge) };
        let expires = self.seconds(record.expires.unwrap_or(now + RECORD_TTL));
        let known = self.providers.index.get(&record.provider).copied();
        if self.remote_keys.len() >= self.limits.remote_keys_max
            && !self.remote_keys.contains_key(&key)
        {
            return Err(Error::MaxProvidedKeys);
        }
        let entries = self.remote_keys.entry(key).or_default();
        if let Some(entry) = entries.iter_mut().find(|entry| Some(entry.provider) == known) {
            entry.expires = expires;
            let provider = entry.provider;
            self.providers.set_addresses(provider, record.addresses);
            return Ok(());
        }
        let held = known.map_or(0, |provider| self.providers.records_of(provider));
        if entries.len() >= self.limits.providers_per_key_max
            || held >= self.limits.records_per_peer_max
        {
            if entries.is_empty() {
                self.remote_keys.remove(&key);
            }
            return Err(Error::MaxProvidedKeys);
        }
        let provider = self.providers.retain_one(record.provider);
        self.providers.set_addresses(provider, record.addresses);
        entries.push(Entry { provider, expires });
        Ok(())
    }

    fn providers_at(&self, key: &RecordKey, now: Instant) -> Vec<ProviderRecord> {
        let now = self.seconds(now);
        let own = self.local_keys.get(key).map(|key| own_record(key, self.local));
        let entries = to_key(key).and_then(|key| self.remote_keys.get(&key));
        let others = entries.into_iter().flatten().filter(|entry| entry.expires > now);
        let others = others.filter_map(|entry| {
            let provider = self.providers.slots.get(entry.provider as usize)?;
            Some(ProviderRecord {
                key: key.clone(),
                provider: provider.peer,
                expires: Some(self.epoch + Duration::from_secs(u64::from(entry.expires))),
                addresses: provider.addresses.clone(),
            })
        });
        own.into_iter().chain(others).collect()
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let (now, providers) = (self.seconds(now), &mut self.providers);
        self.remote_keys.retain(|_, entries| {
            entries.retain(|entry| {
                let live = entry.expires > now;
                if !live {
                    providers.release_one(entry.provider);
                }
                live
            });
            !entries.is_empty()
        });
    }

    fn remove_remote(&mut self, key: &RecordKey, peer: &PeerId) {
        let Some(key) = to_key(key) else { return };
        let Some(&provider) = self.providers.index.get(peer) else { return };
        let hash_map::Entry::Occupied(mut place) = self.remote_keys.entry(key) else { return };
        let entries = place.get_mut();
        if let Some(position) = entries.iter().position(|entry| entry.provider == provider) {
            entries.swap_remove(position);
            self.providers.release_one(provider);
        }
        if entries.is_empty() {
            place.remove();
        }
    }

    /// Rounds up, so that a record lives at least as long as it is meant to.
    fn seconds(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.epoch);
        u32::try_from(since.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _key: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _record: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _key: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        self.add(record, Instant::now())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.providers_at(key, Instant::now())
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let records: Vec<_> =
            self.local_keys.iter().map(|key| Cow::Owned(own_record(key, self.local))).collect();
        records.into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.local_keys.remove(key);
        } else {
            self.remove_remote(key, peer);
        }
    }
}

/// Keeps each provider once and counts its records; a slot is free when there are none.
#[derive(Debug, Default)]
struct Providers {
    slots: Vec<Provider>,
    free: Vec<u32>,
    index: HashMap<PeerId, u32>,
}

#[derive(Debug)]
struct Provider {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    records: u32,
}

impl Providers {
    fn records_of(&self, provider: u32) -> u32 {
        self.slots.get(provider as usize).map_or(0, |slot| slot.records)
    }

    /// Counts one record more of a peer and returns its slot.
    fn retain_one(&mut self, peer: PeerId) -> u32 {
        if let Some(&known) = self.index.get(&peer) {
            if let Some(slot) = self.slots.get_mut(known as usize) {
                slot.records += 1;
            }
            return known;
        }
        let fresh = Provider { peer, addresses: Vec::new(), records: 1 };
        if let Some(free) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(free as usize)
        {
            *slot = fresh;
            self.index.insert(peer, free);
            return free;
        }
        self.slots.push(fresh);
        // Slots are at most the records, and those are bounded far below.
        let place = u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX);
        self.index.insert(peer, place);
        place
    }

    /// Counts one record less and frees the slot of a peer without records.
    fn release_one(&mut self, provider: u32) {
        let Some(slot) = self.slots.get_mut(provider as usize) else { return };
        slot.records = slot.records.saturating_sub(1);
        if slot.records == 0 {
            slot.addresses = Vec::new();
            self.index.remove(&slot.peer);
            self.free.push(provider);
        }
    }

    fn set_addresses(&mut self, provider: u32, mut addresses: Vec<Multiaddr>) {
        let Some(slot) = self.slots.get_mut(provider as usize) else { return };
        addresses.truncate(ADDRESSES_PER_PROVIDER_MAX);
        addresses.shrink_to_fit();
        slot.addresses = addresses;
    }
}

/// Our own records carry no addresses: libp2p fills in those of the moment.
fn own_record(key: &RecordKey, local: PeerId) -> ProviderRecord {
    ProviderRecord { key: key.clone(), provider: local, expires: None, addresses: Vec::new() }
}

/// Keys of the mesh are hashes; anything else is refused.
fn to_key(key: &RecordKey) -> Option<Key> {
    key.as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        remote_keys_max: 3,
        providers_per_key_max: 2,
        records_per_peer_max: 2,
        local_keys_max: 2,
        sweep_interval: Duration::from_secs(60),
    };

    struct Bench {
        records: Records,
        start: Instant,
    }

    fn bench(limits: Limits) -> Bench {
        let start = Instant::now();
        Bench { records: Records::new(PeerId::random(), limits, start), start }
    }

    fn key(number: usize) -> RecordKey {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        RecordKey::new(&bytes)
    }

    impl Bench {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn add(&mut self, number: usize, provider: PeerId, seconds: u64) -> Result<()> {
            let now = self.at(seconds);
            let record = ProviderRecord {
                key: key(number),
                provider,
                expires: Some(now + RECORD_TTL),
                addresses: vec![Multiaddr::empty()],
            };
            self.records.add(record, now)
        }

        fn providers(&self, number: usize, seconds: u64) -> Vec<PeerId> {
            let found = self.records.providers_at(&key(number), self.at(seconds));
            found.into_iter().map(|record| record.provider).collect()
        }

        /// Checks that what is counted is what is there.
        fn check(&self) {
            let mut counts: HashMap<u32, u32> = HashMap::new();
            for entries in self.records.remote_keys.values() {
                assert!(!entries.is_empty());
                entries.iter().for_each(|entry| *counts.entry(entry.provider).or_default() += 1);
            }
            let providers = &self.records.providers;
            assert_eq!(providers.index.len(), counts.len());
            assert_eq!(providers.slots.len(), counts.len() + providers.free.len());
            for (peer, place) in &providers.index {
                let slot = &providers.slots[*place as usize];
                assert_eq!((slot.peer, slot.records), (*peer, counts[place]));
            }
        }
    }

    #[test]
    fn a_record_is_found_until_it_expires() {
        let mut bench = bench(Limits::default());
        let peer = PeerId::random();
        bench.add(1, peer, 0).unwrap();
        assert_eq!(bench.providers(1, 0), [peer]);
        assert!(bench.providers(2, 0).is_empty());
        let found = bench.records.providers_at(&key(1), bench.at(0));
        assert_eq!(found[0].addresses.len(), 1);
        assert!(found[0].expires >= Some(bench.at(3_600)));
        assert_eq!(bench.providers(1, 3_599), [peer]);
        assert!(bench.providers(1, 3_600).is_empty());
    }

    #[test]
    fn renewing_a_record_prolongs_it_and_costs_no_second_place() {
        let mut bench = bench(SMALL);
        let peer = PeerId::random();
        for seconds in [0, 1_000, 3_000] {
            bench.add(1, peer, seconds).unwrap();
            bench.check();
        }
        assert_eq!(bench.providers(1, 6_599), [peer]);
        bench.add(2, peer, 3_000).unwrap();
        bench.check();
    }

    #[test]
    fn remote_bounds_hold_and_leave_local_keys_alone() {
        let mut bench = bench(SMALL);
        let peers: Vec<_> = (0..6).map(|_| PeerId::random()).collect();
        bench.add(1, peers[0], 0).unwrap();
        bench.add(2, peers[0], 0).unwrap();
        assert!(bench.add(3, peers[0], 0).is_err(), "a peer has two records at most");
        assert!(bench.providers(3, 0).is_empty());
        bench.add(1, peers[1], 0).unwrap();
        assert!(bench.add(1, peers[2], 0).is_err(), "a key has two providers at most");
        bench.add(3, peers[3], 0).unwrap();
        assert!(bench.add(4, peers[4], 0).is_err(), "there are three keys at most");
        bench.add(1, peers[0], 1).unwrap();
        bench.check();
        let local = bench.records.local;
        for number in [7, 8] {
            bench.add(number, local, 0).unwrap();
        }
        assert!(bench.add(9, local, 0).is_err(), "there are two local keys at most");
        bench.add(7, local, 0).unwrap();
        assert_eq!(bench.providers(7, 1 << 20), [local], "own records do not expire");
        bench.records.remove_provider(&key(7), &local);
        bench.add(9, local, 0).unwrap();
        assert_eq!(bench.records.provided().count(), 2);
    }

    #[test]
    fn expired_records_make_place_for_new_ones() {
        let mut bench = bench(SMALL);
        for number in 0..3 {
            bench.add(number, PeerId::random(), 0).unwrap();
        }
        let late = PeerId::random();
        assert!(bench.add(9, late, 3_599).is_err());
        bench.add(9, late, 3_660).unwrap();
        bench.check();
        assert_eq!(bench.records.remote_keys.len(), 1);
        assert_eq!(bench.records.providers.free.len(), 2, "one of three slots is in use again");
    }

    #[test]
    fn sweeps_are_rare_however_many_records_come() {
        let mut bench = bench(SMALL);
        let peer = PeerId::random();
        bench.add(1, peer, 0).unwrap();
        bench.add(1, peer, 59).unwrap();
        assert_eq!(bench.records.swept, bench.start);
        bench.add(1, peer, 60).unwrap();
        assert_eq!(bench.records.swept, bench.at(60));
        bench.add(1, peer, 61).unwrap();
        assert_eq!(bench.records.swept, bench.at(60));
    }

    #[test]
    fn removed_records_free_their_provider() {
        let mut bench = bench(SMALL);
        let (one, two) = (PeerId::random(), PeerId::random());
        bench.add(1, one, 0).unwrap();
        bench.add(1, two, 0).unwrap();
        bench.records.remove_provider(&key(1), &one);
        bench.check();
        assert_eq!(bench.providers(1, 0), [two]);
        bench.records.remove_provider(&key(1), &one);
        bench.records.remove_provider(&key(2), &two);
        bench.records.remove_provider(&key(1), &two);
        bench.check();
        assert!(bench.records.remote_keys.is_empty() && bench.records.providers.index.is_empty());
        bench.add(2, one, 0).unwrap();
        bench.check();
        assert_eq!(bench.providers(2, 0), [one]);
    }

    #[test]
    fn keys_that_are_no_hashes_and_values_are_refused() {
        let mut bench = bench(Limits::default());
        for len in [0, 31, 33, 64] {
            let record =
                ProviderRecord::new(RecordKey::new(&vec![1; len]), PeerId::random(), Vec::new());
            assert!(bench.records.add_provider(record).is_err(), "{len}");
        }
        let value = Record::new(key(1), vec![1]);
        assert!(bench.records.put(value).is_err());
        assert!(bench.records.get(&key(1)).is_none());
    }

    #[test]
    fn a_provider_leaves_few_addresses() {
        let mut bench = bench(Limits::default());
        let addresses = (1..=100).map(|port| format!("/ip4/192.0.2.7/tcp/{port}").parse().unwrap());
        let record = ProviderRecord::new(key(1), PeerId::random(), addresses.collect());
        bench.records.add_provider(record).unwrap();
        let found = bench.records.providers(&key(1));
        assert_eq!(found[0].addresses.len(), ADDRESSES_PER_PROVIDER_MAX);
    }

    #[test]
    fn the_default_bounds_are_the_documented_ones() {
        let mut bench = bench(Limits::default());
        let peers: Vec<_> = (0..26).map(|_| PeerId::random()).collect();
        for number in 0..50_000 {
            bench.add(number, peers[number / 2_000], 0).unwrap();
        }
        assert!(bench.add(50_000, peers[25], 0).is_err());
        assert!(bench.add(49_999, peers[0], 0).is_err(), "its 2,000 records are used up");
        bench.add(49_999, peers[25], 0).unwrap();
        bench.check();
    }
}
