//! The bounds and delays of the engine, each with its name.

use std::time::Duration;

/// Configures an [`Engine`](crate::engine::Engine).
///
/// Every map, queue and wait that a peer could grow has its bound here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Neighbours that gossip with us at once; of more, a quarter are those who came first, and the others those of the
    /// most weight for us. Each costs its filter in memory, at most 2 MiB and usually 10 bits a blob. Default 64.
    pub neighbours_max: usize,
    /// Hashes being resolved at once; a get beyond it fails as busy. Also the looks into the store for
    /// neighbours' questions, which are answered with busy beyond it. Default 1,024.
    pub resolutions_max: usize,
    /// Gets that wait for one hash; more fail as busy. Default 256.
    pub wants_per_hash_max: usize,
    /// Questions out at once for one hash. More find a holder sooner among lying filters and cost
    /// more messages. Default 8.
    pub asks_parallel_max: usize,
    /// Questions out at once at one neighbour; more wait for its answers. Default 64.
    pub asks_per_neighbour_max: usize,
    /// Small requests out at one neighbour at once; more wait for its answers. Each may bring a group, so
    /// this is up to 32 MiB for a neighbour; all together are bounded by `resolutions_max`. As many blobs of 10 KiB as
    /// are on their way while one side compresses and the other stores, over 1 Gbit/s. None makes every
    /// blob be asked for first and fetched then. Default 512.
    pub small_per_peer_max: usize,
    /// How long a neighbour gets no small requests after one of them failed or stalled: it is asked first,
    /// and blobs are fetched from it one by one. Default 60 s.
    pub small_rest: Duration,
    /// Fetches from one peer at once; more wait for those to end. Default 16, as many as a peer of the
    /// same configuration serves.
    pub fetches_per_peer_max: usize,
    /// Fetches at once for one hash, from all sources together. Each is a request of its own with a
    /// buffer of a few groups. Default 32.
    pub fetches_per_hash_max: usize,
    /// The length in bytes from which a blob is fetched in pieces from several peers at once. Below it
    /// the word that goes to all neighbours costs more than the pieces save. Default 4 MiB.
    pub swarm_bytes_min: u64,
    /// Peers that one hash is fetched from, and told of what is held of it. Each costs a bit for every
    /// MiB of the blob, and a message of a few bytes for every block that comes. Default 16.
    pub partners_max: usize,
    /// Whether a lone holder of a long blob is asked for all of it at once, as long as nobody else has or
    /// fetches it: one request costs less than many. Default true.
    pub asks_one_for_all: bool,
    /// Whether neighbours are told of the groups of a blob that is being fetched, and so may fetch them
    /// from here. Default true.
    pub shares_parts: bool,
    /// How long a peer may take to answer a question. Default 1 s.
    pub ask_timeout: Duration,
    /// How long the edge waits for the LAN before anything is known of the LAN's speed. Default 50 ms.
    pub hedge_initial: Duration,
    /// The least the edge waits for the LAN, and how long it does where there are no neighbours. Default 10 ms.
    pub hedge_min: Duration,
    /// The most the edge waits for the LAN. Default 500 ms.
    pub hedge_max: Duration,
    /// How long the edge waits from the start of a node that still looks for its neighbours. mDNS shows those
    /// that are there within about 50 ms, and a handshake takes 10. Default 100 ms.
    pub hedge_unsettled: Duration,
    /// How long a chosen source may take to its first verified group before the next holder and the
    /// edge are started beside it. Default 100 ms.
    pub first_group_hedge: Duration,
    /// How long a source may give no verified byte before it is dropped. Default 3 s.
    pub stall_timeout: Duration,
    /// Attempts at one source for one hash, where the failures may pass. Default 3.
    pub attempts_max: u32,
    /// How long a source may be nothing but busy before it is given up for a hash. Default 60 s.
    pub busy_patience: Duration,
    /// The first delay before an attempt is repeated; doubles, with full jitter, so any delay between
    /// none and this is drawn. Default 100 ms.
    pub backoff_initial: Duration,
    /// The longest delay before an attempt is repeated, also where a source asks for a longer one.
    /// Default 10 s.
    pub backoff_max: Duration,
    /// Whether the DHT is searched for providers. Default true.
    pub provider_search: bool,
    /// How long a provider search may take. Default 10 s.
    pub provider_search_timeout: Duration,
    /// Providers taken from one search; the rest are ignored. Default 16.
    pub providers_max: usize,
    /// Whether there is an edge. Default false.
    pub edge: bool,
    /// The length in bytes of the ranges that a long blob is asked of the edge in. Longer ones are fewer paid
    /// requests; shorter ones divide evenly among more nodes. At least a group. Default 4 MiB.
    pub edge_range_bytes: u64,
    /// Ranges that one node asks the edge for at once, where no neighbour fetches the same blob and each comes so
    /// quickly that its connection would be idle; else two. Where each is a connection of its own, two at most. Default 4.
    pub edge_ranges_max: usize,
    /// How long a node that is about to ask the edge listens at most for neighbours that do already; from
    /// half of it on, so that those who begin together do not ask together. Default 10 ms.
    pub edge_pause: Duration,
    /// How long a neighbour's claim to bring something from the edge holds without a word, at first. Told again in
    /// half of that time. Default 2 s.
    pub claim_ttl: Duration,
    /// How long a claim holds whose ranges do not come, at first, before anything is known of the edge's speed.
    /// Default 3 s.
    pub claim_patience: Duration,
    /// The largest blob in bytes; a claim above it is not believed. Default 64 GiB.
    pub blob_bytes_max: u64,
    /// The time between two filter deltas while many blobs come in. Default 100 ms.
    pub gossip_interval: Duration,
    /// How long a get that neighbours' filters rule out waits for word of what they added a moment before, until it says
    /// that nobody has the blob; the edge does not wait for it. Longer than `gossip_interval`. Default 150 ms.
    pub word_time: Duration,
    /// Filter deltas that may go out at once, before the interval counts; one comes back each
    /// interval. Default 16.
    pub gossip_burst: u32,
    /// How often one neighbour gets the whole filter for the asking. Default 1 s.
    pub filter_interval: Duration,
    /// How long a neighbour may take to greet. Default 10 s.
    pub hello_timeout: Duration,
    /// How often neighbours are told that our filter still stands. Default 60 s.
    pub filter_refresh: Duration,
    /// How long a neighbour's filter counts as fresh without a word. Default 150 s.
    pub filter_ttl: Duration,
    /// Questions after which a filter's measured error is judged. Default 20.
    pub filter_judged_after: u32,
    /// How long a peer whose filter lied is asked last on the word of its filter. Default 10 min.
    pub filter_ignored_for: Duration,
    /// How long a peer that sent wrong bytes is not spoken to. Default 1 h.
    pub ban: Duration,
    /// Banned peers remembered; the oldest is forgotten first. Default 1,024.
    pub bans_max: usize,
    /// Whether blobs added and pinned here are advertised in the DHT. Default true.
    pub adverts: bool,
    /// Blobs advertised at once; more are left to the filters. One costs the whole mesh about 43
    /// requests and 69 KB a time. Default 1,000.
    pub adverts_max: usize,
    /// Adverts a second over time. Default 2.
    pub adverts_per_s: u32,
    /// Adverts that may go out in one burst. Default 32.
    pub adverts_burst: u32,
    /// How often an advert is repeated. Must be below the lifetime of provider records.
    /// Default 30 min.
    pub advert_interval: Duration,
    /// Blobs served at once, to all peers. Each holds one buffer of a few groups. Default 64.
    pub serves_max: usize,
    /// Blobs served at once to one peer. Default 16.
    pub serves_per_peer_max: usize,
    /// When a peer that was turned away should come again. Default 200 ms.
    pub busy_retry_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            neighbours_max: 64,
            resolutions_max: 1_024,
            wants_per_hash_max: 256,
            asks_parallel_max: 8,
            asks_per_neighbour_max: 64,
            small_per_peer_max: 512,
            small_rest: Duration::from_secs(60),
            fetches_per_peer_max: 16,
            fetches_per_hash_max: 32,
            swarm_bytes_min: 4 << 20,
            partners_max: 16,
            asks_one_for_all: true,
            shares_parts: true,
            ask_timeout: Duration::from_secs(1),
            hedge_initial: Duration::from_millis(50),
            hedge_min: Duration::from_millis(10),
            hedge_max: Duration::from_millis(500),
            hedge_unsettled: Duration::from_millis(100),
            first_group_hedge: Duration::from_millis(100),
            stall_timeout: Duration::from_secs(3),
            attempts_max: 3,
            busy_patience: Duration::from_secs(60),
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            provider_search: true,
            provider_search_timeout: Duration::from_secs(10),
            providers_max: 16,
            edge: false,
            edge_range_bytes: 4 << 20,
            edge_ranges_max: 4,
            edge_pause: Duration::from_millis(10),
            claim_ttl: Duration::from_secs(2),
            claim_patience: Duration::from_secs(3),
            blob_bytes_max: 64 << 30,
            gossip_interval: Duration::from_millis(100),
            word_time: Duration::from_millis(150),
            gossip_burst: 16,
            filter_interval: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(10),
            filter_refresh: Duration::from_secs(60),
            filter_ttl: Duration::from_secs(150),
            filter_judged_after: 20,
            filter_ignored_for: Duration::from_secs(600),
            ban: Duration::from_secs(3_600),
            bans_max: 1_024,
            adverts: true,
            adverts_max: 1_000,
            adverts_per_s: 2,
            adverts_burst: 32,
            advert_interval: Duration::from_secs(1_800),
            serves_max: 64,
            serves_per_peer_max: 16,
            busy_retry_after: Duration::from_millis(200),
        }
    }
}
