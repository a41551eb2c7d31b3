//! One edge of each kind, with what really lies behind it.

use std::path::PathBuf;
use std::time::Duration;

use blobmesh_node::config::{Credentials, EdgeConfig};
use blobmesh_node::edge::{Edge, EdgeOptions, PolicyOptions};
use blobmesh_protocol::Hash;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;

use super::front::{Front, Upstream};
use super::tls::certificate_file;

pub(crate) const KEY_ID: &str = "AKIDCANARY";
pub(crate) const SECRET: &str = "hunter2canary";
const BUCKET: &str = "team-blobs";

/// An edge under test.
pub(crate) struct Place {
    pub(crate) edge: Edge,
    pub(crate) kind: Kind,
    /// The directory in which `blobs/` really lies, whatever is before it.
    pub(crate) root: PathBuf,
    /// What listens before the server; none for a directory.
    front: Option<Front>,
    _home: TempDir,
}

/// What kind of edge it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Public,
    S3,
}

impl Place {
    pub(crate) fn front(&self) -> &Front {
        self.front.as_ref().expect("an edge over HTTP")
    }

    /// Returns where a blob really lies.
    pub(crate) fn file(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(hash.sharded_path())
    }

    /// Returns where a group list really lies.
    pub(crate) fn list_file(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(format!("{}.groups", hash.sharded_path()))
    }

    /// Makes the same edge again with other options.
    pub(crate) fn edge_with(&self, options: EdgeOptions) -> Edge {
        let options = self.front.as_ref().map_or(options.clone(), |front| trusting(front, options));
        Edge::new(&self.config(), options).expect("an edge")
    }

    /// Returns how a node is told of the edge.
    pub(crate) fn config(&self) -> EdgeConfig {
        match self.kind {
            Kind::S3 => s3_config(self.front(), Some((KEY_ID, SECRET))),
            Kind::Public => EdgeConfig::Public { url: self.front().url() },
            Kind::Directory => EdgeConfig::Directory { path: self.root.clone() },
        }
    }

    /// Makes an edge to the same bucket with another key pair, or none.
    pub(crate) fn edge_as(&self, pair: Option<(&str, &str)>) -> Edge {
        Edge::new(&s3_config(self.front(), pair), trusting(self.front(), quick())).expect("an edge")
    }

    #[expect(clippy::unused_async, reason = "the same signature as the other kinds")]
    pub(crate) async fn directory() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().to_owned();
        let config = EdgeConfig::Directory { path: root.clone() };
        let edge = Edge::new(&config, quick()).expect("an edge");
        Self { edge, kind: Kind::Directory, root, front: None, _home: home }
    }

    pub(crate) async fn s3() -> Self {
        Self::s3_behind(&[]).await
    }

    /// A bucket over HTTP/2.
    pub(crate) async fn s3_h2() -> Self {
        Self::s3_behind(&["h2", "http/1.1"]).await
    }

    pub(crate) async fn public() -> Self {
        Self::public_behind(&[]).await
    }

    /// A public URL over HTTP/2.
    pub(crate) async fn public_h2() -> Self {
        Self::public_behind(&["h2", "http/1.1"]).await
    }

    /// A public URL behind TLS that offers these protocols; none is plain HTTP/1.1.
    pub(crate) async fn public_behind(protocols: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().to_owned();
        let front = front(Upstream::Folder(root.clone()), protocols).await;
        let config = EdgeConfig::Public { url: front.url() };
        let edge = Edge::new(&config, trusting(&front, quick())).expect("an edge");
        Self { edge, kind: Kind::Public, root, front: Some(front), _home: home }
    }

    async fn s3_behind(protocols: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().join(BUCKET).join("ci/main");
        std::fs::create_dir_all(&root).expect("a bucket");
        let files = FileSystem::new(home.path()).expect("a file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let front = front(Upstream::S3(builder.build()), protocols).await;
        let config = s3_config(&front, Some((KEY_ID, SECRET)));
        let edge = Edge::new(&config, trusting(&front, quick())).expect("an edge");
        Self { edge, kind: Kind::S3, root, front: Some(front), _home: home }
    }
}

async fn front(upstream: Upstream, protocols: &[&str]) -> Front {
    match protocols {
        [] => Front::start(upstream).await,
        protocols => Front::start_tls(upstream, protocols).await,
    }
}

/// Has an edge trust the certificate of a front that has one.
pub(crate) fn trusting(front: &Front, options: EdgeOptions) -> EdgeOptions {
    if front.is_tls() {
        EdgeOptions { ca_file: Some(certificate_file()), ..options }
    } else {
        options
    }
}

fn s3_config(front: &Front, pair: Option<(&str, &str)>) -> EdgeConfig {
    s3_at(front.url(), pair)
}

/// Configures the tests' bucket at another endpoint.
pub(crate) fn s3_at(endpoint: String, pair: Option<(&str, &str)>) -> EdgeConfig {
    EdgeConfig::S3 {
        bucket: BUCKET.to_owned(),
        endpoint,
        region: "auto".to_owned(),
        prefix: "ci/main".to_owned(),
        credentials: pair.map(|(id, secret)| Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
        }),
    }
}

/// The default options, with pauses that a test need not wait for.
pub(crate) fn quick() -> EdgeOptions {
    let policy = PolicyOptions { backoff: Duration::from_millis(1), ..PolicyOptions::default() };
    EdgeOptions { policy, ..EdgeOptions::default() }
}

/// Deadlines that pass while a test runs.
pub(crate) fn impatient() -> EdgeOptions {
    EdgeOptions {
        connect_timeout: Duration::from_millis(200),
        first_byte_timeout: Duration::from_millis(100),
        ..quick()
    }
}
