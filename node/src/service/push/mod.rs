//! Uploads to the edge: blobs, and trees with all that is in them.
//!
//! What the edge has is found out for all blobs together ([`survey`](Edge::survey)). The rest goes up many at once, small
//! blobs in packs where the edge bills requests. A tree's files go before its manifests, so that whoever finds a
//! manifest at the edge finds all that it names; a tree of which something failed leaves its manifests behind.
//!
//! What went up stays: whoever pushes again after a failure, or after hanging up, sends the rest.

mod plan;
mod tally;
mod upload;

use std::collections::HashSet;
use std::time::Duration;

use blobmesh_protocol::Hash;
use futures::{StreamExt as _, stream};
use plan::{Item, Job, Plan, last_pack, packs_of};
use tally::{Tally, tell};
use tokio::time::Instant;
use tracing::debug;
use upload::{Load, Sent, Upload, failure, is_hopeless};

use super::{Inner, len_u64, parse_all};
use crate::compute;
use crate::control::api::{Answer, Exchange, Failure, PushReport, Trouble};
use crate::edge::packs::{Entry, Presence};

/// How many blobs and packs go up at once. At 50 ms a request that is 320 a second.
const UPLOADS_MAX: usize = 16;
/// Fewer small blobs than this go up by themselves: a pack needs two requests more for the index.
const PACKED_MIN: usize = 4;
/// What the edge has of fewer blobs than this is asked blob by blob, without the index.
const SURVEYED_MIN: usize = 4;
/// How often what lies in packs is published while more go up: what was not is sent again after an interruption.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(10);
/// How many failures are told.
const FAILURES_MAX: usize = 5;

/// Says what is to be pushed of what was named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Trees without what is in them.
    pub(super) only: bool,
    /// Every blob as an object of its own.
    pub(super) no_packs: bool,
}

impl Inner {
    pub(super) async fn push(
        &self,
        hashes: &[String],
        wanted: Wanted,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let Some(edge) = &self.edge else {
            return Err(Failure::new(Trouble::EdgeReadOnly, "no edge is configured"));
        };
        let store = self.store.clone();
        let plan = compute::run(move || Plan::of(&store, &hashes, wanted.only)).await??;
        let upload = Upload::new(&self.store, edge, Tally::new(&plan));
        let mut push = Push {
            upload: &upload,
            packs: edge.has_packs() && !wanted.no_packs,
            unpublished: Vec::new(),
            published: Instant::now(),
            holds_back: false,
            report: PushReport::default(),
            failures: Vec::new(),
            hopeless: false,
        };
        let (began, requests) = (Instant::now(), edge.stats().requests);
        tokio::select! {
            biased;
            done = push.run(plan) => done?,
            never = tell(&upload.tally, &exchange.events) => match never {},
        }
        let Push { mut report, failures, .. } = push;
        let done = report.uploaded + report.existed;
        report.failed = upload.tally.blobs.saturating_sub(done);
        let is_in_vain = done == 0;
        match failures.first() {
            Some(first) if is_in_vain => return Err(first.clone()),
            _ => report.failures = failures,
        }
        report.requests = edge.stats().requests - requests;
        report.seconds = began.elapsed().as_secs_f64();
        Ok(Answer::Pushed(Box::new(report)))
    }
}

/// Is one push on its way.
struct Push<'a> {
    upload: &'a Upload<'a>,
    /// Whether small blobs go into packs, where there are some.
    packs: bool,
    /// What the index does not say yet.
    unpublished: Vec<Entry>,
    published: Instant,
    /// Whether some of it must wait until all of it is there.
    holds_back: bool,
    report: PushReport,
    failures: Vec<Failure>,
    /// Whether what failed would fail for every other blob, too.
    hopeless: bool,
}

impl Push<'_> {
    async fn run(&mut self, mut plan: Plan) -> Result<(), Failure> {
        self.survey(&mut plan).await?;
        for job in plan.jobs {
            if !self.hopeless {
                self.job(job).await;
            }
        }
        Ok(())
    }

    /// Finds out what the edge has, where that is worth it.
    async fn survey(&mut self, plan: &mut Plan) -> Result<(), Failure> {
        let Upload { edge, tally, .. } = self.upload;
        if tally.blobs < len_u64(SURVEYED_MIN) || !edge.has_packs() {
            return Ok(());
        }
        let items: Vec<_> = plan.jobs.iter_mut().flat_map(Job::items).collect();
        let sought: Vec<_> = items.iter().map(|item| (item.hash, item.size)).collect();
        let found = edge.survey(&sought, self.packs).await.map_err(|error| failure(&error))?;
        for (item, presence) in items.into_iter().zip(found) {
            item.presence = presence;
        }
        Ok(())
    }

    /// Pushes the files and then the manifests, those next to the files first.
    async fn job(&mut self, mut job: Job) {
        let missing = job.items().filter(|item| item.is_small() && !item.is_here()).count();
        let packs = self.packs && missing >= PACKED_MIN;
        let mut small = if packs { last_pack(&mut job.files) } else { Vec::new() };
        // Trees may share what failed, so one failure keeps the manifests of all that follow.
        let mut whole = self.stage(job.files, packs).await && self.failures.is_empty();
        for level in job.levels.into_iter().rev() {
            let (packed, alone): (Vec<_>, Vec<_>) =
                level.into_iter().partition(|item| packs && item.is_small());
            // One that lies alone is found at once: what it names must be found by then.
            if !alone.is_empty() && whole {
                let below = std::mem::take(&mut small);
                whole = self.manifests(below).await
                    && self.publish_packed().await
                    && self.stage(alone, false).await;
            }
            small.extend(packed);
        }
        if !whole {
            small.retain(|item| !item.is_manifest);
        }
        self.manifests(small).await;
        self.publish().await;
    }

    /// Pushes manifests, and small files beside them, in packs, and returns whether the edge has all of them then. Where
    /// it has not, no manifest is published.
    async fn manifests(&mut self, items: Vec<Item>) -> bool {
        let manifests = items.iter().filter(|item| item.is_manifest && !item.is_here());
        let manifests: HashSet<Hash> = manifests.map(|item| item.hash).collect();
        self.holds_back = true;
        let whole = self.stage(items, true).await;
        self.holds_back = false;
        if !whole {
            let before = self.unpublished.len();
            self.unpublished.retain(|entry| !manifests.contains(&entry.hash));
            self.found_by_nobody(before - self.unpublished.len());
        }
        whole
    }

    /// Takes in that blobs lie in packs of which the index does not tell.
    fn found_by_nobody(&mut self, blobs: usize) {
        let PushReport { uploaded, packed, .. } = &mut self.report;
        *uploaded = uploaded.saturating_sub(len_u64(blobs));
        *packed = packed.saturating_sub(len_u64(blobs));
    }

    /// Pushes blobs in any order, many at once, and returns whether the edge has all of them then.
    async fn stage(&mut self, items: Vec<Item>, packs: bool) -> bool {
        let (here, missing): (Vec<_>, Vec<_>) = items.into_iter().partition(Item::is_here);
        self.are_here(&here);
        let (packed, alone): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|item| packs && item.is_small());
        let packed = packs_of(packed).into_iter().map(Load::Pack);
        let loads: Vec<_> = packed.chain(alone.into_iter().map(Load::Blob)).collect();
        let upload = self.upload;
        let sent = stream::iter(loads).map(|load| async move { upload.send(load).await });
        let mut sent = std::pin::pin!(sent.buffer_unordered(UPLOADS_MAX));
        let mut whole = true;
        while !self.hopeless
            && let Some(sent) = sent.next().await
        {
            whole &= self.take(sent);
            if !self.holds_back && self.published.elapsed() >= PUBLISH_INTERVAL {
                whole &= self.publish_packed().await;
            }
        }
        whole && !self.hopeless
    }

    /// Counts blobs that the edge has already, and has the index know of them next time.
    fn are_here(&mut self, here: &[Item]) {
        self.report.existed += len_u64(here.len());
        self.upload.tally.blobs_done(here.len());
        self.upload.tally.bytes_done(here.iter().map(|item| item.size).sum());
        let new = here.iter().filter(|item| item.presence == Presence::Here);
        self.unpublished.extend(new.map(|item| Entry::alone(item.hash, item.size)));
    }

    /// Takes in what came of one upload, and returns whether all of it went up.
    fn take(&mut self, sent: Sent) -> bool {
        let Sent { entries, existed, packed, failures } = sent;
        self.upload.tally.blobs_done(entries.len());
        let count = len_u64(entries.len());
        let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
        if existed {
            self.report.existed += count;
        } else {
            self.report.uploaded += count;
            self.report.bytes += bytes;
        }
        if packed && count > 0 {
            self.report.packed += count;
            self.report.packs += 1;
        }
        self.unpublished.extend(entries);
        let whole = failures.is_empty();
        for (failure, hopeless) in failures {
            self.fail(failure, hopeless);
        }
        whole
    }

    /// Has the index say what went up since the last time, where that is worth it, and returns whether it does.
    async fn publish(&mut self) -> bool {
        // What lies alone is found without the index, which only spares the next push its questions.
        let is_worth = self.upload.edge.has_packs() && self.unpublished.len() >= PACKED_MIN;
        if is_worth { self.publish_all().await } else { self.publish_packed().await }
    }

    /// Does so where something lies in a pack, which nobody finds before.
    async fn publish_packed(&mut self) -> bool {
        self.published = Instant::now();
        match self.unpublished.iter().any(Entry::is_packed) {
            true => self.publish_all().await,
            false => true,
        }
    }

    async fn publish_all(&mut self) -> bool {
        let packed = self.unpublished.iter().filter(|entry| entry.is_packed()).count();
        let entries = std::mem::take(&mut self.unpublished);
        match self.upload.edge.publish(&entries).await {
            Ok(()) => true,
            // It has cost nothing but its own requests.
            Err(error) if packed == 0 => {
                debug!(%error, "the index was not written");
                true
            }
            Err(error) => {
                self.found_by_nobody(packed);
                self.fail(failure(&error), is_hopeless(&error));
                false
            }
        }
    }

    fn fail(&mut self, failure: Failure, hopeless: bool) {
        self.hopeless |= hopeless;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }
}
