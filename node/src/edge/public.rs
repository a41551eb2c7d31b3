//! The edge behind a public URL: R2 behind its public domain, or any web server. Read only.

use std::ops::Range;

use blobmesh_protocol::Hash;
use bytes::Bytes;

use super::body::EdgeBody;
use super::diagnose::{self, Finding};
use super::error::{Action, ConfigError, EdgeError, Task};
use super::http::Http;
use super::location::{self, Part};
use super::options::EdgeOptions;
use super::remote::Remote;
use super::{EdgeBackend, Push, Pushed};

/// Reads from a public URL.
#[derive(Clone, Debug)]
pub struct PublicEdge {
    remote: Remote,
}

impl PublicEdge {
    pub(super) fn new(url: &str, options: EdgeOptions) -> Result<Self, ConfigError> {
        let base = location::base_url(url, Part::PublicUrl)?;
        if !options.plain_http {
            location::check_transport(&base, Part::PublicUrl)?;
        }
        let http = Http::new(&base, true, options)?;
        Ok(Self { remote: Remote::new(http, base, None) })
    }

    /// Returns the same for what nobody waits for; see [`Http::gently`].
    pub(super) fn gently(&self) -> Result<Self, ConfigError> {
        Ok(Self { remote: self.remote.gently()? })
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }
}

impl EdgeBackend for PublicEdge {
    fn describe(&self) -> String {
        location::without_slash(self.remote.base().as_str()).to_owned()
    }

    async fn size(&self, hash: &Hash) -> Result<u64, EdgeError> {
        self.remote.size(hash).await
    }

    async fn group_file(&self, hash: &Hash, len_max: u64) -> Result<Option<Bytes>, EdgeError> {
        self.remote.group_file(hash, len_max).await
    }

    async fn read(&self, hash: &Hash, range: Option<Range<u64>>) -> Result<EdgeBody, EdgeError> {
        self.remote.read(hash, range).await
    }

    async fn push(&self, push: Push<'_>) -> Result<Pushed, EdgeError> {
        Err(EdgeError::ReadOnly { task: Task { action: Action::Push, hash: push.hash } })
    }

    async fn diagnose(&self) -> Vec<Finding> {
        diagnose::public(&self.remote).await
    }
}
