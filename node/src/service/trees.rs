//! Directories: added as trees, and listed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, MANIFEST_BYTES_MAX, Manifest, ManifestError, Node, Totals};
use tokio::sync::mpsc;
use tokio::time::interval;

use super::blobs::PROGRESS_INTERVAL;
use super::{Inner, len_u64, parse};
use crate::compute;
use crate::control::api::{
    AddedTree, Answer, Event, Exchange, Failure, FileCount, Progress, TreeRow, Trouble,
};
use crate::driver::{DriverHandle, describe};
use crate::stop::StopOnDrop;
use crate::store::Store;
use crate::tree::scan::{ScanError, ScanOptions, ScanProgress, Scanned, scan};

impl Inner {
    pub(super) async fn add_tree(
        &self,
        path: PathBuf,
        pin: bool,
        ignore: bool,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        if !path.is_absolute() {
            return Err(Failure::new(Trouble::Usage, "the path is not absolute"));
        }
        let began = Instant::now();
        let progress = Arc::new(ScanProgress::default());
        let _waits = StopOnDrop::of(progress.stop.clone());
        let (store, driver) = (self.store.clone(), self.driver.clone());
        let store_dir = store.dir().to_owned();
        let memory = self.facts.home.join("scans");
        let options = ScanOptions { root: path, ignore, store_dir, memory };
        let told = Arc::clone(&progress);
        let add = compute::run(move || add(&store, driver.as_ref(), &options, pin, &told));
        let mut added = tokio::select! {
            biased;
            added = add => added??,
            never = tell_files(&progress, &exchange.events) => match never {},
        };
        added.seconds = began.elapsed().as_secs_f64();
        Ok(Answer::AddedTree(Box::new(added)))
    }

    /// Lists a tree. Its manifests are read one after the other, and held from the root to where it is.
    pub(super) async fn tree(&self, hash: &str) -> Result<Answer, Failure> {
        let root = parse(hash)?;
        let manifest = self.manifest(&root, None).await?;
        let mut rows = Vec::new();
        let mut path = Vec::new();
        let mut open = vec![(0, manifest.entries.into_iter())];
        while let Some((path_len, left)) = open.last_mut() {
            let Some(Entry { name, node }) = left.next() else {
                open.pop();
                continue;
            };
            path.truncate(*path_len);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            rows.push(row(&path, &node)?);
            let below = match node {
                Node::Dir(entries) => entries,
                Node::Tree { hash, totals } => self.manifest(&hash, Some(&totals)).await?.entries,
                Node::File { .. } | Node::Symlink { .. } => continue,
            };
            open.push((path.len(), below.into_iter()));
        }
        Ok(Answer::Tree { entries: rows })
    }

    /// Reads a manifest, from wherever it can be had.
    async fn manifest(&self, hash: &Hash, totals: Option<&Totals>) -> Result<Manifest, Failure> {
        let bytes = self.read(*hash, MANIFEST_BYTES_MAX).await;
        let bytes = bytes.map_err(|failure| not_read(hash, failure))?;
        let manifest = match totals {
            Some(totals) => Manifest::decode_below(&bytes, totals),
            None => Manifest::decode(&bytes),
        };
        manifest.map_err(|error| refused(hash, &error))
    }
}

/// Makes the failure for a blob that is no manifest that can be used.
pub(super) fn refused(hash: &Hash, error: &ManifestError) -> Failure {
    let kind = if *error == ManifestError::NotManifest {
        Trouble::NotATree
    } else if matches!(error, ManifestError::UnknownVersion { .. }) {
        Trouble::FormatNewer
    } else {
        Trouble::UnsafeTree
    };
    no_tree(kind, hash, error.to_string())
}

/// Says of a blob that is longer than a manifest can be that it is none.
pub(super) fn not_read(hash: &Hash, failure: Failure) -> Failure {
    if failure.kind == Trouble::TooLarge {
        return no_tree(Trouble::NotATree, hash, failure.message);
    }
    failure
}

fn no_tree(kind: Trouble, hash: &Hash, why: String) -> Failure {
    Failure::new(kind, format!("blob {} is no tree", hash.fmt_short())).cause(why)
}

/// Adds a directory, tells the mesh of what is new and pins it if it should be: on one thread, so that a client that
/// hangs up leaves nothing that nobody hears of.
fn add(
    store: &Store,
    driver: Option<&DriverHandle>,
    options: &ScanOptions,
    pin: bool,
    progress: &ScanProgress,
) -> Result<AddedTree, Failure> {
    let scanned = scan(store, options, progress)?;
    if let Some(driver) = driver {
        driver.held_with(scanned.blobs.added.iter().map(|added| added.hash));
        driver.held(scanned.hash);
    }
    if pin {
        store.pin_all(&scanned.blobs.hashes())?;
    }
    let mut warnings = scanned.left_out.warnings.clone();
    warnings.extend(scanned.refused.as_ref().map(ToString::to_string));
    Ok(told(&scanned, warnings))
}

fn told(scanned: &Scanned, warnings: Vec<String>) -> AddedTree {
    let is_new = scanned.blobs.added.iter().filter(|added| !added.existed);
    let Totals { files, bytes, entries } = scanned.totals;
    AddedTree {
        hash: scanned.hash.to_hex(),
        files,
        bytes,
        entries,
        manifests: scanned.manifests,
        unchanged: scanned.unchanged,
        new_blobs: len_u64(is_new.clone().count()),
        new_bytes: is_new.map(|added| added.size).sum(),
        ignored: scanned.left_out.ignored,
        git: scanned.left_out.git,
        special: scanned.left_out.special,
        warnings,
        seconds: 0.0,
    }
}

/// Tells how many files are done until it is dropped.
async fn tell_files(
    progress: &ScanProgress,
    events: &mpsc::Sender<Event>,
) -> std::convert::Infallible {
    let mut pace = interval(PROGRESS_INTERVAL);
    loop {
        pace.tick().await;
        let all = progress.all_found.load(Ordering::Relaxed);
        let total = all.then(|| progress.found.load(Ordering::Relaxed));
        let done = progress.files.load(Ordering::Relaxed);
        let told = Progress {
            phase: "scan".to_owned(),
            done: progress.bytes.load(Ordering::Relaxed),
            total: None,
            peers: 0,
            files: Some(FileCount { done, total }),
        };
        events.try_send(Event::Progress(told)).ok();
    }
}

fn row(path: &[u8], node: &Node) -> Result<TreeRow, Failure> {
    let (kind, size, hash, target) = match node {
        Node::File { hash, size, executable } => {
            (if *executable { "executable" } else { "file" }, Some(*size), Some(hash), None)
        }
        Node::Symlink { target } => ("symlink", None, None, Some(target)),
        Node::Dir(entries) => {
            let totals = Manifest { entries: entries.clone() }.totals();
            let totals =
                totals.map_err(|error| Failure::new(Trouble::UnsafeTree, error.to_string()))?;
            ("directory", Some(totals.bytes), None, None)
        }
        Node::Tree { hash, totals } => ("directory", Some(totals.bytes), Some(hash), None),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let hex = || data_encoding::HEXLOWER.encode(path);
    Ok(TreeRow {
        path: text(path),
        path_hex: std::str::from_utf8(path).is_err().then(hex),
        kind: kind.to_owned(),
        size,
        hash: hash.map(Hash::to_hex),
        target: target.map(|target| text(target)),
    })
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        Self::new(error.kind(), describe(&error))
    }
}
