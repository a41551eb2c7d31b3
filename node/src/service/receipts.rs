//! The receipts of the last gets, for those who ask why.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::compute;
use crate::control::api::Receipt;
use crate::private_file;

/// How many receipts are kept; the oldest go first. One takes about 2 KiB.
const RECEIPTS_MAX: usize = 1_000;
/// The longest file of receipts that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Keeps the receipts of the last gets. They are told, not relied on: a file that is missing or
/// damaged is none.
#[derive(Debug)]
pub(crate) struct Receipts {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_hash: HashMap<String, Receipt>,
    /// Hashes in the order of their last get.
    order: VecDeque<String>,
    changed: bool,
}

impl Receipts {
    /// Reads the receipts that an earlier run left.
    pub(crate) async fn load(path: &Path) -> Self {
        let from = path.to_owned();
        let read = compute::run(move || read(&from)).await.ok().flatten();
        let mut kept = Kept::default();
        for receipt in read.unwrap_or_default() {
            kept.insert(receipt);
        }
        kept.changed = false;
        Self { path: path.to_owned(), kept: Mutex::new(kept) }
    }

    pub(crate) fn insert(&self, receipt: Receipt) {
        self.lock().insert(receipt);
    }

    pub(crate) fn find(&self, hash: &str) -> Option<Receipt> {
        self.lock().by_hash.get(hash).cloned()
    }

    /// Writes the receipts for the next run, if there are new ones.
    pub(crate) async fn save(&self) {
        let receipts: Vec<Receipt> = {
            let kept = self.lock();
            if !kept.changed {
                return;
            }
            kept.order.iter().filter_map(|hash| kept.by_hash.get(hash)).cloned().collect()
        };
        let path = self.path.clone();
        let written = compute::run(move || private_file::replace_json(&path, &receipts)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!("receipts were not saved");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn insert(&mut self, receipt: Receipt) {
        let hash = receipt.hash.clone();
        if self.by_hash.insert(hash.clone(), receipt).is_some() {
            self.order.retain(|kept| *kept != hash);
        }
        self.order.push_back(hash);
        if self.order.len() > RECEIPTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_hash.remove(&oldest);
        }
        self.changed = true;
    }
}

fn read(path: &Path) -> Option<Vec<Receipt>> {
    let len = std::fs::metadata(path).ok()?.len();
    let text = (len <= FILE_BYTES_MAX).then(|| std::fs::read(path).ok()).flatten()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(n: usize) -> Receipt {
        Receipt { hash: format!("{n:064}"), size: Some(len(n)), ..Receipt::default() }
    }

    fn len(n: usize) -> u64 {
        u64::try_from(n).expect("small")
    }

    #[tokio::test]
    async fn last_receipts_survive_a_restart_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("receipts.json");
        let receipts = Receipts::load(&path).await;
        (0..RECEIPTS_MAX + 5).for_each(|n| receipts.insert(receipt(n)));
        receipts.insert(receipt(7));
        receipts.save().await;
        let again = Receipts::load(&path).await;
        assert_eq!(again.find(&receipt(0).hash), None);
        assert_eq!(again.find(&receipt(7).hash), Some(receipt(7)));
        assert_eq!(again.lock().order.len(), RECEIPTS_MAX);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn others_cannot_read_what_was_got() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("receipts.json");
        std::fs::write(path.with_extension("json.new"), "left behind").expect("written");
        let receipts = Receipts::load(&path).await;
        receipts.insert(receipt(1));
        receipts.save().await;
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn damaged_file_is_no_receipts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("receipts.json");
        std::fs::write(&path, "{").expect("written");
        assert_eq!(Receipts::load(&path).await.find("x"), None);
    }
}
