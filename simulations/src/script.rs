//! A plan with all its dice thrown: who holds what, who wants what and when, whom trouble befalls.
//!
//! A world throws the same dice from the same streams while it sets its stage, so a [`Script`] of a plan and
//! a seed says what the simulated run of both did; a test holds the two together. Whoever plays it with
//! something else than a world, as real nodes, plays the same run. Nothing here knows who plays.

use std::collections::VecDeque;
use std::time::Duration;

use crate::plan::{Distribution, FaultKind, Nodes, Part, Plan, Workload, WorkloadKind, Zipf};
use crate::random::Random;

/// Is a plan, drawn.
#[derive(Clone, Debug)]
pub struct Script {
    /// The nodes, group after group.
    pub nodes: Vec<ScriptNode>,
    /// The blobs, set after set.
    pub blobs: Vec<ScriptBlob>,
    /// Who holds what at the start.
    pub holdings: Vec<Holding>,
    /// The users.
    pub clients: Vec<ScriptClient>,
    /// The faults, in the plan's order.
    pub faults: Vec<ScriptFault>,
}

/// Is one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptNode {
    /// Its name, `GROUP-INDEX`.
    pub name: String,
    /// Indexes [`Plan::groups`].
    pub group: usize,
    /// Indexes [`Plan::sites`].
    pub site: usize,
    /// When it starts.
    pub joins: Duration,
}

/// Is one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptBlob {
    /// Its name, `SET/INDEX`.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Whether the edge holds it.
    pub on_edge: bool,
}

/// Says that a node holds a blob at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Indexes [`Script::nodes`].
    pub node: usize,
    /// Indexes [`Script::blobs`].
    pub blob: usize,
    /// Whether the node advertises it in the DHT.
    pub advertised: bool,
}

/// Is one user of one node.
#[derive(Clone, Debug)]
pub struct ScriptClient {
    /// Indexes [`Script::nodes`].
    pub node: usize,
    /// How long after the later of the run's start and its node's first start it begins.
    pub start: Duration,
    /// From the end of a get to the start of the next, in nanoseconds.
    pub think: Distribution,
    /// How many gets it has under way at once.
    pub parallel: usize,
    /// The most time that a get may take; none is the engine's own.
    pub timeout: Option<Duration>,
    wishes: Wishes,
    random: Random,
}

/// Says what a client wants next.
#[derive(Clone, Debug)]
enum Wishes {
    Listed(VecDeque<usize>),
    Popular { left: u64, first: usize, count: usize, popularity: Zipf },
}

/// Is trouble, its nodes drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptFault {
    /// When it begins.
    pub at: Duration,
    /// How long it lasts; none is to the end.
    pub lasts: Option<Duration>,
    /// What it is.
    pub kind: FaultKind,
    /// Whom it befalls; of a partition one part.
    pub nodes: Vec<usize>,
    /// The other part of a partition.
    pub others: Vec<usize>,
}

impl ScriptClient {
    /// Returns the blob that the client wants next; none once it wants nothing more.
    pub fn next_blob(&mut self) -> Option<usize> {
        match &mut self.wishes {
            Wishes::Listed(blobs) => blobs.pop_front(),
            Wishes::Popular { left, first, popularity, .. } => {
                *left = left.checked_sub(1)?;
                Some(*first + popularity.draw(&mut self.random))
            }
        }
    }

    /// Draws how long the client thinks before its next get.
    pub fn think(&mut self) -> Duration {
        Duration::from_nanos(self.think.draw(&mut self.random))
    }
}

impl Script {
    /// Throws the dice of a plan.
    ///
    /// Workloads that add blobs and those of traces have no clients here.
    pub fn of(plan: &Plan) -> Self {
        Writing::new(plan).script()
    }

    /// Returns the most that a node may come to hold in bytes: what it holds and all that it may want.
    pub fn bytes_max_of(&self, node: usize) -> u64 {
        let size = |blob: usize| self.blobs.get(blob).map_or(0, |blob| blob.size);
        let held = self.holdings.iter().filter(|held| held.node == node).map(|held| held.blob);
        let clients = self.clients.iter().filter(|client| client.node == node);
        let wanted = clients.flat_map(|client| match &client.wishes {
            Wishes::Listed(blobs) => blobs.iter().copied().collect::<Vec<_>>(),
            Wishes::Popular { first, count, .. } => (*first..*first + count).collect(),
        });
        let all: std::collections::BTreeSet<usize> = held.chain(wanted).collect();
        all.into_iter().map(size).fold(0, u64::saturating_add)
    }
}

/// Is a script that is being written. The labels of its streams are those of the stage of a world.
struct Writing<'a> {
    plan: &'a Plan,
    random: Random,
    nodes: Vec<ScriptNode>,
    /// The first node of each group.
    first_node: Vec<usize>,
    /// The first blob of each set.
    first_blob: Vec<usize>,
}

impl<'a> Writing<'a> {
    fn new(plan: &'a Plan) -> Self {
        let random = Random::new(plan.seed).fork("stage", 0);
        let (nodes, first_node, first_blob) = (Vec::new(), Vec::new(), Vec::new());
        Self { plan, random, nodes, first_node, first_blob }
    }

    fn script(mut self) -> Script {
        self.place_nodes();
        let blobs = self.blobs();
        let holdings = self.holdings();
        let workloads = self.plan.workloads.iter().enumerate();
        let clients = workloads.flat_map(|(index, workload)| self.clients(index, workload));
        let clients = clients.collect();
        let faults = self.faults();
        Script { nodes: self.nodes, blobs, holdings, clients, faults }
    }

    fn place_nodes(&mut self) {
        for (index, group) in self.plan.groups.iter().enumerate() {
            self.first_node.push(self.nodes.len());
            let mut random = self.random.fork("joins", index as u64);
            self.nodes.extend((0..group.count).map(|place| ScriptNode {
                name: format!("{}-{place}", group.name),
                group: index,
                site: group.site.0,
                joins: Duration::from_nanos(group.join.draw(&mut random)),
            }));
        }
    }

    fn blobs(&mut self) -> Vec<ScriptBlob> {
        let mut all = Vec::new();
        for (index, set) in self.plan.blobs.iter().enumerate() {
            self.first_blob.push(all.len());
            let mut sizes = self.random.fork("sizes", index as u64);
            all.extend((0..set.count).map(|place| ScriptBlob {
                name: format!("{}/{place}", set.name),
                size: set.size.draw(&mut sizes),
                on_edge: set.on_edge,
            }));
        }
        all
    }

    fn holdings(&self) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for (index, set) in self.plan.blobs.iter().enumerate() {
            let mut random = self.random.fork("holders", index as u64);
            for held in &set.held_by {
                let (nodes, advertised) = (self.nodes_of(held.group.0), held.advertised);
                for blob in self.blobs_of(index) {
                    let chosen = random.choose(held.copies, nodes.len());
                    let chosen = chosen.into_iter().filter_map(|at| nodes.get(at).copied());
                    holdings.extend(chosen.map(|node| Holding { node, blob, advertised }));
                }
            }
        }
        holdings
    }

    fn clients(&self, index: usize, workload: &Workload) -> Vec<ScriptClient> {
        let stream = self.random.fork("workload", index as u64);
        let nodes = self.nodes_of(workload.group.0).into_iter().enumerate();
        let client = |(place, node): (usize, usize)| {
            let mut random = stream.fork("client", place as u64);
            let wishes = self.wishes(&workload.kind, &mut random)?;
            Some(ScriptClient {
                node,
                start: Duration::from_nanos(workload.start.draw(&mut random)),
                think: workload.think.clone(),
                parallel: workload.parallel,
                timeout: workload.timeout,
                wishes,
                random,
            })
        };
        nodes.filter_map(client).collect()
    }

    fn wishes(&self, kind: &WorkloadKind, random: &mut Random) -> Option<Wishes> {
        match kind {
            WorkloadKind::PullSet { blobs, shuffled, share } => {
                let mut wanted = self.blobs_of(blobs.0);
                if *share < 1.0 {
                    wanted.retain(|_| random.chance(*share));
                }
                if *shuffled {
                    random.shuffle(&mut wanted);
                }
                Some(Wishes::Listed(wanted.into()))
            }
            WorkloadKind::Zipf { blobs, exponent, gets } => {
                let all = self.blobs_of(blobs.0);
                let (first, count) = (all.first().copied().unwrap_or(0), all.len());
                let popularity = Zipf::new(count, *exponent);
                Some(Wishes::Popular { left: *gets, first, count, popularity })
            }
            WorkloadKind::Add { .. } | WorkloadKind::Trace { .. } => None,
        }
    }

    fn faults(&self) -> Vec<ScriptFault> {
        let draw = |(index, fault): (usize, &crate::plan::Fault)| {
            let mut random = self.random.fork("fault", index as u64);
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
            ScriptFault {
                at: fault.at,
                lasts: fault.lasts,
                kind: fault.kind.clone(),
                nodes,
                others,
            }
        };
        self.plan.faults.iter().enumerate().map(draw).collect()
    }

    fn draw(&self, nodes: &Nodes, random: &mut Random) -> Vec<usize> {
        let (group, part) = match nodes {
            Nodes::Site(site) => {
                let all = self.nodes.iter().enumerate();
                return all.filter(|(_, node)| node.site == site.0).map(|(at, _)| at).collect();
            }
            Nodes::Group { group, part } => (group.0, part),
        };
        let all = self.nodes_of(group);
        let count = match part {
            Part::All => return all,
            Part::Indexes(range) => return all.get(range.clone()).unwrap_or_default().to_vec(),
            Part::Share(share) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a count is no larger than it"
                )]
                let count = (all.len() as f64 * share).round() as usize;
                count
            }
            Part::Count(count) => *count,
        };
        let chosen = random.choose(count, all.len());
        chosen.into_iter().filter_map(|at| all.get(at).copied()).collect()
    }

    fn nodes_of(&self, group: usize) -> Vec<usize> {
        let first = self.first_node.get(group).copied().unwrap_or(0);
        let count = self.plan.groups.get(group).map_or(0, |group| group.count);
        (first..first + count).collect()
    }

    fn blobs_of(&self, set: usize) -> Vec<usize> {
        let first = self.first_blob.get(set).copied().unwrap_or(0);
        let count = self.plan.blobs.get(set).map_or(0, |set| set.count);
        (first..first + count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Source;
    use crate::world::{RunOptions, run_plan};

    const PLAN: &str = r#"
name = "drawn"
seed = 5
duration = "60s"

[[group]]
name = "seeder"
count = 3

[[group]]
name = "runner"
count = 4
join = { dist = "uniform", over = "2s" }

[[blobs]]
name = "layers"
count = 5
size = { dist = "uniform", min = "10kB", max = "2MB" }
held_by = { group = "seeder", copies = 2 }

[[workload]]
kind = "pull_set"
group = "runner"
start = { dist = "uniform", min = "3s", max = "5s" }
parallel = 1
share = 0.5

[[event]]
at = "50s"
kill = { group = "seeder", count = 1 }
"#;

    fn plan(text: &str) -> Plan {
        Source::parse("drawn", text).unwrap().plan().unwrap()
    }

    #[test]
    fn script_draws_what_a_world_draws() {
        let plan = plan(PLAN);
        let mut script = Script::of(&plan);
        let outcome = run_plan(&plan, &RunOptions::default(), |_| ()).unwrap();
        let (mut wanted, mut simulated) = (Vec::new(), Vec::new());
        for client in &mut script.clients {
            let node = script.nodes[client.node].clone();
            let rows = outcome.fetches.iter().filter(|row| row.node == node.name);
            let first = rows.clone().map(|row| row.start_ns).min();
            let begins = node.joins + client.start;
            assert!(first.is_none_or(|first| u128::from(first) == begins.as_nanos()));
            simulated.extend(rows.map(|row| (row.node.clone(), row.blob.clone(), row.size)));
            while let Some(blob) = client.next_blob() {
                let blob = &script.blobs[blob];
                wanted.push((node.name.clone(), blob.name.clone(), blob.size));
            }
        }
        assert!(!wanted.is_empty() && wanted == simulated, "{wanted:?} {simulated:?}");
        for (node, row) in script.nodes.iter().zip(&outcome.nodes) {
            assert_eq!(row.node, node.name);
            assert_eq!(row.joined_ns.map(u128::from), Some(node.joins.as_nanos()));
        }
        // A seeder wants nothing: what its store holds at the end it held at the start.
        for (at, row) in outcome.nodes.iter().enumerate().filter(|(_, row)| row.group == "seeder") {
            assert_eq!(row.stored_bytes, script.bytes_max_of(at), "{}", row.node);
        }
    }

    #[test]
    fn faults_befall_as_many_as_the_plan_says() {
        let script = Script::of(&plan(PLAN));
        assert_eq!(script.faults.len(), 1);
        assert!(matches!(script.faults[0].nodes[..], [0..=2]), "{:?}", script.faults);
    }
}
