//! What experiments on one LAN share: nodes that all know each other and what each holds.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::{ASK_PAUSE, Trial};
use crate::netns::{
    blob,
    client::Receipt,
    error::Error,
    lab::Host,
    process::{Home, Node},
    source_tree::SourceTree,
};

/// How long nodes may take to find each other, and to hear what the others hold.
const MEET_LIMIT: Duration = Duration::from_secs(30);

/// How long a get may take.
pub(super) const TRANSFER_LIMIT: Duration = Duration::from_secs(180);

/// Is how a get ended, and when.
pub(super) struct Got {
    /// None where the blob was not found.
    pub(super) receipt: Option<Receipt>,
    /// From `started` to the end of the command.
    pub(super) took: Duration,
}

/// Starts a node on each of these hosts, with homes named after the host and a suffix; returns when each
/// lists all others.
pub(super) fn start<'a>(
    trial: &Trial<'a, '_>,
    hosts: impl IntoIterator<Item = u8>,
    suffix: &str,
) -> Result<Vec<Node<'a>>, Error> {
    start_with(trial, hosts, suffix, &[])
}

/// Starts nodes as [`start`] does, with these flags.
pub(super) fn start_with<'a>(
    trial: &Trial<'a, '_>,
    hosts: impl IntoIterator<Item = u8>,
    suffix: &str,
    flags: &[&str],
) -> Result<Vec<Node<'a>>, Error> {
    let homes = hosts.into_iter().map(|number| trial.home(number, suffix));
    let homes = homes.collect::<Result<Vec<Home<'a>>, Error>>()?;
    if let Some((first, others)) = homes.split_first() {
        let ticket = first.invite()?;
        others.iter().try_for_each(|home| home.join(&ticket))?;
    }
    let nodes = homes.iter().map(|home| home.start(flags));
    let mut nodes = nodes.collect::<Result<Vec<Node<'a>>, Error>>()?;
    nodes.iter_mut().try_for_each(Node::ready)?;
    trial.setting.stop.until("discovery", MEET_LIMIT, ASK_PAUSE, || {
        for node in &nodes {
            let rows = node.home.peers()?;
            let mut others = nodes.iter().filter(|other| other.peer != node.peer);
            if !others.all(|other| rows.iter().any(|row| row.peer == other.peer)) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    Ok(nodes)
}

/// Waits until the getters have filters of the holders that hold at least so many blobs.
pub(super) fn know(
    trial: &Trial<'_, '_>,
    getters: &[Node<'_>],
    holders: &[Node<'_>],
    blobs: u64,
) -> Result<(), Error> {
    trial.setting.stop.until("filters of the holders", MEET_LIMIT, ASK_PAUSE, || {
        for getter in getters {
            let rows = getter.home.peers()?;
            let known = |holder: &Node<'_>| {
                let row = rows.iter().find(|row| row.peer == holder.peer);
                row.and_then(|row| row.filter_blobs).is_some_and(|held| held >= blobs)
            };
            if !holders.iter().all(known) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// Fails where what was pulled to a directory has not the bytes of a tree.
pub(super) fn has_pulled(tree: &SourceTree, out: &Path) -> Result<(), Error> {
    let Some(path) = tree.differs(out).map_err(Error::file("read", out))? else { return Ok(()) };
    let problem = format!("{} has other bytes", path.display());
    Err(Error::Answer { command: "blobmesh pull".to_owned(), problem })
}

/// Gets a blob on all getters at once, while `meanwhile` runs; returns how each get ended, in their order,
/// and what `meanwhile` returned.
pub(super) fn get_at_once<T>(
    getters: &[Node<'_>],
    hash: &str,
    started: Instant,
    meanwhile: impl FnOnce() -> Result<T, Error>,
) -> Result<(Vec<Got>, T), Error> {
    std::thread::scope(|scope| {
        let gets: Vec<_> = getters
            .iter()
            .map(|getter| {
                let home = &getter.home;
                scope.spawn(move || {
                    let receipt = home.get(hash, None)?;
                    Ok(Got { receipt, took: started.elapsed() })
                })
            })
            .collect();
        let returned = meanwhile();
        let ended = gets
            .into_iter()
            .map(|get| get.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let ended = ended.collect::<Result<Vec<Got>, Error>>()?;
        Ok((ended, returned?))
    })
}

/// Returns the processor time that nodes took since their start.
pub(super) fn processor_s(nodes: &[Node<'_>]) -> Result<f64, Error> {
    let times = nodes.iter().map(Node::processor_time);
    Ok(times.sum::<Result<Duration, Error>>()?.as_secs_f64())
}

/// Returns the bytes that came down a host's wire.
pub(super) fn came(trial: &Trial<'_, '_>, host: &Host) -> Result<u64, Error> {
    let index = trial.setting.lab.hosts().iter().position(|other| other == host);
    let counters = trial.setting.lab.network()?.counters()?;
    Ok(index.and_then(|index| counters.hosts.get(index)).map_or(0, |wire| wire.down.bytes))
}

/// Gets a blob into a file from the getter's own store, and counts its bytes that are not the original's.
pub(super) fn wrong_bytes(
    trial: &Trial<'_, '_>,
    getter: &Node<'_>,
    hash: &str,
    (bytes, seed): (u64, u64),
) -> Result<u64, Error> {
    let (output, original) =
        (getter.home.file(".output"), trial.setting.lab.path().join("original"));
    getter.home.get(hash, Some(&output))?;
    blob::write(&original, bytes, seed)?;
    let differing = blob::differing(&output, &original);
    for path in [&output, &original] {
        fs::remove_file(path).map_err(Error::file("remove", path))?;
    }
    differing
}
