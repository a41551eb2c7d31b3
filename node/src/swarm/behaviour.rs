//! The libp2p protocols a node speaks, with every default that does not fit a LAN changed.
//!
//! There are four parts and no more: connection limits, our own streams, identify and Kademlia.
//! Gossipsub, relay, rendezvous, autonat, dcutr and upnp stay out.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::{InvalidProtocol, NetworkBehaviour};
use libp2p::{StreamProtocol, identify, kad};

use super::records::{self, Records};
use super::streams::{self, Protocols};
use crate::mesh::MeshKey;

/// How many connections may be in the middle of their inbound handshake.
const PENDING_IN_MAX: u32 = 32;
/// How many dials may run.
const PENDING_OUT_MAX: u32 = 64;
/// How many connections there may be.
pub(super) const ESTABLISHED_MAX: u32 = 256;
/// How many connections there may be with one peer; two at once are common when both ends dial.
const ESTABLISHED_PER_PEER_MAX: u32 = 4;

/// How many peers a record is put to, and how many a bucket of the routing table holds.
pub(super) const REPLICATION: NonZeroUsize = kad::K_VALUE;
/// How long a search or an announcement may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one peer may take to answer one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of five minutes cost 50 idle nodes 20 MB each time.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(60 * 60);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // First, so that nothing else hears of a connection that is over a limit.
    limits: connection_limits::Behaviour,
    pub(super) streams: streams::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) kad: kad::Behaviour<Records>,
}

impl Behaviour {
    pub(super) fn new(keypair: &Keypair, mesh: &MeshKey) -> Result<Self, InvalidProtocol> {
        let protocols = Protocols { control: named(mesh, "control")?, blob: named(mesh, "blob")? };
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits()),
            streams: streams::Behaviour::new(protocols),
            identify: identify::Behaviour::new(identify_config(keypair, mesh)),
            kad: kademlia(keypair, named(mesh, "kad")?),
        })
    }
}

fn named(mesh: &MeshKey, name: &str) -> Result<StreamProtocol, InvalidProtocol> {
    StreamProtocol::try_from_owned(mesh.protocol(name))
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_IN_MAX))
        .with_max_pending_outgoing(Some(PENDING_OUT_MAX))
        .with_max_established(Some(ESTABLISHED_MAX))
        .with_max_established_per_peer(Some(ESTABLISHED_PER_PEER_MAX))
}

/// Listen addresses stay hidden: peers are told those the actor chose, as external addresses.
fn identify_config(keypair: &Keypair, mesh: &MeshKey) -> identify::Config {
    identify::Config::new(mesh.protocol("node"), keypair.public())
        .with_agent_version("blobmesh".to_owned())
        .with_hide_listen_addrs(true)
        .with_push_listen_addr_updates(true)
        .with_cache_size(0)
}

fn kademlia(keypair: &Keypair, protocol: StreamProtocol) -> kad::Behaviour<Records> {
    let local = keypair.public().to_peer_id();
    let mut config = kad::Config::new(protocol);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(REQUEST_TIMEOUT)
        .set_replication_factor(REPLICATION)
        // Only peers whose addresses were looked at get into the table.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // Records are looked at before they are stored, and values never are.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(records::RECORD_TTL))
        // The announcer renews records one by one; libp2p would do all at once.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL));
    let records = Records::new(local, records::Limits::default(), Instant::now());
    let mut kademlia = kad::Behaviour::with_config(local, records, config);
    // A node without a confirmed public address, as all are on a LAN, would stay a client for ever.
    kademlia.set_mode(Some(kad::Mode::Server));
    kademlia
}
