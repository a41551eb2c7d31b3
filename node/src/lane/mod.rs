//! Lanes: connections for bulk bytes beside the control connection (SPEC.md, "Lanes").
//!
//! libp2p's Noise and yamux cost four times the processor time of TLS with AES straight on TCP. So the
//! groups of large blobs travel over lanes: [`Lanes`] makes the provider's offers and takes what is
//! dialled ([`listen`]), [`serve`] answers requests, and [`fetch`] asks for ranges over one or several
//! lanes at once. Whatever fails here, the blob stream of the swarm still works: callers fall back to it.
//!
//! Lanes block, each on a thread of the runtime's pool for blocking work, but for the requester's end of those on which
//! one small blob after another is asked for ([`quick`]). Their number, their memory and
//! their waits have bounds here; whether a peer is served at all is the engine's decision.
//!
//! **Invariants.** No byte of a blob leaves or enters a lane before both keys are proven and a token was
//! shown that this node gave the peer over its control connection. A token opens one lane. What a lane
//! hands on was checked group by group on the lane's own thread.

mod accepted;
mod buffers;
mod dialled;
mod fetch;
mod listen;
mod packs;
mod quick;
mod receive;
mod records;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod wait;
mod warm;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::lane::{LaneOffer, LaneToken};
use tokio::sync::Semaphore;

pub(crate) use fetch::{Door, LaneEnd, Work};
pub(crate) use packs::PackLane;
pub(crate) use quick::{QuickLane, QuickReader, QuickWriter};
pub(crate) use receive::Run;
pub(crate) use serve::{Admission, Slot};
pub(crate) use warm::WarmLane;

use self::buffers::Buffers;
use self::tls::Tls;
use self::tokens::Tokens;
use self::warm::{WARM_FOR, Warm};
use crate::identity::Identity;
use crate::transfer::UploadRate;

/// How many lanes one peer may have to this node: as many as blobs are served to it at once.
const OF_PEER_MAX: usize = 16;
/// How many lanes all peers may have to this node. Each costs a thread and about 300 KiB, and 1.3 MiB more while it answers
/// with a medium blob.
const ACCEPTED_MAX: usize = 64;
/// How many connections may be between their first packet and their token.
const PENDING_MAX: usize = 32;
/// How many fetches use lanes at once; more go over blob streams. Each costs three threads, and 300 KiB
/// for each lane beside the common buffers.
const FETCHES_MAX: usize = 32;
/// How many neighbours have a quick lane at once; others are asked on streams. Each costs a socket and some 130 KiB.
const QUICK_MAX: usize = 16;
/// How many lanes one fetch opens at most: one thread decrypts and checks while another does the same.
const OF_FETCH_MAX: usize = 2;
/// How long a peer's lanes are not tried again when none could be opened.
const AVOIDED_FOR: Duration = Duration::from_secs(60);
/// How many peers are remembered whose lanes failed; beyond it all are tried again.
const AVOIDED_MAX: usize = 1_024;

/// Configures lanes.
#[derive(Clone, Debug)]
pub(crate) struct LaneConfig {
    /// From how many wanted bytes on a lane is offered.
    pub(crate) bytes_min: u64,
    /// The bound of the buffers of all lanes together in bytes.
    pub(crate) buffer_bytes_max: usize,
    /// What is served is bound by this, over blob streams too.
    pub(crate) upload: UploadRate,
}

/// Is a node's part in lanes. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Lanes(Arc<Shared>);

/// Closes the lanes that serve when it is dropped.
#[derive(Debug)]
pub(crate) struct OpenLanes(pub(crate) Lanes);

impl Drop for OpenLanes {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Debug)]
struct Shared {
    config: LaneConfig,
    tls: Tls,
    tokens: Arc<Mutex<Tokens>>,
    buffers: Buffers,
    /// Those that serve; none of a node that does not listen.
    accepted: Mutex<Accepted>,
    port: Option<u16>,
    pending: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    quick: Arc<Semaphore>,
    avoided: Mutex<HashMap<PeerId, Instant>>,
    warm: Mutex<Warm>,
    /// Set while somebody looks after the warm lanes.
    is_kept: AtomicBool,
}

#[derive(Debug, Default)]
struct Accepted {
    next: u64,
    /// The lanes that are open, by number: whose they are, once a token has said it, and how they are
    /// stopped.
    lanes: HashMap<u64, (Option<PeerId>, Arc<AtomicBool>)>,
    /// Set when the node stops: no more lanes are taken.
    closed: bool,
}

impl Accepted {
    /// Returns how many more lanes a peer may have.
    fn room(&self, peer: PeerId) -> usize {
        let open = self.lanes.values().filter(|(of, _)| of.is_some()).count();
        let of_peer = self.lanes.values().filter(|(of, _)| *of == Some(peer)).count();
        OF_PEER_MAX.saturating_sub(of_peer).min(ACCEPTED_MAX.saturating_sub(open))
    }
}

impl Lanes {
    /// Makes lanes that are offered at `port`, where somebody [listens](Self::accept); without a port
    /// none are offered, and those of others are still dialled.
    ///
    /// # Errors
    /// When the identity makes no key for TLS.
    pub(crate) fn new(
        identity: &Identity,
        config: LaneConfig,
        port: Option<u16>,
    ) -> Result<Self, rustls::Error> {
        let tokens = Arc::new(Mutex::new(Tokens::default()));
        let known = Arc::clone(&tokens);
        let tls = Tls::new(identity, move |peer| lock(&known).expects(peer, Instant::now()))?;
        Ok(Self(Arc::new(Shared {
            buffers: Buffers::new(config.buffer_bytes_max),
            config,
            tls,
            tokens,
            accepted: Mutex::default(),
            port,
            pending: Arc::new(Semaphore::new(PENDING_MAX)),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            quick: Arc::new(Semaphore::new(QUICK_MAX)),
            avoided: Mutex::default(),
            warm: Mutex::default(),
            is_kept: AtomicBool::new(false),
        })))
    }

    /// Makes an offer for a peer that wants so many bytes; none where a lane is not worth it, or cannot
    /// be had.
    pub(crate) fn offer(&self, peer: PeerId, bytes: u64) -> Option<LaneOffer> {
        let shared = &self.0;
        let port = shared.port.filter(|_| bytes >= shared.config.bytes_min)?;
        let room = lock(&shared.accepted).room(peer);
        let mut tokens = Vec::new();
        for _ in 0..room.min(OF_FETCH_MAX) {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).ok()?;
            let token = LaneToken::from_bytes(bytes);
            if lock(&shared.tokens).put_out(peer, token, Instant::now()) {
                tokens.push(token);
            }
        }
        Some(LaneOffer { port, tokens }).filter(LaneOffer::is_valid)
    }

    /// Makes an offer for a peer's small requests, as long as half of all lanes are left to long blobs.
    pub(crate) fn offer_small(&self, peer: PeerId) -> Option<LaneOffer> {
        let open = lock(&self.0.accepted).lanes.len();
        if open < ACCEPTED_MAX / 2 { self.offer(peer, u64::MAX) } else { None }
    }

    /// Returns the bound of what is served.
    pub(crate) fn upload(&self) -> &UploadRate {
        &self.0.config.upload
    }

    /// Returns whether this node would take an offer of the peer's now.
    pub(crate) fn takes(&self, peer: PeerId) -> bool {
        let shared = &self.0;
        let is_avoided =
            lock(&shared.avoided).get(&peer).is_some_and(|until| Instant::now() < *until);
        !is_avoided && shared.fetches.available_permits() > 0
    }

    /// Takes a lane to a peer that is open and asks for nothing.
    pub(crate) fn warm(&self, peer: PeerId) -> Option<WarmLane> {
        lock(&self.0.warm).take(&peer, Instant::now())
    }

    /// Keeps a lane for the next range. Must be called within the runtime.
    fn keep(&self, peer: PeerId, lane: WarmLane) {
        lock(&self.0.warm).put(peer, lane, Instant::now());
        if self.0.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::downgrade(&self.0);
        // It ends with the last warm lane, or the node.
        drop(tokio::spawn(async move {
            loop {
                tokio::time::sleep(WARM_FOR / 2).await;
                let Some(shared) = shared.upgrade() else { return };
                let mut warm = lock(&shared.warm);
                if !warm.expire(Instant::now()) {
                    shared.is_kept.store(false, Ordering::Relaxed);
                    return;
                }
            }
        }));
    }

    /// Notes that a peer's lanes failed, so that the next fetches do without them.
    fn avoid(&self, peer: PeerId) {
        let mut avoided = lock(&self.0.avoided);
        let now = Instant::now();
        avoided.retain(|_, until| now < *until);
        if avoided.len() < AVOIDED_MAX {
            avoided.insert(peer, now + AVOIDED_FOR);
        }
    }

    /// Ends all lanes of a peer and takes its tokens back.
    pub(crate) fn drop_peer(&self, peer: PeerId) {
        lock(&self.0.tokens).revoke(&peer);
        lock(&self.0.warm).drop_peer(&peer);
        let accepted = lock(&self.0.accepted);
        let of_peer = accepted.lanes.values().filter(|(of, _)| *of == Some(peer));
        of_peer.for_each(|(_, stop)| stop.store(true, Ordering::Relaxed));
    }

    /// Ends all lanes that serve, and takes no more. Their threads end within a moment.
    fn close(&self) {
        lock(&self.0.warm).clear();
        let mut accepted = lock(&self.0.accepted);
        accepted.closed = true;
        accepted.lanes.values().for_each(|(_, stop)| stop.store(true, Ordering::Relaxed));
    }
}

/// Binds the listeners of lanes: one for each address, all on the same port, because an offer names one.
///
/// An address on which that port is taken goes without lanes, the first one excepted.
///
/// # Errors
/// When the first address cannot be listened on.
pub(crate) fn bind(
    addresses: &[IpAddr],
    port: u16,
) -> std::io::Result<(Vec<tokio::net::TcpListener>, Option<u16>)> {
    let mut listeners = Vec::new();
    let mut bound = None;
    for address in addresses {
        let socket = SocketAddr::new(*address, bound.unwrap_or(port));
        let listener = std::net::TcpListener::bind(socket).and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        match listener {
            Ok(listener) => {
                bound = Some(listener.local_addr()?.port());
                listeners.push(listener);
            }
            Err(error) if bound.is_none() => return Err(error),
            Err(error) => tracing::warn!(%error, %address, "no lanes at this address"),
        }
    }
    Ok((listeners, bound))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
