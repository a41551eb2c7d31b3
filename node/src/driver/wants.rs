//! Who waits for which blob, and is told of its progress and its end.

use std::collections::{BTreeMap, HashMap};

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::WantId;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::event::{Get, GetEnded, GetProgress};
use super::{Driver, Fetch};

/// Holds the wants of this node's users, of which the engine bounds the number.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pending: BTreeMap<WantId, Pending>,
    by_hash: HashMap<Hash, Vec<WantId>>,
}

/// Is somebody who waits.
#[derive(Debug)]
pub(super) enum Pending {
    /// For one blob.
    One { progress: watch::Sender<GetProgress>, ended: oneshot::Sender<GetEnded> },
    /// For nothing, yet: it is got ahead.
    Ahead { progress: watch::Sender<GetProgress>, ended: oneshot::Sender<GetEnded> },
    /// For many.
    Many { ended: mpsc::Sender<GetEnded> },
    /// For the bytes of one, once they came.
    Read { ended: oneshot::Sender<(GetEnded, Option<Bytes>)>, bytes: Option<Bytes> },
}

impl Pending {
    /// Tells of the end. Whoever wanted it may have gone.
    pub(super) fn end(self, end: GetEnded) {
        match self {
            Self::One { ended, .. } | Self::Ahead { ended, .. } => drop(ended.send(end)),
            // There is room for as many as are under way.
            Self::Many { ended } => drop(ended.try_send(end)),
            Self::Read { ended, bytes } => drop(ended.send((end, bytes))),
        }
    }
}

impl Wants {
    fn insert(&mut self, want: WantId, hash: Hash, pending: Pending) {
        self.pending.insert(want, pending);
        self.by_hash.entry(hash).or_default().push(want);
    }

    /// Takes out a want.
    pub(super) fn remove(&mut self, want: WantId, hash: &Hash) -> Option<Pending> {
        let pending = self.pending.remove(&want)?;
        if let Some(of_hash) = self.by_hash.get_mut(hash) {
            of_hash.retain(|other| *other != want);
            if of_hash.is_empty() {
                self.by_hash.remove(hash);
            }
        }
        Some(pending)
    }

    /// Returns whether anybody waits for a blob.
    pub(super) fn contains(&self, hash: &Hash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Returns whether a blob is only got ahead.
    pub(super) fn is_ahead(&self, hash: &Hash) -> bool {
        let ahead = |want| matches!(self.pending.get(want), Some(Pending::Ahead { .. }));
        self.by_hash.get(hash).is_some_and(|wants| wants.iter().all(ahead))
    }

    /// Changes what those are told who watch the progress of a blob.
    pub(super) fn tell_progress(&self, hash: &Hash, change: impl Fn(&mut GetProgress)) {
        for want in self.by_hash.get(hash).into_iter().flatten() {
            if let Some(Pending::One { progress, .. } | Pending::Ahead { progress, .. }) =
                self.pending.get(want)
            {
                progress.send_modify(&change);
            }
        }
    }

    /// Gives the bytes of a blob to those who wait for them.
    pub(super) fn give(&mut self, hash: &Hash, came: &Bytes) {
        for want in self.by_hash.get(hash).into_iter().flatten() {
            if let Some(Pending::Read { bytes, .. }) = self.pending.get_mut(want) {
                *bytes = Some(came.clone());
            }
        }
    }
}

impl Driver {
    pub(super) fn handle_get(&mut self, get: Get) {
        match get {
            Get::One { want, hash, timeout, ahead, progress, ended } => {
                let pending = if ahead {
                    Pending::Ahead { progress, ended }
                } else {
                    self.hurry(&hash);
                    Pending::One { progress, ended }
                };
                self.wants.insert(want, hash, pending);
                self.tell(Input::Get { want, hash, timeout });
            }
            Get::Many { wants, timeout, ended } => {
                for (want, hash) in wants {
                    self.hurry(&hash);
                    self.wants.insert(want, hash, Pending::Many { ended: ended.clone() });
                    self.tell(Input::Get { want, hash, timeout });
                    self.drain();
                }
            }
            Get::Read { want, hash, len_max, timeout, ended } => {
                self.hurry(&hash);
                self.wants.insert(want, hash, Pending::Read { ended, bytes: None });
                self.tell(Input::Read { want, hash, timeout, len_max });
            }
        }
    }

    /// Ends what comes slowly of a blob because nobody waited for it: somebody does now.
    fn hurry(&mut self, hash: &Hash) {
        let is_slow = |fetch: &Fetch| fetch.gentle && fetch.hash == *hash;
        if !self.wants.is_ahead(hash) || !self.fetches.values().any(is_slow) {
            return;
        }
        for want in self.wants.by_hash.get(hash).cloned().unwrap_or_default() {
            self.tell(Input::Cancel { want });
        }
        self.drain();
    }
}
