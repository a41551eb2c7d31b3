//! The home directory and the store in it.

use std::path::Path;

use blobmesh_node::config::NodeConfig;
use blobmesh_node::control::api::{Answer, Request};
use blobmesh_node::edge::{Finding, Verdict};

use super::{Report, failed_with, finding, with_hint};
use crate::error::CommandError;
use crate::files::{ensure_home, write_whole};
use crate::session::{Need, Session};
use crate::settings::Settings;
use crate::units::{count, size};

/// Less free space than this is little for a store.
const FREE_WANTED: u64 = 1 << 30;

/// Checks that the home directory can be written to and is nobody else's.
pub(super) fn check_home(node: &NodeConfig) -> Vec<Finding> {
    if let Err(error) = ensure_home(&node.home) {
        return vec![failed_with("home", &error)];
    }
    let shown = node.home.display();
    let probe = node.home.join(".doctor");
    if let Err(error) = write_whole(&probe, b"") {
        return vec![finding(
            "home",
            Verdict::Fail,
            format!("{shown} cannot be written to: {error}"),
        )];
    }
    std::fs::remove_file(&probe).ok();
    let mut findings = vec![finding("home", Verdict::Ok, format!("{shown} can be written to"))];
    for secret in [node.identity_path(), node.mesh_key_path()] {
        findings.extend(check_secret(&secret));
    }
    findings
}

#[cfg(unix)]
fn check_secret(path: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let shown = path.display();
    if mode & 0o077 == 0 {
        return Some(finding("keys", Verdict::Ok, format!("{shown} has mode {mode:04o}")));
    }
    let wide = finding("keys", Verdict::Fail, format!("{shown} has mode {mode:04o}, want 0600"));
    Some(with_hint(wide, format!("chmod 600 {shown}")))
}

#[cfg(not(unix))]
fn check_secret(_path: &Path) -> Option<Finding> {
    None
}

/// Checks that the store opens, or asks the running node; returns whether one runs.
pub(super) async fn check_store(
    settings: &Settings,
    report: &mut Report<'_>,
) -> Result<bool, CommandError> {
    let mut session = match Session::open(report.context.printer, settings, Need::Store).await {
        Ok(session) => session,
        Err(error) => {
            report.add(failed_with("store", &error))?;
            return Ok(false);
        }
    };
    let running = session.is_running();
    let request = if running { Request::Status } else { Request::List };
    let answer = session.call(request, report.context.printer.progress("doctor", "")).await;
    session.close().await;
    report.add(match answer {
        Ok(Answer::Status(status)) => {
            let (pid, blobs, peers) = (status.pid, status.blobs, status.peers);
            let (blobs, peers) = (count(blobs, "blob"), count(peers, "peer"));
            let text = format!("open in the running node, pid {pid}: {blobs}, {peers}");
            finding("store", Verdict::Ok, text)
        }
        Ok(Answer::List { blobs }) => {
            let bytes = blobs.iter().map(|blob| blob.size).sum();
            let text =
                format!("opens, {}, {}; no node runs", count(blobs.len(), "blob"), size(bytes));
            finding("store", Verdict::Ok, text)
        }
        Ok(_) => finding("store", Verdict::Fail, "answers another question than was asked"),
        Err(error) => failed_with("store", &error),
    })?;
    Ok(running)
}

/// Checks the space left for the store.
#[cfg(unix)]
pub(super) fn check_space(node: &NodeConfig) -> Vec<Finding> {
    let Ok(space) = rustix::fs::statvfs(&node.home) else {
        return vec![finding("space", Verdict::Warn, "cannot be measured")];
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let text = format!("{} free, the store may hold {}", size(free), size(node.store_bytes_max));
    if free >= FREE_WANTED {
        return vec![finding("space", Verdict::Ok, text)];
    }
    let hint = "free some, or put the node elsewhere with --home";
    vec![with_hint(finding("space", Verdict::Warn, text), hint)]
}

/// Checks nothing on this platform.
#[cfg(not(unix))]
pub(super) fn check_space(_node: &NodeConfig) -> Vec<Finding> {
    Vec::new()
}
