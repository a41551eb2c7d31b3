//! A node from outside: started, asked, stopped.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use blobmesh_protocol::{Config, Hash};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::compute;
use crate::config::NodeConfig;
use crate::control::api::{Failure, Trouble};
use crate::discovery::{Candidate, Discovery, DiscoveryConfig, Interfaces};
use crate::driver::{self, DriverHandle, Holdings};
use crate::edge::{Edge, EdgeOptions};
use crate::identity::Identity;
use crate::lane::{self, LaneConfig, Lanes};
use crate::mesh::MeshKey;
use crate::service::{Facts, NodeService, Records};
use crate::store::{BlobInfo, OpenReport, Origin, RebuildReason, Store, StoreConfig, StoreError};
use crate::swarm::{Swarm, SwarmConfig, SwarmError, SwarmEvent, SwarmHandle, convert};
use crate::transfer::UploadRate;

/// Is one running node: a store, and unless it was started offline, its place in a mesh.
#[derive(Debug)]
pub struct Node {
    service: NodeService,
    network: Option<Network>,
}

#[derive(Debug)]
struct Network {
    swarm: SwarmHandle,
    driver: DriverHandle,
    driver_task: JoinHandle<()>,
    discovery: Option<Discovery>,
    /// Keep records, and get ahead what will be wanted.
    helpers: [JoinHandle<()>; 2],
}

impl Node {
    /// Starts a node: opens its store, makes its identity and mesh key at the first time, listens,
    /// and begins to look for neighbours. It serves when this returns.
    ///
    /// # Errors
    /// A [`Failure`] of kind `StoreLocked`, `StoreDamaged`, `FormatNewer`, `AddressInUse`,
    /// `Configuration`, `MeshRefused` or `File`.
    pub async fn start(config: NodeConfig) -> Result<Self, Failure> {
        let edge = open_edge(&config)?;
        Self::start_with_edge(config, edge).await
    }

    /// Starts a node as [`start`](Self::start) does, with this edge instead of the configured one: for
    /// programs that set its deadlines, or look at its [`stats`](Edge::stats).
    ///
    /// # Errors
    /// As there.
    pub async fn start_with_edge(
        config: NodeConfig,
        edge: Option<Arc<Edge>>,
    ) -> Result<Self, Failure> {
        let home = config.home.clone();
        compute::run(move || make_home(&home)).await.map_err(lost)??;
        let store = open_store(&config).await?;
        let holdings = Arc::new(Holdings::default());
        let gone = Arc::clone(&holdings);
        store.set_gone_listener(move |hash| gone.gone(hash));
        let keys = config.clone();
        let (identity, mesh) = compute::run(move || load_keys(&keys)).await.map_err(lost)??;
        let swarm_config = SwarmConfig {
            identity: identity.clone(),
            mesh: mesh.clone(),
            listen: config.listen.clone(),
        };
        let (lanes, lane_listeners) = open_lanes(&config, &identity)?;
        let (swarm, mut swarm_events) = Swarm::start(swarm_config).map_err(swarm_failure)?;
        let addresses = listening(&config, &mut swarm_events).await;
        let found = discover(&config, &mesh, &identity, &addresses);
        let (discovery, candidates) = found.map_or((None, None), |(a, b)| (Some(a), Some(b)));
        let held = compute::store(&store, held).await;
        let parts = driver::Parts {
            me: identity.peer(),
            config: engine_config(&config, edge.is_some()),
            seed: random_seed(),
            store: store.clone(),
            swarm: swarm.clone(),
            swarm_events,
            candidates,
            edge: edge.clone(),
            lanes,
            lane_listeners,
            peers: config.peers.clone(),
            addresses: addresses.clone(),
            held: held.map_err(|error| Failure::new(error.kind(), driver::describe(&error)))?,
            holdings,
        };
        let (handle, driver_task) = driver::start(parts);
        let facts = Facts {
            home: config.home.clone(),
            peer: convert::peer_text(&identity.peer()),
            mesh: (!config.open).then(|| mesh.mesh_id().to_string()),
            mdns: discovery.is_some(),
            bytes_max: config.store_bytes_max,
            addresses,
        };
        let records = Records::load(&config).await;
        let service = NodeService::new(store, edge, Some(handle.clone()), facts, records);
        let helpers = [
            tokio::spawn(service.clone().keep_records()),
            tokio::spawn(service.clone().keep_prefetching()),
        ];
        let network = Network { swarm, driver: handle, driver_task, discovery, helpers };
        Ok(Self { service, network: Some(network) })
    }

    /// Opens a node's store for its own user, without a network: to add, list, pin, remove, verify.
    ///
    /// # Errors
    /// As [`start`](Self::start), but for the network.
    pub async fn start_offline(config: NodeConfig) -> Result<Self, Failure> {
        let home = config.home.clone();
        compute::run(move || make_home(&home)).await.map_err(lost)??;
        let store = open_store(&config).await?;
        let edge = open_edge(&config)?;
        let facts = Facts {
            home: config.home.clone(),
            peer: String::new(),
            mesh: None,
            mdns: false,
            bytes_max: config.store_bytes_max,
            addresses: Vec::new(),
        };
        // Without a network nothing is got ahead.
        let records = Records::load(&NodeConfig { learn: false, ..config }).await;
        let service = NodeService::new(store, edge, None, facts, records);
        Ok(Self { service, network: None })
    }

    /// Returns what serves requests; cheap to clone.
    pub fn service(&self) -> NodeService {
        self.service.clone()
    }

    /// Reads one blob into memory; see [`NodeService::read`].
    ///
    /// # Errors
    /// As there.
    pub async fn read(&self, hash: Hash, len_max: u64) -> Result<bytes::Bytes, Failure> {
        self.service.read(hash, len_max).await
    }

    /// Returns the node's peer id, `12D3KooW…`; empty for a node without a network.
    pub fn peer_id(&self) -> String {
        self.service.facts().peer.clone()
    }

    /// Returns the addresses the node listens on.
    pub fn addresses(&self) -> Vec<String> {
        self.service.facts().addresses.clone()
    }

    /// Waits until the node finds and serves nothing any more, which it does not do by itself: its task has failed. Never
    /// of a node without a network. Cancel safe.
    pub async fn ended(&self) {
        match &self.network {
            Some(network) => network.driver.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Stops the node: says goodbye, ends its transfers with what they verified kept, and closes the
    /// store.
    ///
    /// Dropping a node instead ends its network and its transfers at once, without a goodbye and without
    /// saving receipts; its store closes with the last [`service`](Self::service).
    pub async fn shutdown(mut self) {
        if let Some(mut network) = self.network.take() {
            if let Some(discovery) = network.discovery.take() {
                discovery.shutdown().await;
            }
            network.end_helpers();
            self.service.book_savings().await;
            network.driver.stop().await;
            (&mut network.driver_task).await.ok();
            network.swarm.shutdown().await;
        }
        self.service.close().await;
    }
}

impl Network {
    fn end_helpers(&self) {
        self.helpers.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Network {
    /// The driver owns its tasks and hears the swarm, which ends when nobody hears it.
    fn drop(&mut self) {
        self.driver_task.abort();
        self.end_helpers();
    }
}

/// Makes the node's directory for its user alone.
fn make_home(home: &Path) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(home).map_err(|error| {
        Failure::new(Trouble::File, format!("failed to create {}: {error}", home.display()))
    })
}

async fn open_store(config: &NodeConfig) -> Result<Store, Failure> {
    let store_config =
        StoreConfig::new(config.store_dir(), config.store_bytes_max, config.blob_bytes_max);
    let opened = compute::run(move || Store::open(store_config)).await.map_err(lost)?;
    let (store, report) =
        opened.map_err(|error| Failure::new(error.kind(), driver::describe(&error)))?;
    log_report(&report);
    Ok(store)
}

fn log_report(report: &OpenReport) {
    if let Some(reason) = report.rebuild.filter(|reason| *reason != RebuildReason::Missing) {
        tracing::warn!(?reason, "store index is rebuilt from the blob files");
    }
}

fn load_keys(config: &NodeConfig) -> Result<(Identity, MeshKey), Failure> {
    let refuse =
        |error: &dyn std::error::Error| Failure::new(Trouble::MeshRefused, driver::describe(error));
    let identity = Identity::load_or_create(&config.identity_path()).map_err(|e| refuse(&e))?;
    let mesh = if config.open {
        MeshKey::open()
    } else {
        MeshKey::load_or_create(&config.mesh_key_path()).map_err(|e| refuse(&e))?
    };
    Ok((identity, mesh))
}

fn open_edge(config: &NodeConfig) -> Result<Option<Arc<Edge>>, Failure> {
    let Some(edge) = &config.edge else { return Ok(None) };
    let edge_options = EdgeOptions {
        blob_bytes_max: config.blob_bytes_max,
        ca_file: config.edge_ca_file.clone(),
        http: config.edge_http,
        uploads: Some(config.home.join("uploads")),
        ..EdgeOptions::default()
    };
    let edge = Edge::new(edge, edge_options)
        .map_err(|error| Failure::new(error.trouble(), driver::describe(&error)))?;
    Ok(Some(Arc::new(edge)))
}

/// Makes the node's lanes and listens for them where the node listens.
fn open_lanes(
    config: &NodeConfig,
    identity: &Identity,
) -> Result<(Lanes, Vec<TcpListener>), Failure> {
    let addresses: Vec<_> =
        config.listen.iter().filter_map(|address| convert::ip_of_address(address)).collect();
    let (listeners, port) = match config.lane_port {
        None => (Vec::new(), None),
        Some(port) => lane::bind(&addresses, port).map_err(|error| {
            let is_taken = error.kind() == std::io::ErrorKind::AddrInUse;
            let trouble = if is_taken { Trouble::AddressInUse } else { Trouble::Configuration };
            Failure::new(trouble, format!("cannot listen for lanes on port {port}: {error}"))
        })?,
    };
    let lane_config = LaneConfig {
        bytes_min: config.lane_bytes_min,
        buffer_bytes_max: config.lane_buffer_bytes_max,
        upload: UploadRate::new(config.upload_rate_max),
    };
    let lanes = Lanes::new(identity, lane_config, port)
        .map_err(|error| Failure::new(Trouble::Other, driver::describe(&error)))?;
    Ok((lanes, listeners))
}

fn swarm_failure(error: SwarmError) -> Failure {
    let trouble = match &error {
        SwarmError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            Trouble::AddressInUse
        }
        SwarmError::Address { .. } | SwarmError::Listen { .. } => Trouble::Configuration,
        SwarmError::Setup { .. } => Trouble::Other,
    };
    Failure::new(trouble, driver::describe(&error))
}

/// Waits for the first address of each listener, so that the node serves when it says so.
async fn listening(config: &NodeConfig, events: &mut mpsc::Receiver<SwarmEvent>) -> Vec<String> {
    let mut addresses = Vec::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while addresses.len() < config.listen.len() {
        match tokio::time::timeout_at(deadline, events.recv()).await {
            Ok(Some(SwarmEvent::Listening { address })) => addresses.push(address),
            // Nobody is dialled yet, and whoever dials us that early dials again.
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    addresses
}

/// Starts discovery. A node that cannot use multicast says so and goes on with the peers it was told.
fn discover(
    config: &NodeConfig,
    mesh: &MeshKey,
    identity: &Identity,
    addresses: &[String],
) -> Option<(Discovery, mpsc::Receiver<Candidate>)> {
    if !config.mdns {
        return None;
    }
    let port = addresses.iter().find_map(|address| port_of(address))?;
    let discovery = DiscoveryConfig {
        mesh: mesh.clone(),
        peer: identity.peer(),
        port,
        interfaces: Interfaces::of_listen(&config.listen),
    };
    match Discovery::start(discovery) {
        Ok(started) => Some(started),
        Err(error) => {
            tracing::warn!(error = %driver::describe(&error), "no discovery by mDNS");
            None
        }
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.split_once("/tcp/")?.1.split('/').next()?.parse().ok()
}

fn held(store: &Store) -> Result<Vec<(Hash, bool)>, StoreError> {
    let blobs = store.list()?;
    let of_user = |blob: &BlobInfo| blob.pinned || blob.origin == Origin::Added;
    Ok(blobs.iter().map(|(hash, blob)| (*hash, of_user(blob))).collect())
}

fn engine_config(config: &NodeConfig, edge: bool) -> Config {
    Config {
        edge,
        adverts: config.adverts,
        blob_bytes_max: config.blob_bytes_max,
        small_per_peer_max: config.small_per_peer_max,
        ..Config::default()
    }
}

/// Makes a seed for the engine's jitter; it need not be secret, only differ from node to node.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn lost(_: compute::WorkerLost) -> Failure {
    Failure::new(Trouble::Other, "a worker thread was lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn node_whose_task_has_failed_is_known_to_have_ended_and_can_be_stopped() {
        let home = tempfile::tempdir().expect("a directory");
        let node = Node::start(NodeConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            mdns: false,
            ..NodeConfig::new(home.path().to_owned())
        });
        let node = node.await.expect("the node starts");
        {
            let mut ended = std::pin::pin!(node.ended());
            assert!(futures::poll!(&mut ended).is_pending());
            node.network.as_ref().expect("a network").driver_task.abort();
            ended.await;
        }
        node.shutdown().await;
    }
}
