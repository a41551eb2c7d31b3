//! The edge: whether it answers, and what it refuses.

use blobmesh_node::config::EdgeConfig;
use blobmesh_node::edge::{Edge, EdgeOptions, Finding, Verdict};

use super::{finding, with_hint};

pub(super) async fn check(edge: Option<&EdgeConfig>) -> Vec<Finding> {
    let Some(config) = edge else {
        let none = finding("edge", Verdict::Warn, "none is configured: blobs come from peers only");
        let hint = "set edge.url: dir:PATH, https://…, or s3://BUCKET?endpoint=…";
        return vec![with_hint(none, hint)];
    };
    match Edge::new(config, EdgeOptions::default()) {
        Ok(edge) => edge.diagnose().await,
        Err(error) => vec![finding("edge", Verdict::Fail, error.to_string())],
    }
}
