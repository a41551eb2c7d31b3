//! Trees come from peers and the edge, and become directories.
//!
//! First the manifests are got, level by level, and the whole tree is checked; then what the store does not have of its
//! files, as any list of blobs is; and it is checked out, file by file as their blobs come. Until the end nothing of it is
//! evicted.
//!
//! Of a long file of which the directory has an older version, what that has of it is copied, and only the rest fetched.

use std::path::PathBuf;

use super::Inner;
use crate::control::api::{Answer, CheckoutOptions, Exchange, Failure};

#[cfg(not(target_os = "linux"))]
impl Inner {
    pub(super) async fn pull(
        &self,
        _hash: &str,
        _dir: PathBuf,
        _wanted: CheckoutOptions,
        _timeout_ms: Option<u64>,
        _exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        use crate::control::api::Trouble;
        Err(Failure::new(Trouble::Other, "pulls need Linux"))
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::path::Path;
    use std::pin::pin;
    use std::time::Duration;

    use blobmesh_protocol::Hash;
    use blobmesh_protocol::delta::is_worth;
    use blobmesh_protocol::tree::{LoadError, MANIFEST_BYTES_MAX, Manifest};
    use futures::StreamExt as _;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::compute;
    use crate::control::api::{
        CheckoutReport, Event, FileCount, Progress, PullReport, TierBytes, Trouble,
    };
    use crate::delta::Base;
    use crate::service::blobs::PROGRESS_INTERVAL;
    use crate::service::checkouts::{CheckingOut, report};
    use crate::service::deltas::Delta;
    use crate::service::many::{List, Row, TakeRow};
    use crate::service::{len_u64, parse, trees};
    use crate::store::{HeldSet, Store, StoreError};
    use crate::tree::closure::{Part, level_below};
    use crate::tree::{self, CheckedOut, Supply};

    /// How many paths are named at most that nobody has.
    const PATHS_TOLD_MAX: usize = 5;
    /// How many files are made of older versions at once, each with some 12 MiB of memory; and of one pull in all.
    const DELTAS_AT_ONCE: usize = 4;
    const DELTAS_MAX: usize = 4_096;
    /// The least length of a file that is: a shorter one comes whole in the time of the questions.
    const DELTA_LEN_MIN: u64 = 1 << 20;

    impl Inner {
        /// Gets what is missing of a tree, and checks it out. Dropping the future leaves what came in the store, and
        /// the directory as a checkout leaves it.
        pub(in crate::service) async fn pull(
            &self,
            hash: &str,
            dir: PathBuf,
            wanted: CheckoutOptions,
            timeout_ms: Option<u64>,
            exchange: &Exchange,
        ) -> Result<Answer, Failure> {
            let (root, began) = (parse(hash)?, Instant::now());
            let (store, target) = (self.store.clone(), dir.clone());
            compute::run(move || tree::check_target(&store, &target)).await??;
            let mut pull = Pull {
                node: self,
                deadline: timeout_ms.map(|ms| began + Duration::from_millis(ms)),
                list: List::new(self, Tally::new(&exchange.events)),
                held: Vec::new(),
                deltas: Vec::new(),
            };
            let manifests = pull.manifests(root).await?;
            let found = began.elapsed();
            let mut missing = pull.missing_files(root).await?;
            let early = pull.check_out_early(root, &dir, wanted, &missing);
            let (fetched, early) = match early {
                Ok(mut work) => {
                    let done = pull.files_beside(&mut missing, (root, &dir), &mut work).await?;
                    (began.elapsed(), Ok((work, done)))
                }
                Err(wanted) => {
                    pull.fetch_files(&mut missing, root, &dir).await?;
                    (began.elapsed(), Err(wanted))
                }
            };
            let (blobs, tier) = (pull.list.taker.fetched, pull.list.tier);
            // The list has ended, and others need its share; what it has brought stays held.
            let Pull { held, list, deltas, .. } = pull;
            drop((list, missing));
            let (copied, by_delta) = self.tell_deltas(deltas);
            let tier = TierBytes { local: 0, lan: tier.lan + by_delta, ..tier };
            let checkout = match early {
                Ok((work, done)) => end_early(work, done, exchange).await?,
                Err(wanted) => self.check_out(root, dir, wanted, exchange).await?,
            };
            drop(held);
            let (find_s, fetch_s) = (found.as_secs_f64(), (fetched - found).as_secs_f64());
            let seconds = began.elapsed().as_secs_f64();
            let report =
                PullReport { manifests, blobs, tier, copied, find_s, fetch_s, checkout, seconds };
            Ok(Answer::Pulled(Box::new(report)))
        }

        /// Puts deltas into the receipts of their blobs; returns how many bytes they copied, and how many they fetched.
        fn tell_deltas(&self, deltas: Vec<(Hash, Delta)>) -> (u64, u64) {
            let (mut copied, mut fetched) = (0, 0);
            for (hash, delta) in deltas {
                copied += delta.row.copied;
                fetched += delta.row.fetched;
                let whole = delta.whole.then(|| delta.receipt(hash));
                if let Some(mut receipt) = whole.or_else(|| self.receipts.find(&hash.to_hex())) {
                    delta.tell(&mut receipt);
                    self.receipts.insert(receipt);
                }
            }
            (copied, fetched)
        }
    }

    /// Is one pull on its way.
    struct Pull<'a> {
        node: &'a Inner,
        deadline: Option<Instant>,
        list: List<'a, Tally<'a>>,
        /// Keep what was got, or was there, from eviction: one set of each level of manifests, and one of the files.
        held: Vec<HeldSet>,
        /// What was made of older versions.
        deltas: Vec<(Hash, Delta)>,
    }

    /// Is what the store does not hold of some blobs: of a hundred thousand there are the hashes, and no paths.
    #[derive(Debug, Default)]
    struct Missing {
        /// Taken by whoever gets them.
        hashes: Vec<Hash>,
        count: usize,
        /// How many bytes they have, as far as the tree says.
        bytes: u64,
        /// Those that are long enough for an older version to be of use, [`DELTAS_MAX`] at most.
        long: Vec<Part>,
    }

    impl Missing {
        /// Holds those of some parts of a tree that were not met before, and looks which of them are not in the store.
        ///
        /// # Errors
        /// `UnsafeTree` where the tree lies about the length of one that is.
        fn look(
            &mut self,
            store: &Store,
            held: &mut HeldSet,
            parts: &[Part],
        ) -> Result<(), Failure> {
            // First the hold, then the look: between them nobody can evict.
            let new: Vec<&Part> = parts.iter().filter(|part| held.insert(part.hash)).collect();
            let hashes: Vec<Hash> = new.iter().map(|part| part.hash).collect();
            for (part, found) in new.into_iter().zip(store.sizes(&hashes)?) {
                match (found, part.size) {
                    (None, _) => self.add(part),
                    (Some(found), Some(size)) if found != size => {
                        let (path, hash) = (part.path.clone(), part.hash);
                        return Err(tree::CheckoutError::Length { path, hash, size, found }.into());
                    }
                    (Some(_), _) => {}
                }
            }
            Ok(())
        }

        fn add(&mut self, part: &Part) {
            self.hashes.push(part.hash);
            self.count += 1;
            self.bytes = self.bytes.saturating_add(part.size.unwrap_or(0));
            if part.size >= Some(DELTA_LEN_MIN) && self.long.len() < DELTAS_MAX {
                self.long.push(part.clone());
            }
        }
    }

    impl Pull<'_> {
        /// Gets the manifests that are missing, one level after the other; returns how many were fetched.
        ///
        /// There are no more of them than the root says that the tree has entries, which is bounded.
        async fn manifests(&mut self, root: Hash) -> Result<u64, Failure> {
            self.list.taker.begin("find", false);
            // A long blob that is no tree is refused before it is got.
            let looked = self.list.look_at(root, MANIFEST_BYTES_MAX, self.deadline).await;
            if let Some(bytes) = looked.map_err(|failure| trees::not_read(&root, failure))? {
                Manifest::decode(&bytes).map_err(|error| trees::refused(&root, &error))?;
            }
            let mut met = HashSet::from([root]);
            let mut level = vec![Part { path: Vec::new(), hash: root, size: None }];
            while !level.is_empty() {
                let here = self.get(level, "manifests").await?;
                let store = self.node.store.clone();
                let below = compute::run(move || level_below(&store, &here)).await?;
                level = below.map_err(not_loaded)?;
                level.retain(|part| met.insert(part.hash));
            }
            Ok(self.list.taker.fetched)
        }

        /// Checks the tree, and returns the blobs of its files that are missing.
        async fn missing_files(&mut self, root: Hash) -> Result<Missing, Failure> {
            let store = self.node.store.clone();
            let look = move || -> Result<_, Failure> {
                let (mut held, mut missing) = (store.hold([]), Missing::default());
                tree::each_file(&store, &root, |some| missing.look(&store, &mut held, &some))?;
                Ok((held, missing))
            };
            let (held, missing) = compute::run(look).await??;
            self.list.taker.begin("fetch", true);
            self.held.push(held);
            Ok(missing)
        }

        /// Gets those of a tree's blobs that the store does not hold, and returns all of them.
        async fn get(&mut self, parts: Vec<Part>, what: &str) -> Result<Vec<Part>, Failure> {
            let store = self.node.store.clone();
            let look = move || -> Result<_, Failure> {
                let (mut held, mut missing) = (store.hold([]), Missing::default());
                missing.look(&store, &mut held, &parts)?;
                Ok((parts, held, missing))
            };
            let (parts, held, mut missing) = compute::run(look).await??;
            self.held.push(held);
            if self.fetch(&mut missing, None).await? {
                return Ok(parts);
            }
            let mut lost = Lost::of(&self.list.taker.failed);
            lost.find(parts);
            Err(self.list.taker.failure(lost, missing.count, what))
        }

        /// Gets the files that are missing; of long ones there may be older versions in a directory.
        async fn fetch_files(
            &mut self,
            missing: &mut Missing,
            root: Hash,
            dir: &Path,
        ) -> Result<(), Failure> {
            if self.fetch(missing, Some(dir)).await? {
                return Ok(());
            }
            // Their paths were not kept: a hundred thousand take more memory than all else.
            let (store, mut lost) = (self.node.store.clone(), Lost::of(&self.list.taker.failed));
            let find = move || -> Result<_, Failure> {
                tree::each_file(&store, &root, |some| -> Result<(), Failure> {
                    lost.find(some);
                    Ok(())
                })?;
                Ok(lost)
            };
            let lost = compute::run(find).await??;
            Err(self.list.taker.failure(lost, missing.count, "files"))
        }

        /// Gets missing blobs; says whether all came. In `older` there may be older versions of them.
        async fn fetch(
            &mut self,
            missing: &mut Missing,
            older: Option<&Path>,
        ) -> Result<bool, Failure> {
            if missing.count == 0 {
                return Ok(true);
            }
            self.list.taker.expect(len_u64(missing.count), missing.bytes);
            let hashes = match older {
                Some(dir) => self.get_by_deltas(missing, dir).await?,
                None => std::mem::take(&mut missing.hashes),
            };
            self.list.get_missing(hashes, self.deadline).await?;
            Ok(self.list.taker.failed.is_empty())
        }

        /// Begins to check the tree out before its files are there, if there are any that are not.
        fn check_out_early(
            &mut self,
            root: Hash,
            dir: &Path,
            wanted: CheckoutOptions,
            missing: &Missing,
        ) -> Result<CheckingOut, CheckoutOptions> {
            if missing.count == 0 {
                return Err(wanted);
            }
            let supply = Supply::of(missing.hashes.iter().copied().collect());
            let work = self.node.check_out_early(root, dir.to_owned(), wanted, &supply)?;
            self.list.taker.supply = Some(supply);
            Ok(work)
        }

        /// Gets missing files while they are checked out. Returns what that came to where it has ended, too.
        ///
        /// # Errors
        /// Of either; the other has been stopped then.
        async fn files_beside(
            &mut self,
            missing: &mut Missing,
            (root, dir): (Hash, &Path),
            work: &mut CheckingOut,
        ) -> Result<Option<CheckedOut>, Failure> {
            let supply = self.list.taker.supply.clone();
            let mut done = None;
            let fetched = {
                let mut fetch = pin!(self.fetch_files(missing, root, dir));
                tokio::select! {
                    fetched = &mut fetch => fetched,
                    early = work.done() => {
                        done = Some(early?);
                        fetch.await
                    }
                }
            };
            supply.iter().for_each(Supply::end);
            if fetched.is_err() && done.is_none() {
                // It clears its stage away.
                work.done().await.ok();
            }
            fetched.map(|()| done)
        }
    }

    /// Waits for the end of a checkout of which all blobs are there.
    async fn end_early(
        mut work: CheckingOut,
        done: Option<CheckedOut>,
        exchange: &Exchange,
    ) -> Result<CheckoutReport, Failure> {
        let began = Instant::now();
        let done = match done {
            Some(done) => done,
            None => work.done_told(&exchange.events).await?,
        };
        Ok(report(done, began.elapsed()))
    }

    impl Pull<'_> {
        /// Gets blobs, and makes those of which there are older versions out of these meanwhile, as far as they have
        /// them. Returns those that are still missing.
        async fn get_by_deltas(
            &mut self,
            missing: &mut Missing,
            dir: &Path,
        ) -> Result<Vec<Hash>, Failure> {
            let (dir, long) = (dir.to_owned(), std::mem::take(&mut missing.long));
            let hashes = std::mem::take(&mut missing.hashes);
            let bases = compute::run(move || bases_of(&dir, long)).await?;
            if bases.is_empty() {
                return Ok(hashes);
            }
            let of_bases: HashSet<Hash> = bases.iter().map(|base| base.blob).collect();
            let (with, without): (Vec<_>, Vec<_>) =
                hashes.into_iter().partition(|hash| of_bases.contains(hash));
            let (node, deadline) = (self.node, self.deadline);
            let deltas = futures::stream::iter(bases)
                .map(|base| delta_of(node, base, deadline))
                .buffer_unordered(DELTAS_AT_ONCE)
                .collect::<Vec<_>>();
            let (deltas, rest) =
                tokio::join!(deltas, self.list.get_missing(without, self.deadline));
            rest?;
            let mut whole = HashSet::new();
            for (hash, delta) in deltas {
                let Some(delta) = delta? else { continue };
                if delta.whole {
                    self.list.taker.made(hash, delta.size);
                    whole.insert(hash);
                }
                self.deltas.push((hash, delta));
            }
            Ok(with.into_iter().filter(|hash| !whole.contains(hash)).collect())
        }
    }

    /// Is a blob, and an older version of it.
    struct OfBase {
        blob: Hash,
        path: Vec<u8>,
        older: Hash,
        dir: PathBuf,
    }

    /// Returns those of some files of which the directory has an older version of their kind.
    fn bases_of(dir: &Path, files: Vec<Part>) -> Vec<OfBase> {
        if files.is_empty() {
            return Vec::new();
        }
        let paths: Vec<&[u8]> = files.iter().map(|file| &file.path[..]).collect();
        let older = tree::older_versions(dir, &paths);
        let of_base = |(file, older): (Part, Option<(Hash, u64)>)| {
            let (older, size) = older?;
            let (blob, path, dir) = (file.hash, file.path, dir.to_owned());
            let is_wanted = older != blob && is_worth(file.size?, size);
            is_wanted.then_some(OfBase { blob, path, older, dir })
        };
        files.into_iter().zip(older).filter_map(of_base).take(DELTAS_MAX).collect()
    }

    /// Makes what can be made of a blob: out of the older blob where the store has it, else out of the file.
    async fn delta_of(
        node: &Inner,
        of: OfBase,
        deadline: Option<Instant>,
    ) -> (Hash, Result<Option<Delta>, Failure>) {
        let (store, blob) = (node.store.clone(), of.blob);
        let (name, shown) = (of.older.to_hex(), tree::shown(&of.path));
        let opened = compute::run(move || match store.open_blob(&of.older) {
            Ok(Some(reader)) => Some((Base::Blob(reader), name)),
            Ok(None) | Err(_) => {
                let file = tree::open_older(&of.dir, &of.path).and_then(Base::of_file);
                file.ok().map(|base| (base, shown))
            }
        });
        let made = match opened.await {
            Ok(Some(base)) => {
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                node.delta(blob, base, left).await
            }
            Ok(None) => Ok(None),
            Err(lost) => Err(lost.into()),
        };
        (blob, made)
    }

    fn not_loaded(error: LoadError<StoreError>) -> Failure {
        match error {
            LoadError::Manifest { hash, source } => trees::refused(&hash, &source),
            LoadError::Source { hash, source } => trees::not_read(&hash, source.into()),
        }
    }

    /// Says where a tree has the first of some blobs that did not come.
    struct Lost {
        failed: HashSet<Hash>,
        first: Vec<Part>,
    }

    impl Lost {
        fn of(failed: &HashSet<Hash>) -> Self {
            Self { failed: failed.clone(), first: Vec::new() }
        }

        /// Looks for them among parts of the tree, each once.
        fn find(&mut self, parts: Vec<Part>) {
            let wanted = PATHS_TOLD_MAX - self.first.len();
            let lost = parts.into_iter().filter(|part| self.failed.remove(&part.hash));
            self.first.extend(lost.take(wanted));
        }
    }

    /// Counts what came, and keeps what did not.
    struct Tally<'a> {
        events: &'a mpsc::Sender<Event>,
        phase: &'static str,
        /// How many were fetched in this phase.
        fetched: u64,
        done: u64,
        bytes: u64,
        files_total: u64,
        bytes_total: u64,
        /// Whether the totals are those of the whole phase.
        all_known: bool,
        /// The blobs that were not got.
        failed: HashSet<Hash>,
        /// Why: of the first, or of the first that may be had another time.
        why: Option<Failure>,
        told: Instant,
        /// Is told of what came.
        supply: Option<Supply>,
        /// What it was not told of yet.
        came: Vec<Hash>,
    }

    impl<'a> Tally<'a> {
        fn new(events: &'a mpsc::Sender<Event>) -> Self {
            Self {
                events,
                phase: "",
                fetched: 0,
                done: 0,
                bytes: 0,
                files_total: 0,
                bytes_total: 0,
                all_known: false,
                failed: HashSet::new(),
                why: None,
                told: Instant::now(),
                supply: None,
                came: Vec::new(),
            }
        }

        /// Begins a phase, and says whether its first list is all of it.
        fn begin(&mut self, phase: &'static str, all_known: bool) {
            *self = Self { phase, all_known, ..Self::new(self.events) };
            self.tell();
        }

        fn expect(&mut self, files: u64, bytes: u64) {
            self.files_total += files;
            self.bytes_total += bytes;
            self.tell();
        }

        /// Counts one that was made of an older version.
        fn made(&mut self, hash: Hash, size: u64) {
            self.supply.iter().for_each(|supply| supply.came(&[hash]));
            self.done += 1;
            self.bytes += size;
            self.fetched += 1;
            self.tell();
        }

        fn tell(&mut self) {
            self.told = Instant::now();
            let told = Progress {
                phase: self.phase.to_owned(),
                done: self.bytes,
                total: self.all_known.then_some(self.bytes_total),
                peers: 0,
                files: Some(FileCount {
                    done: self.done,
                    total: self.all_known.then_some(self.files_total),
                }),
            };
            // A reader that is behind misses some: the next one says more.
            self.events.try_send(Event::Progress(told)).ok();
        }

        /// Says what could not be got of `all` missing blobs of a tree, with the first paths of it.
        fn failure(&mut self, lost: Lost, all: usize, what: &str) -> Failure {
            let failed = self.failed.len();
            let why = self.why.take();
            let kind = why.as_ref().map_or(Trouble::Other, |why| why.kind);
            let message = if kind == Trouble::NotFound {
                format!("nobody has {failed} of the {all} missing {what} of the tree")
            } else {
                format!("{failed} of the {all} missing {what} of the tree did not come")
            };
            let mut failure = Failure::new(kind, message);
            for part in &lost.first {
                let path = if part.path.is_empty() { b"." } else { &part.path[..] };
                failure =
                    failure.cause(format!("{}: blob {}", tree::shown(path), part.hash.fmt_short()));
            }
            if failed > PATHS_TOLD_MAX {
                failure = failure.cause(format!("and {} more", failed - PATHS_TOLD_MAX));
            }
            let Some(why) = why else { return failure };
            why.causes.into_iter().fold(failure.cause(why.message), Failure::cause)
        }
    }

    impl TakeRow for Tally<'_> {
        async fn take_row(&mut self, row: Row) -> Result<(), Failure> {
            self.done += 1;
            match row.failure {
                None => {
                    if self.supply.is_some() {
                        self.came.push(row.hash);
                    }
                    self.bytes += row.size.unwrap_or(0);
                    self.fetched += u64::from(row.found != "local");
                }
                Some(failure) => {
                    self.failed.insert(row.hash);
                    let is_first = self.why.is_none();
                    let was_absent =
                        self.why.as_ref().is_some_and(|why| why.kind == Trouble::NotFound);
                    if is_first || was_absent && failure.kind != Trouble::NotFound {
                        self.why = Some(failure);
                    }
                }
            }
            if self.told.elapsed() >= PROGRESS_INTERVAL {
                self.tell();
            }
            Ok(())
        }

        fn rest(&mut self) {
            self.supply.iter().for_each(|supply| supply.came(&self.came));
            self.came.clear();
        }
    }
    #[cfg(test)]
    mod tests {
        use super::*;

        fn part(number: usize, size: u64) -> Part {
            let path = number.to_string().into_bytes();
            Part { hash: Hash::of(&path), path, size: Some(size) }
        }

        #[test]
        fn of_what_is_missing_there_are_hashes_and_few_paths() {
            let mut missing = Missing::default();
            (0..=DELTAS_MAX).for_each(|number| missing.add(&part(number, DELTA_LEN_MIN)));
            missing.add(&part(DELTAS_MAX + 1, DELTA_LEN_MIN - 1));
            assert_eq!((missing.count, missing.hashes.len()), (DELTAS_MAX + 2, DELTAS_MAX + 2));
            assert_eq!(missing.long.len(), DELTAS_MAX);
        }

        #[test]
        fn first_paths_are_told_of_what_did_not_come_each_blob_once() {
            let parts: Vec<Part> = (0..20).map(|number| part(number, 1)).collect();
            let failed = parts[3..].iter().map(|part| part.hash).collect();
            let mut lost = Lost::of(&failed);
            let again = Part { path: b"again".to_vec(), ..part(3, 1) };
            lost.find([&parts[..5], &[again]].concat());
            lost.find(parts[5..].to_vec());
            let paths: Vec<_> = lost.first.iter().map(|part| part.path.clone()).collect();
            assert_eq!(paths, ["3", "4", "5", "6", "7"].map(|path| path.as_bytes().to_vec()));
        }
    }
}
