//! Reading what nodes do.

use super::super::error::{PlanError, Problem};
use super::super::section::{Field, Key, Keys, Section};
use super::super::tree::Value;
use super::super::{
    BLOBS_MAX, BlobSet, BlobSetId, GETS_MAX, Group, GroupId, Workload, WorkloadKind,
};
use super::names::Names;
use super::{or, required, says, trace};

/// The largest exponent of a popularity; nearly every get is of the first blob already.
const EXPONENT_MAX: f64 = 10.0;

/// The keys of every kind.
const COMMON: &[Key] = &[
    required("kind", "\"pull_set\", \"zipf\", \"add\" or \"trace\"", "what is done"),
    says(
        "name",
        "a name",
        "none",
        "what `--set` and sweeps call it; without one they use its number, from 0",
    ),
    says("group", "the name of a group", "the only group", "whose nodes do it"),
    or(
        "start",
        "times",
        "\"0s\"",
        "when it begins, after the run's start or the node's first start, whichever is later; drawn for each node",
    ),
    or("think", "times", "\"0s\"", "from the end of one get to the start of the next"),
    or("parallel", "a whole number, 1 to 10,000", "4", "gets of one node at once"),
    says("timeout", "a time above zero", "the engine's own", "the most time that a get may take"),
];

const SET: Key = says("blobs", "the name of a blob set", "the only set", "what is wanted");

pub(in super::super) static PULL_SET: Keys = Keys {
    header: "[[workload]] kind = \"pull_set\"",
    about: "Each node gets every blob of a set once.",
    parts: &[
        COMMON,
        &[
            SET,
            or(
                "order",
                "\"random\" or \"set\"",
                "\"random\"",
                "each node in an order of its own, or all in the set's",
            ),
            or(
                "share",
                "a number above 0, to 1",
                "1.0",
                "the share of the set that a node wants, drawn for each node",
            ),
        ],
    ],
};

pub(in super::super) static ZIPF: Keys = Keys {
    header: "[[workload]] kind = \"zipf\"",
    about: "Each node gets blobs by popularity: the blob of rank r with weight 1/r^s.",
    parts: &[
        COMMON,
        &[
            SET,
            or("exponent", "a number, 0 to 10", "0.9", "the exponent s; 0 makes all as likely"),
            required("gets", "a whole number, 1 to 20,000,000", "how many gets a node makes"),
        ],
    ],
};

pub(in super::super) static ADD: Keys = Keys {
    header: "[[workload]] kind = \"add\"",
    about: "Nodes add new blobs of their own, which nobody wants; this loads filters and adverts.",
    parts: &[
        COMMON,
        &[
            required("count", "a whole number, 1 to 1,000,000", "how many a node adds"),
            required("size", "sizes", "their lengths"),
            says(
                "advertised",
                "a boolean",
                "whether the plan has a `[dht]`",
                "whether they are advertised in the DHT",
            ),
        ],
    ],
};

pub(in super::super) static TRACE: Keys = Keys {
    header: "[[workload]] kind = \"trace\"",
    about: "Gets at moments that a CSV file names: a header line `at,node,blobs,blob` and a line for each \
        get: a time after the run's start, the node's number in the group, the name of a set, the blob's \
        number in it, both from 0. A million lines at most. Each get begins at its own \
        moment, whatever `start`, `think` and `parallel` say.",
    parts: &[COMMON, &[required("file", "a path", "the CSV file, relative to the plan's file")]],
};

const KINDS: &[(&str, &Keys)] =
    &[("pull_set", &PULL_SET), ("zipf", &ZIPF), ("add", &ADD), ("trace", &TRACE)];

/// Is what workloads refer to.
pub(super) struct Around<'a> {
    pub(super) groups: &'a [Group],
    pub(super) group_names: &'a Names,
    pub(super) blobs: &'a [BlobSet],
    pub(super) blob_names: &'a Names,
    pub(super) blob_bytes_max: u64,
    pub(super) has_dht: bool,
}

pub(super) fn workloads(
    field: Option<&Field<'_>>,
    around: &Around<'_>,
) -> Result<Vec<Workload>, PlanError> {
    let mut names = Names::new("workloads");
    let mut workloads = Vec::new();
    let mut totals =
        Totals { gets: 0, blobs: around.blobs.iter().map(|set| set.count as u128).sum() };
    for entry in super::fields(field)? {
        let section = entry.section(kind(&entry)?)?;
        if let Some(name) = section.optional("name")? {
            names.add(&name)?;
        }
        let workload = workload(&section, around)?;
        totals.add(&workload, around).map_err(|problem| section.fail(problem))?;
        workloads.push(workload);
    }
    Ok(workloads)
}

/// Finds the keys of an entry by its kind.
fn kind(entry: &Field<'_>) -> Result<&'static Keys, PlanError> {
    let takes = "\"pull_set\", \"zipf\", \"add\" or \"trace\"";
    let Value::Table(table) = &entry.node.value else { return Ok(&PULL_SET) };
    let Some(kind) = table.get("kind") else {
        return Err(entry.fail(Problem::Missing { key: "kind", takes }));
    };
    let path = super::super::section::join(&entry.path, "kind");
    Field { node: std::borrow::Cow::Borrowed(&kind.node), path, takes }.word("kind", KINDS)
}

/// Is what all workloads come to.
struct Totals {
    gets: u128,
    blobs: u128,
}

impl Totals {
    fn add(&mut self, workload: &Workload, around: &Around<'_>) -> Result<(), Problem> {
        let nodes = around.groups.get(workload.group.0).map_or(0, |group| group.count as u128);
        let size = |set: &BlobSetId| around.blobs.get(set.0).map_or(0, |set| set.count as u128);
        match &workload.kind {
            // The share is drawn, so all of the set is counted.
            WorkloadKind::PullSet { blobs, .. } => self.gets += nodes * size(blobs),
            WorkloadKind::Zipf { gets, .. } => self.gets += nodes * u128::from(*gets),
            WorkloadKind::Add { blobs, .. } => self.blobs += nodes * u128::from(*blobs),
            WorkloadKind::Trace { gets } => self.gets += gets.len() as u128,
        }
        if self.gets > GETS_MAX {
            return Err(Problem::TooMany { what: "gets", count: self.gets, most: GETS_MAX });
        }
        let most = BLOBS_MAX as u128;
        if self.blobs > most {
            return Err(Problem::TooMany { what: "blobs", count: self.blobs, most });
        }
        Ok(())
    }
}

fn workload(section: &Section<'_>, around: &Around<'_>) -> Result<Workload, PlanError> {
    let group = around.group_names.of(section, "group")?;
    let timeout = section.optional("timeout")?;
    Ok(Workload {
        group: GroupId(group),
        start: section.field("start")?.times()?,
        think: section.field("think")?.times()?,
        parallel: section.field("parallel")?.count(1..=10_000)?,
        timeout: timeout.map(|field| field.time_above_zero()).transpose()?,
        kind: what(section, around, group)?,
    })
}

fn what(
    section: &Section<'_>,
    around: &Around<'_>,
    group: usize,
) -> Result<WorkloadKind, PlanError> {
    let set = || around.blob_names.of(section, "blobs").map(BlobSetId);
    let kind = section.field("kind")?;
    Ok(match kind.text()? {
        "pull_set" => WorkloadKind::PullSet {
            blobs: set()?,
            shuffled: section.field("order")?.word("order", &[("random", true), ("set", false)])?,
            share: share(&section.field("share")?)?,
        },
        "zipf" => WorkloadKind::Zipf {
            blobs: set()?,
            exponent: section.field("exponent")?.real(0.0..=EXPONENT_MAX)?,
            gets: section.field("gets")?.whole(1..=20_000_000)?,
        },
        "add" => WorkloadKind::Add {
            blobs: section.field("count")?.whole(1..=1_000_000)?,
            size: section.field("size")?.sizes(around.blob_bytes_max)?,
            advertised: match section.optional("advertised")? {
                Some(field) => field.flag()?,
                None => around.has_dht,
            },
        },
        _ => {
            let nodes = around.groups.get(group).map_or(0, |group| group.count);
            let known = trace::Known { nodes, names: around.blob_names, blobs: around.blobs };
            WorkloadKind::Trace { gets: trace::read(&section.field("file")?, &known)? }
        }
    })
}

/// Reads a share of which there must be some.
fn share(field: &Field<'_>) -> Result<f64, PlanError> {
    let share = field.real(0.0..=1.0)?;
    if share > 0.0 {
        return Ok(share);
    }
    Err(field.fail(Problem::out_of_bounds(share, "more than 0, up to 1")))
}
