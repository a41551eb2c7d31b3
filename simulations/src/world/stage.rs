//! Setting the stage: a world made from a plan, run to its end.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use blobmesh_protocol::{Config, Hash, Time};

use super::faults::Drawn;
use super::workload::{Client, Wishes};
use super::{Calibration, Event, NodeIndex, NodeSpec, World};
use crate::outcome::{Detail, Outcome};
use crate::plan::{
    BlobSetId, FaultKind, Group, GroupId, Nodes, Part, Plan, Workload, WorkloadKind, Zipf,
};
use crate::random::Random;

/// Says how a plan is run, beside what the plan says.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// How fast the machine is that is modelled.
    pub calibration: Calibration,
    /// How much is written down.
    pub detail: Detail,
    /// Where the event log goes, if anywhere.
    pub event_log: Option<PathBuf>,
    /// How many threads work at the run; none is as one. They make no difference to what happens.
    pub threads: usize,
}

/// Says why a run gave no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The event log could not be made or written.
    #[error("write the event log {path}")]
    EventLog {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// Tells how far a run is: the virtual time reached, the plan's duration, events handled, gets done.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The virtual time reached.
    pub now: Duration,
    /// The virtual time at which the run ends at the latest.
    pub end: Duration,
    /// Events handled.
    pub events: u64,
    /// Gets that ended, and gets that were wanted.
    pub gets: (u64, u64),
}

/// Runs a plan to its end: until its clients want nothing more, or its duration is over. `progress` is
/// told every few thousand events.
pub fn run_plan(
    plan: &Plan,
    options: &RunOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Outcome, RunError> {
    let mut stage = Stage::new(plan, options)?;
    stage.set();
    stage.world.work_on(options.threads);
    let end = Time::ZERO + plan.duration;
    let whole = stage.world.workloads.is_empty();
    while stage.world.next_at().is_some_and(|at| at <= end) {
        stage.world.run_until(end, |world| {
            let (now, events) = (world.now - Time::ZERO, world.steps);
            progress(Progress { now, end: plan.duration, events, gets: world.tally.gets() });
            whole || !world.is_done()
        });
        if !whole && stage.world.is_done() {
            break;
        }
    }
    let mut outcome = stage.world.outcome();
    outcome.summary.insert("nodes", to_float(plan.nodes()));
    match (stage.world.log.take_error(), &options.event_log) {
        (Some(source), Some(path)) => Err(RunError::EventLog { path: path.clone(), source }),
        _ => Ok(outcome),
    }
}

/// Is a world that is being made from a plan.
struct Stage<'a> {
    plan: &'a Plan,
    world: World,
    random: Random,
    /// The first node of each group.
    first: Vec<NodeIndex>,
    /// The hashes of each set.
    blobs: Vec<Vec<Hash>>,
}

impl<'a> Stage<'a> {
    fn new(plan: &'a Plan, options: &RunOptions) -> Result<Self, RunError> {
        let mut world = World::calibrated(plan.seed, options.calibration.clone());
        world.set_detail(options.detail.clone());
        if let Some(path) = &options.event_log {
            world
                .log_to(path)
                .map_err(|source| RunError::EventLog { path: path.clone(), source })?;
        }
        let random = Random::new(plan.seed).fork("stage", 0);
        Ok(Self { plan, world, random, first: Vec::new(), blobs: Vec::new() })
    }

    fn set(&mut self) {
        for site in &self.plan.sites {
            self.world.add_site(site);
        }
        if let Some(edge) = &self.plan.edge {
            self.world.set_edge(edge);
        }
        if let Some(dht) = &self.plan.dht {
            self.world.set_dht(dht);
        }
        self.place_nodes();
        self.make_blobs();
        self.hold_blobs();
        for (index, workload) in self.plan.workloads.iter().enumerate() {
            self.add_clients(index, workload);
        }
        self.plan_faults();
        self.plan_starts();
        self.world.sample_every(self.plan.metrics.every);
        self.world.look_into_filters(self.plan.metrics.filter_looks);
    }

    fn place_nodes(&mut self) {
        for group in &self.plan.groups {
            self.first.push(self.world.hosts.len());
            let config = self.config_of(group);
            for index in 0..group.count {
                let spec = NodeSpec {
                    site: group.site,
                    config: config.clone(),
                    up: least(&[group.up, group.disk]),
                    down: least(&[group.down, group.disk, group.hash]),
                    cache: group.cache,
                };
                let node = self.world.place_node(spec);
                self.world.tally.name_node(node, group, index, &self.plan.sites);
            }
        }
    }

    /// Returns the configuration of a group's engines: what the plan has not, they do not ask.
    fn config_of(&self, group: &Group) -> Config {
        let config = group.engine.clone().unwrap_or_else(|| self.plan.engine.clone());
        Config {
            edge: self.plan.edge.is_some(),
            provider_search: config.provider_search && self.plan.dht.is_some(),
            adverts: config.adverts && self.plan.dht.is_some(),
            ..config
        }
    }

    fn make_blobs(&mut self) {
        for (set, blobs) in self.plan.blobs.iter().enumerate() {
            let mut sizes = self.random.fork("sizes", to_int(set));
            let mut hashes = Vec::with_capacity(blobs.count);
            for index in 0..blobs.count {
                let size = blobs.size.draw(&mut sizes);
                let name = format!("{}/{index}", blobs.name);
                let hash = Hash::of(format!("blobmesh-sim {} {name}", self.plan.seed).as_bytes());
                self.world.tally.name_blob(hash, name);
                self.world.blobs.insert(hash, size);
                if blobs.on_edge {
                    self.world.add_to_edge(hash, size);
                }
                hashes.push(hash);
            }
            self.blobs.push(hashes);
        }
    }

    /// Puts blobs into the stores of those who hold them at the start.
    fn hold_blobs(&mut self) {
        for (set, blobs) in self.plan.blobs.iter().enumerate() {
            let mut random = self.random.fork("holders", to_int(set));
            let hashes = self.blobs.get(set).cloned().unwrap_or_default();
            for held in &blobs.held_by {
                let nodes = self.group_nodes(held.group);
                for hash in &hashes {
                    let size = self.world.blobs.get(hash).copied().unwrap_or(0);
                    for at in random.choose(held.copies, nodes.len()) {
                        if let Some(node) = nodes.get(at) {
                            let own = (true, held.advertised);
                            self.world.store_blob(*node, *hash, size, own);
                        }
                    }
                }
            }
        }
    }

    fn group_nodes(&self, group: GroupId) -> Vec<NodeIndex> {
        let first = self.first.get(group.0).copied().unwrap_or(0);
        let count = self.plan.groups.get(group.0).map_or(0, |group| group.count);
        (first..first + count).collect()
    }

    fn add_clients(&mut self, index: usize, workload: &Workload) {
        let stream = self.random.fork("workload", to_int(index));
        for (place, node) in self.group_nodes(workload.group).into_iter().enumerate() {
            let mut random = stream.fork("client", to_int(place));
            let wishes = self.wishes(workload, place, &mut random);
            let start = Duration::from_nanos(workload.start.draw(&mut random));
            let mut client = Client::new(node, wishes, start, random);
            client.think = workload.think.clone();
            client.parallel = workload.parallel;
            client.timeout = workload.timeout;
            self.world.workloads.push(client);
        }
    }

    fn wishes(&self, workload: &Workload, place: usize, random: &mut Random) -> Wishes {
        match &workload.kind {
            WorkloadKind::PullSet { blobs, shuffled, share } => {
                let mut wanted = self.hashes(*blobs);
                if *share < 1.0 {
                    wanted.retain(|_| random.chance(*share));
                }
                if *shuffled {
                    random.shuffle(&mut wanted);
                }
                Wishes::Listed(wanted.into())
            }
            WorkloadKind::Zipf { blobs, exponent, gets } => {
                let blobs = self.hashes(*blobs);
                let popularity = Zipf::new(blobs.len(), *exponent);
                Wishes::Popular { left: *gets, blobs, popularity }
            }
            WorkloadKind::Add { blobs, size, advertised } => {
                Wishes::Add { left: *blobs, size: size.clone(), advertised: *advertised }
            }
            WorkloadKind::Trace { gets } => {
                let own = gets.iter().filter(|get| get.node == place);
                let timed: VecDeque<_> = own
                    .filter_map(|get| {
                        let hash = self.blobs.get(get.blobs.0)?.get(get.blob)?;
                        Some((Time::ZERO + get.at, *hash))
                    })
                    .collect();
                Wishes::Timed(timed)
            }
        }
    }

    fn hashes(&self, set: BlobSetId) -> Vec<Hash> {
        self.blobs.get(set.0).cloned().unwrap_or_default()
    }

    fn plan_faults(&mut self) {
        for (index, fault) in self.plan.faults.iter().enumerate() {
            let mut random = self.random.fork("fault", to_int(index));
            let (nodes, others) = match &fault.kind {
                FaultKind::Kill { nodes }
                | FaultKind::Slow { nodes, .. }
                | FaultKind::Malicious { nodes, .. } => (self.draw(nodes, &mut random), Vec::new()),
                FaultKind::Partition { a, b } => {
                    (self.draw(a, &mut random), self.draw(b, &mut random))
                }
                FaultKind::EdgeOutage | FaultKind::UplinkOutage { .. } | FaultKind::DhtOutage => {
                    (Vec::new(), Vec::new())
                }
            };
            let (lasts, kind) = (fault.lasts, fault.kind.clone());
            let index = self.world.faults.push(Drawn { lasts, kind, nodes, others });
            self.world.schedule_own(Time::ZERO + fault.at, Event::Fault { index });
        }
    }

    fn draw(&self, nodes: &Nodes, random: &mut Random) -> Vec<NodeIndex> {
        let (group, part) = match nodes {
            Nodes::Site(site) => return self.world.sites.members(*site).to_vec(),
            Nodes::Group { group, part } => (*group, part),
        };
        let all = self.group_nodes(group);
        let count = match part {
            Part::All => return all,
            Part::Indexes(range) => return all.get(range.clone()).unwrap_or_default().to_vec(),
            Part::Share(share) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a count is no larger than it"
                )]
                let count = (to_float(all.len()) * share).round() as usize;
                count
            }
            Part::Count(count) => *count,
        };
        let chosen = random.choose(count, all.len());
        chosen.into_iter().filter_map(|at| all.get(at).copied()).collect()
    }

    fn plan_starts(&mut self) {
        for (index, group) in self.plan.groups.iter().enumerate() {
            let mut random = self.random.fork("joins", to_int(index));
            for node in self.group_nodes(GroupId(index)) {
                let at = Time::from_nanos(group.join.draw(&mut random));
                self.world.set_sessions(node, group, random.fork("sessions", to_int(node)));
                self.world.schedule_own(at, Event::Start { node });
            }
        }
    }
}

fn least(rates: &[Option<u64>]) -> Option<u64> {
    rates.iter().flatten().copied().min()
}

fn to_int(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn to_float(count: usize) -> f64 {
    count as f64
}
