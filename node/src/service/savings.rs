//! What the edge was spared, day by day.
//!
//! The engine counts the bytes of gets that ended well by where they came from, the edge its requests. Both
//! count from the start of the process; here what was added since the last look is booked on the day of
//! the look, so that a get costs nothing more for it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use super::Inner;
use crate::compute;
use crate::control::api::{Answer, Failure, Saved, SavingsRow, TierBytes};
use crate::private_file;

/// How many days are kept; the oldest go first. One takes about 150 bytes.
const DAYS_MAX: usize = 400;
/// The longest file of days that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often a running node looks: what a crash loses at most.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps what was saved on which day. It is told, not relied on: a file that is missing or damaged is none.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// By day, the oldest first.
    days: Vec<SavingsRow>,
    /// What the counters said when they were looked at last.
    seen: Saved,
    changed: bool,
}

impl Ledger {
    /// Reads the days that earlier runs left.
    pub(crate) async fn load(path: &Path) -> Self {
        let from = path.to_owned();
        let read = compute::run(move || read(&from)).await.ok().flatten();
        let book = Book { days: read.unwrap_or_default(), ..Book::default() };
        Self { path: path.to_owned(), book: Mutex::new(book) }
    }

    /// Books on `day` what the counters gained since they were looked at last.
    fn look(&self, day: &str, counted: Saved) {
        let mut book = self.lock();
        let gained = counted.since(&book.seen);
        book.seen = counted;
        if gained != Saved::default() {
            book.enter(day, &gained);
        }
    }

    fn days(&self) -> Vec<SavingsRow> {
        self.lock().days.clone()
    }

    /// Writes the days for the next run, if there is something new.
    async fn save(&self) {
        let days = {
            let mut book = self.lock();
            if !std::mem::take(&mut book.changed) {
                return;
            }
            book.days.clone()
        };
        let path = self.path.clone();
        let written = compute::run(move || private_file::replace_json(&path, &days)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!("savings were not saved");
            self.lock().changed = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn enter(&mut self, day: &str, gained: &Saved) {
        // A clock that was set back books on the last day there is: rows stay in order.
        if self.days.last().is_none_or(|last| last.day.as_str() < day) {
            self.days.push(SavingsRow { day: day.to_owned(), ..SavingsRow::default() });
        }
        if self.days.len() > DAYS_MAX {
            self.days.remove(0);
        }
        if let Some(row) = self.days.last_mut() {
            row.saved = row.saved.plus(gained);
        }
        self.changed = true;
    }
}

impl Inner {
    pub(super) async fn savings(&self) -> Result<Answer, Failure> {
        self.book_savings().await;
        Ok(Answer::Savings { days: self.ledger.days() })
    }

    /// Books what was got since the last look, and keeps it for the next run.
    pub(super) async fn book_savings(&self) {
        let Some(driver) = &self.driver else { return };
        let Ok(snapshot) = driver.snapshot().await else { return };
        let stats = &snapshot.stats;
        let found = stats.found_local + stats.found_lan + stats.found_dht + stats.found_edge;
        // What came ahead was no get of a user's; its use is one, also where no get came of it.
        let ahead = self.prefetch.counts();
        let counted = Saved {
            gets: found.saturating_sub(ahead.gets),
            without_edge: stats.found_without_edge.saturating_sub(ahead.without_edge),
            tier: TierBytes {
                local: stats.bytes_local + ahead.used_without_get,
                lan: stats.bytes_lan,
                edge: stats.bytes_edge,
            },
            edge_requests: self.edge.as_ref().map_or(0, |edge| edge.stats().requests),
            ahead: ahead.bytes,
            ahead_used: ahead.used,
        };
        self.ledger.look(&today(), counted);
        self.ledger.save().await;
    }
}

/// Returns the day in UTC, as `2026-11-22`.
fn today() -> String {
    DateTime::<Utc>::from(SystemTime::now()).date_naive().to_string()
}

fn read(path: &Path) -> Option<Vec<SavingsRow>> {
    let len = std::fs::metadata(path).ok()?.len();
    let text = (len <= FILE_BYTES_MAX).then(|| std::fs::read(path).ok()).flatten()?;
    let days: Vec<SavingsRow> = serde_json::from_slice(&text).ok()?;
    let in_order = days.is_sorted_by(|a, b| a.day < b.day) && days.len() <= DAYS_MAX;
    in_order.then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(gets: u64, lan: u64, edge: u64) -> Saved {
        let tier = TierBytes { local: 0, lan, edge };
        Saved { gets, without_edge: gets, tier, edge_requests: edge / 10, ..Saved::default() }
    }

    async fn empty() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::load(&dir.path().join("savings.json")).await;
        (dir, ledger)
    }

    #[tokio::test]
    async fn a_look_books_what_was_gained_since_the_last_on_its_day() {
        let (_dir, ledger) = empty().await;
        ledger.look("2026-11-21", counted(2, 100, 10));
        ledger.look("2026-11-21", counted(3, 150, 10));
        ledger.look("2026-11-22", counted(3, 150, 10));
        ledger.look("2026-11-23", counted(7, 150, 90));
        let rows: Vec<_> = ledger
            .days()
            .into_iter()
            .map(|SavingsRow { day, saved }| {
                (day, saved.gets, saved.tier.lan, saved.tier.edge, saved.edge_requests)
            })
            .collect();
        let first = ("2026-11-21".to_owned(), 3, 150, 10, 1);
        assert_eq!(rows, [first, ("2026-11-23".to_owned(), 4, 0, 80, 8)]);
    }

    #[tokio::test]
    async fn days_survive_a_restart_and_the_next_run_adds_to_them() {
        let (dir, ledger) = empty().await;
        ledger.look("2026-11-21", counted(2, 100, 10));
        ledger.save().await;
        let again = Ledger::load(&dir.path().join("savings.json")).await;
        again.look("2026-11-21", counted(1, 5, 0));
        let days = again.days();
        assert_eq!((days.len(), days[0].saved.gets, days[0].saved.tier.lan), (1, 3, 105));
    }

    #[tokio::test]
    async fn the_oldest_days_go_and_a_clock_set_back_makes_none() {
        let (_dir, ledger) = empty().await;
        for n in 0..u64::try_from(DAYS_MAX).expect("small") + 2 {
            ledger.look(&format!("{n:010}"), counted(n + 1, 0, 0));
        }
        ledger.look("0000000000", counted(1_000, 0, 0));
        let days = ledger.days();
        assert_eq!(days.len(), DAYS_MAX);
        assert_eq!(
            (days[0].day.as_str(), days[DAYS_MAX - 1].saved.gets),
            ("0000000002", 1_000 - 401)
        );
    }

    #[tokio::test]
    async fn damaged_file_is_no_days() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("savings.json");
        for text in ["{", "[{\"day\":\"2\"},{\"day\":\"1\"}]"] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(Ledger::load(&path).await.days(), []);
        }
    }

    #[test]
    fn days_are_written_so_that_they_sort() {
        let day = today();
        assert_eq!((day.len(), day.as_bytes()[4], day.as_bytes()[7]), (10, b'-', b'-'));
    }
}
