//! What stands for HTTP/3 where it is not built in: there is none, and so nothing of it can go wrong.

use reqwest::{Request, Response, Url};

use super::answer::Failure;
use super::error::ConfigError;
use super::options::EdgeOptions;

/// Has no value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Http3 {}

impl Http3 {
    /// Refuses.
    pub(super) fn new(_base: &Url, _options: &EdgeOptions) -> Result<Self, ConfigError> {
        Err(ConfigError::Http3NotBuilt)
    }

    #[expect(clippy::unused_async, reason = "the same signature as where it is built in")]
    pub(super) async fn prepare(&self) -> bool {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the same signature as where it is built in")]
    pub(super) async fn send(&self, _request: &Request) -> Result<Option<Response>, Failure> {
        match *self {}
    }
}
