//! What must be true of a world's outcome: of any, whatever befell it, and of one that nothing befell.

use std::time::Duration;

use super::SECONDS;
use crate::outcome::{FetchRow, Outcome, SeriesRow};
use crate::plan::{BlobSet, Group, GroupId, Plan, Workload, WorkloadKind};

/// The most that a get may take: the largest blob over a link that is slow and shared, tried again and
/// again. (A node whose sessions are shorter than its gets may want them for ever, each a new get.)
const GET_NANOS_MAX: u64 = 2_000 * SECONDS;
/// A row of each law is enough to look into a world.
const ROWS_TOLD_MAX: usize = 5;

/// Returns what is wrong with an outcome, beside the invariants that the world itself looks at.
pub(super) fn broken(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let mut faults = sums(outcome);
    let calm = is_calm(plan);
    for law in [ended_in_time, kept_its_deadline, came_from_somewhere] {
        faults.extend(rows(plan, outcome, law));
    }
    if calm {
        faults.extend(rows(plan, outcome, found_what_is_there));
    }
    if let Some(at) = transfer_left_behind(outcome) {
        faults.push(format!("a transfer runs at {} s that no get wants", at / SECONDS));
    }
    faults
}

/// Returns whether nothing befalls a world, so that what somebody has must be found.
pub(super) fn is_calm(plan: &Plan) -> bool {
    let stays = |group: &Group| group.session.is_none() && group.cache.is_none();
    plan.faults.is_empty()
        && plan.groups.iter().all(stays)
        && plan.edge.as_ref().is_none_or(|edge| edge.error_rate <= 0.0)
        && plan.engine.busy_patience >= PATIENCE
}

/// How long a node of a calm world waits for a holder that is busy: longer than all it wants takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(3_000);

fn sums(outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    let metric = |name: &str| outcome.summary.get(name).copied().unwrap_or(0.0);
    let ends = ["gets.ok", "gets.failed", "gets.killed", "gets.unfinished"];
    let ended: f64 = ends.iter().map(|name| metric(name)).sum();
    if (ended - metric("gets")).abs() > 0.5 {
        faults.push(format!("{} gets were wanted and {ended} accounted for", metric("gets")));
    }
    let (received, sent) = (metric("lan.bytes"), metric("sent.bytes"));
    if (received - sent).abs() > 0.5 {
        faults.push(format!("peers sent {sent} bytes and received {received}"));
    }
    faults
}

type Law = fn(&Get<'_>) -> Option<String>;

/// Is a get with what the plan says of it.
struct Get<'a> {
    plan: &'a Plan,
    row: &'a FetchRow,
    group: &'a Group,
    set: &'a BlobSet,
}

fn rows(plan: &Plan, outcome: &Outcome, law: Law) -> Vec<String> {
    let gets = outcome.fetches.iter().filter_map(|row| Get::of(plan, row));
    let told = gets.filter_map(|get| {
        let what = law(&get)?;
        Some(format!("{} on {} {what}", get.row.blob, get.row.node))
    });
    told.take(ROWS_TOLD_MAX).collect()
}

impl<'a> Get<'a> {
    /// Finds the group and the set of a row: nodes are named `GROUP-INDEX`, blobs `SET/INDEX`.
    fn of(plan: &'a Plan, row: &'a FetchRow) -> Option<Self> {
        let (group, set) = (row.node.rsplit_once('-')?.0, row.blob.split_once('/')?.0);
        let group = plan.groups.iter().find(|known| known.name == group)?;
        let set = plan.blobs.iter().find(|known| known.name == set)?;
        Some(Self { plan, row, group, set })
    }

    /// Returns the workloads that may have wanted it.
    fn workloads(&self) -> impl Iterator<Item = &Workload> {
        let group = |id: GroupId| self.plan.groups.get(id.0).is_some_and(|of| of == self.group);
        let wants = move |workload: &&Workload| match &workload.kind {
            WorkloadKind::PullSet { blobs, .. } | WorkloadKind::Zipf { blobs, .. } => {
                group(workload.group) && self.plan.blobs.get(blobs.0) == Some(self.set)
            }
            WorkloadKind::Add { .. } | WorkloadKind::Trace { .. } => false,
        };
        self.plan.workloads.iter().filter(wants)
    }
}

fn ended_in_time(get: &Get<'_>) -> Option<String> {
    let longest = GET_NANOS_MAX.saturating_add(edge_nanos(get));
    let late = get.row.result == "unfinished" && get.row.took_ns > longest;
    late.then(|| format!("had not ended after {} s", get.row.took_ns / SECONDS))
}

/// Returns how long the edge, or the uplink of a site, needs to give everybody all that the edge holds: as long as each node
/// takes a copy of its own, a get may have to wait for that.
fn edge_nanos(get: &Get<'_>) -> u64 {
    let Some(edge) = &get.plan.edge else { return 0 };
    let site = get.plan.sites.get(get.group.site.0);
    let uplink = site.and_then(|site| site.uplink.as_ref()?.down);
    let Some(rate) = [edge.rate, uplink].into_iter().flatten().min() else { return 0 };
    let nodes: usize = get.plan.groups.iter().map(|group| group.count).sum();
    let held = get.plan.blobs.iter().filter(|set| set.on_edge);
    let bytes: u128 = held.map(|set| set.count as u128 * u128::from(set.size.max)).sum();
    let nanos = bytes * nodes as u128 * u128::from(SECONDS) / u128::from(rate.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// A get ends at its deadline, if it has one, and nothing else is waited for.
fn kept_its_deadline(get: &Get<'_>) -> Option<String> {
    let longest = get.workloads().map(|workload| workload.timeout).max_by_key(|timeout| {
        // None is without end.
        timeout.unwrap_or(Duration::MAX)
    })??;
    let took = Duration::from_nanos(get.row.took_ns);
    (took > longest).then(|| format!("took {took:?} and was given {longest:?}"))
}

fn came_from_somewhere(get: &Get<'_>) -> Option<String> {
    let nowhere = !get.set.on_edge && get.set.held_by.is_empty();
    (nowhere && get.row.result == "ok").then(|| "was got, and nobody had it".to_owned())
}

/// In a calm world a get may run out of its time, or be one too many; it does not fail to find what the
/// edge has, or a neighbour who was there before.
fn found_what_is_there(get: &Get<'_>) -> Option<String> {
    if ["ok", "timed_out", "too_many", "unfinished"].contains(&get.row.result) {
        return None;
    }
    let on_edge = get.plan.edge.is_some() && get.set.on_edge;
    let holder = if on_edge { "the edge" } else { "a neighbour" };
    (on_edge || is_near(get)).then(|| format!("ended with {}, and {holder} has it", get.row.result))
}

/// Returns whether a neighbour holds a blob from the start, and all of the site are neighbours.
fn is_near(get: &Get<'_>) -> bool {
    let site = get.group.site;
    let of_site = get.plan.groups.iter().filter(|group| group.site == site);
    let all = of_site.map(|group| group.count).sum::<usize>();
    let sees = get.plan.sites.get(site.0).is_some_and(|site| site.discovery.is_some());
    let group_site = |id: GroupId| get.plan.groups.get(id.0).map(|group| group.site);
    sees && all <= get.plan.engine.neighbours_max
        && get.set.held_by.iter().any(|held| group_site(held.group) == Some(site))
}

/// Returns the moment at which bytes came for nobody, if they did: a transfer was there a whole interval
/// after the last get had ended.
fn transfer_left_behind(outcome: &Outcome) -> Option<u64> {
    let pairs = outcome.series.windows(2);
    let idle =
        |pair: &&[SeriesRow]| pair.iter().all(|row| row.gets_open == 0 && row.transfers_open > 0);
    // A node may have wanted, and got, something in between.
    let same = |pair: &&[SeriesRow]| match pair {
        [a, b] => (a.gets_done, a.gets_failed) == (b.gets_done, b.gets_failed),
        _ => false,
    };
    pairs.filter(idle).find(same).and_then(|pair| pair.last()).map(|row| row.at_ns)
}
