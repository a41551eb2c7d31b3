//! What a node is told at its start.

use std::path::PathBuf;

use crate::edge::EdgeHttp;

/// Configures one node. All values are checked by whoever makes it (the command line does).
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The directory of one node's identity, mesh key, store and control socket.
    pub home: PathBuf,
    /// Multiaddresses to listen on, such as `/ip4/0.0.0.0/tcp/0`; none makes a node that only dials.
    pub listen: Vec<String>,
    /// Multiaddresses of peers to connect to and stay connected with, each `/ip4/…/tcp/…[/p2p/…]`.
    pub peers: Vec<String>,
    /// Whether neighbours are found by mDNS, and we by them.
    pub mdns: bool,
    /// Whether added and pinned blobs are advertised in the DHT.
    pub adverts: bool,
    /// Whether the node runs without a mesh key, open to everybody who connects.
    pub open: bool,
    /// Where blobs come from that no neighbour has; none does without the edge.
    pub edge: Option<EdgeConfig>,
    /// A file of certificates in PEM that an edge's is to be checked by, instead of the system's.
    pub edge_ca_file: Option<PathBuf>,
    /// By which HTTP an edge is read.
    pub edge_http: EdgeHttp,
    /// The bound of the store in bytes of blobs; the least recently used go first.
    pub store_bytes_max: u64,
    /// The bound of one blob in bytes; a larger one is refused before memory is taken for it.
    /// A blob's group list takes 1/2048 of its size in memory while it is fetched or served.
    pub blob_bytes_max: u64,
    /// The TCP port of lanes, on which peers fetch the groups of large blobs; 0 takes any that is free.
    /// None offers no lanes: everything goes over the port that is listened on, at a fraction of the
    /// speed. Default 0.
    pub lane_port: Option<u16>,
    /// From how many wanted bytes on a lane is offered: opening one costs two round trips and about 2 ms.
    /// Default 4 MiB.
    pub lane_bytes_min: u64,
    /// The bound of the buffers of all lanes together in bytes, in steps of 1 MiB, 2 MiB at least. A
    /// fetch uses up to 8, a service 1; where all are in use, lanes wait. Default 64 MiB.
    pub lane_buffer_bytes_max: usize,
    /// The bound of what is served to all peers together in bytes a second, by content as it is sent; whoever
    /// is served shares it. A bound below about 1 MiB makes getters take this node for a dead one when many
    /// ask at once. None by default.
    pub upload_rate_max: Option<u64>,
    /// How many small requests may be out at one neighbour. Each may bring 64 KiB. None has every blob asked
    /// for first and fetched then, which takes small ones far longer. Default 256.
    pub small_per_peer_max: usize,
    /// Whether the node learns what its user gets after what, and gets that ahead. Default true.
    pub learn: bool,
}

impl NodeConfig {
    /// The default of [`store_bytes_max`](Self::store_bytes_max): 50 GiB.
    pub const STORE_BYTES_MAX_DEFAULT: u64 = 50 << 30;
    /// The default of [`blob_bytes_max`](Self::blob_bytes_max): 64 GiB, a list of 32 MiB.
    pub const BLOB_BYTES_MAX_DEFAULT: u64 = 64 << 30;

    /// The default of [`lane_bytes_min`](Self::lane_bytes_min): 4 MiB.
    pub const LANE_BYTES_MIN_DEFAULT: u64 = 4 << 20;
    /// The default of [`lane_buffer_bytes_max`](Self::lane_buffer_bytes_max): 64 MiB.
    pub const LANE_BUFFER_BYTES_MAX_DEFAULT: usize = 64 << 20;

    /// The default of [`small_per_peer_max`](Self::small_per_peer_max): 512, or 32 MiB.
    pub const SMALL_PER_PEER_MAX_DEFAULT: usize = 512;

    /// Makes the default configuration of a node in `home`.
    pub fn new(home: PathBuf) -> Self {
        Self {
            home,
            listen: vec!["/ip4/0.0.0.0/tcp/0".to_owned()],
            peers: Vec::new(),
            mdns: true,
            adverts: true,
            open: false,
            edge: None,
            edge_ca_file: None,
            edge_http: EdgeHttp::Auto,
            store_bytes_max: Self::STORE_BYTES_MAX_DEFAULT,
            blob_bytes_max: Self::BLOB_BYTES_MAX_DEFAULT,
            lane_port: Some(0),
            lane_bytes_min: Self::LANE_BYTES_MIN_DEFAULT,
            lane_buffer_bytes_max: Self::LANE_BUFFER_BYTES_MAX_DEFAULT,
            upload_rate_max: None,
            small_per_peer_max: Self::SMALL_PER_PEER_MAX_DEFAULT,
            learn: true,
        }
    }

    /// Returns the directory of the store.
    pub fn store_dir(&self) -> PathBuf {
        self.home.join("store")
    }

    /// Returns the path of the control socket.
    pub fn socket_path(&self) -> PathBuf {
        self.home.join("control.sock")
    }

    /// Returns the path of the receipts of the last gets.
    pub fn receipts_path(&self) -> PathBuf {
        self.home.join("receipts.json")
    }

    /// Returns the path of what the edge was spared, by day.
    pub fn savings_path(&self) -> PathBuf {
        self.home.join("savings.json")
    }

    /// Returns the path of what was got after what.
    pub fn successors_path(&self) -> PathBuf {
        self.home.join("successors.json")
    }

    /// Returns the path of the identity key, an ed25519 secret in a file of mode 0600.
    pub fn identity_path(&self) -> PathBuf {
        self.home.join("identity.key")
    }

    /// Returns the path of the mesh key, 32 random bytes in a file of mode 0600.
    pub fn mesh_key_path(&self) -> PathBuf {
        self.home.join("mesh.key")
    }
}

/// Says which edge a node uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeConfig {
    /// A plain directory, such as a shared folder.
    Directory {
        /// The directory under which `blobs/` lies.
        path: PathBuf,
    },
    /// A public URL, read only: R2 behind its public domain, or any web server.
    Public {
        /// The base URL under which `blobs/` lies, without a trailing slash.
        url: String,
    },
    /// A bucket with an S3 interface.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The endpoint, such as `https://ACCOUNT.r2.cloudflarestorage.com`.
        endpoint: String,
        /// The region; `auto` for R2.
        region: String,
        /// A prefix of all keys, without slashes at its ends; empty for none.
        prefix: String,
        /// The key pair; without one requests go out unsigned, which a private bucket refuses.
        credentials: Option<Credentials>,
    },
}

/// Holds an S3 key pair, and never shows the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}
