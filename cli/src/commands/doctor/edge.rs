//! The edge: whether it answers, what it refuses, and how fast it is.

use blobmesh_node::config::NodeConfig;
use blobmesh_node::edge::{Edge, EdgeOptions, Finding, Verdict};
use blobmesh_protocol::Hash;

use super::{finding, with_hint};

pub(super) async fn check(node: &NodeConfig, blob: Option<Hash>) -> Vec<Finding> {
    let Some(config) = &node.edge else {
        let none = finding("edge", Verdict::Warn, "none is configured: blobs come from peers only");
        let hint = "set edge.url: dir:PATH, https://…, or s3://BUCKET?endpoint=…";
        return vec![with_hint(none, hint)];
    };
    let options = EdgeOptions {
        ca_file: node.edge_ca_file.clone(),
        http: node.edge_http,
        ..EdgeOptions::default()
    };
    match Edge::new(config, options) {
        Ok(edge) => {
            let mut findings = edge.diagnose().await;
            // How fast an edge refuses is of no use to anybody.
            if findings.iter().all(|finding| finding.verdict != Verdict::Fail) {
                findings.extend(edge.measure(blob).await);
            }
            findings
        }
        Err(error) => vec![finding("edge", Verdict::Fail, error.to_string())],
    }
}
