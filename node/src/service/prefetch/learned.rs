//! What is got ahead without being asked for: what was got after the same blob or tree last time.
//!
//! [`Successors`] decides; here it is told what users get, and kept from one run of the node to the next.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blobmesh_protocol::successors::{Prediction, Root, Row, SUCCESSORS_MAX, Successor, Successors};
use blobmesh_protocol::{Hash, Time};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::compute;
use crate::control::api::Request;
use crate::private_file;
use crate::service::parse;

/// The longest file of successors that is read; the longest that is written is shorter.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Knows what was got after what. It is told, not relied on: a file that is missing or damaged is none.
#[derive(Debug)]
pub(crate) struct Learned {
    path: PathBuf,
    /// Whether anything is learned and predicted; what a user removes is forgotten anyhow.
    learns: bool,
    started: Instant,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    successors: Successors,
    changed: bool,
}

/// Is a row as the file has it.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    hash: String,
    with_tree: bool,
    followed: Vec<SuccessorLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SuccessorLine {
    hash: String,
    with_tree: bool,
    twice: bool,
}

impl Learned {
    /// Reads what earlier runs learned.
    pub(crate) async fn load(path: &Path, learns: bool) -> Self {
        let from = path.to_owned();
        let rows = compute::run(move || read(&from)).await.ok().flatten();
        let successors = Successors::restore(rows.unwrap_or_default());
        let known = Mutex::new(Known { successors, changed: false });
        Self { path: path.to_owned(), learns, started: Instant::now(), known }
    }

    /// Notes that a user got these with one request, and returns what to get ahead.
    pub(super) fn got(&self, roots: &[Root]) -> Option<Prediction> {
        if !self.learns || roots.is_empty() {
            return None;
        }
        let mut known = self.lock();
        known.changed = true;
        let now = Time::ZERO + self.started.elapsed();
        known.successors.got(now, roots)
    }

    /// Forgets what a user removed.
    pub(super) fn forget(&self, hashes: &HashSet<Hash>) {
        let mut known = self.lock();
        known.successors.forget(hashes);
        known.changed = true;
    }

    /// Writes what was learned for the next run, if there is something new.
    pub(super) async fn save(&self) {
        let rows = {
            let mut known = self.lock();
            if !std::mem::take(&mut known.changed) {
                return;
            }
            known.successors.rows()
        };
        let path = self.path.clone();
        let written = compute::run(move || {
            let lines: Vec<Line> = rows.iter().map(Line::of).collect();
            private_file::replace_json(&path, &lines)
        });
        let written = written.await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!("what was got after what was not saved");
            self.lock().changed = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn of(row: &Row) -> Self {
        let line = |successor: &Successor| SuccessorLine {
            hash: successor.root.hash.to_hex(),
            with_tree: successor.root.with_tree,
            twice: successor.twice,
        };
        let followed = row.followed.iter().map(line).collect();
        Self { hash: row.root.hash.to_hex(), with_tree: row.root.with_tree, followed }
    }

    fn row(&self) -> Option<Row> {
        let successor = |line: &SuccessorLine| {
            let root = root(&line.hash, line.with_tree)?;
            Some(Successor { root, twice: line.twice })
        };
        let followed = self.followed.iter().map(successor).collect::<Option<_>>()?;
        Some(Row { root: root(&self.hash, self.with_tree)?, followed })
    }
}

fn root(hash: &str, with_tree: bool) -> Option<Root> {
    Some(Root { hash: hash.parse().ok()?, with_tree })
}

/// Returns what a user gets by a request; nothing of a list that is longer than any that could be predicted.
pub(in crate::service) fn roots_of(request: &Request) -> Vec<Root> {
    let (hashes, with_tree) = if let Request::Get { hash, .. } | Request::Cat { hash, .. } = request
    {
        (slice::from_ref(hash), false)
    } else if let Request::Checkout { hash, .. } | Request::Pull { hash, .. } = request {
        (slice::from_ref(hash), true)
    } else if let Request::GetMany { hashes, .. } = request
        && hashes.len() <= SUCCESSORS_MAX
    {
        (&hashes[..], false)
    } else {
        return Vec::new();
    };
    let hashes = hashes.iter().filter_map(|hash| parse(hash).ok());
    hashes.map(|hash| Root { hash, with_tree }).collect()
}

fn read(path: &Path) -> Option<Vec<Row>> {
    let len = std::fs::metadata(path).ok()?.len();
    let text = (len <= FILE_BYTES_MAX).then(|| std::fs::read(path).ok()).flatten()?;
    let lines: Vec<Line> = serde_json::from_slice(&text).ok()?;
    lines.iter().map(Line::row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use blobmesh_protocol::successors::REMEMBERED_MAX;

    fn blob(n: u8) -> Root {
        Root { hash: Hash::of(&[n]), with_tree: false }
    }

    fn get(n: u8) -> Request {
        let hash = Hash::of(&[n]).to_hex();
        Request::Cat { hash, timeout_ms: None }
    }

    #[tokio::test]
    async fn what_was_learned_survives_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("successors.json");
        let learned = Learned::load(&path, true).await;
        for n in 1..=3 {
            assert_eq!(learned.got(&roots_of(&get(n))), None);
        }
        learned.save().await;
        let again = Learned::load(&path, true).await;
        let roots = vec![blob(2), blob(3)];
        assert_eq!(Learned::load(&path, false).await.got(&[blob(1)]), None, "it does not learn");
        assert_eq!(again.got(&[blob(1)]), Some(Prediction { after: blob(1), roots }));
    }

    #[tokio::test]
    async fn damaged_file_is_nothing_learned() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("successors.json");
        let half = r#"[{"hash":"00","with_tree":true,"followed":[]}]"#;
        for text in ["{", half, "null"] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(Learned::load(&path, true).await.got(&[blob(1)]), None, "{text}");
        }
    }

    #[test]
    fn longest_file_is_read() {
        let successor = Successor { root: blob(1), twice: false };
        let row = Row { root: blob(1), followed: vec![successor; SUCCESSORS_MAX] };
        let bytes = serde_json::to_vec(&Line::of(&row)).expect("JSON").len() + 1;
        let longest = bytes * REMEMBERED_MAX;
        assert!(u64::try_from(longest).expect("small") < FILE_BYTES_MAX, "{longest}");
    }

    #[test]
    fn requests_name_what_a_user_gets() {
        let hashes = |count: usize| vec![Hash::of(b"blob").to_hex(); count];
        let many = |count| Request::GetMany { hashes: hashes(count), timeout_ms: None };
        assert_eq!(roots_of(&many(SUCCESSORS_MAX)).len(), SUCCESSORS_MAX);
        assert_eq!(roots_of(&many(SUCCESSORS_MAX + 1)), []);
        assert_eq!(roots_of(&Request::Has { hashes: hashes(1) }), []);
        assert_eq!(roots_of(&get(1)), [blob(1)]);
    }
}
