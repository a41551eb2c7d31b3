//! Reading what blobs there are, and who holds them at the start.

use super::super::error::{PlanError, Problem};
use super::super::section::{Field, Keys, Section};
use super::super::tree::Value;
use super::super::{BLOBS_MAX, BlobSet, Group, GroupId, HOLDINGS_MAX, HeldBy, NODES_MAX};
use super::names::Names;
use super::{or, required, says};

pub(in super::super) static BLOBS: Keys = Keys {
    header: "[[blobs]]",
    about: "A number of blobs, made before the run; a million at most in all.",
    parts: &[&[
        required("name", "a name", "what workloads call the set"),
        or("count", "a whole number, 1 to 1,000,000", "1", "how many blobs"),
        required("size", "sizes", "their lengths"),
        says(
            "on_edge",
            "a boolean",
            "whether the plan has an `[edge]`",
            "whether the edge holds them",
        ),
        or(
            "held_by",
            "a table or a list of tables",
            "[]",
            "which nodes hold them at the start, see below",
        ),
    ]],
};

pub(in super::super) static HELD_BY: Keys = Keys {
    header: "blobs.held_by",
    about: "Which nodes hold the blobs of a set when they start.",
    parts: &[&[
        says("group", "the name of a group", "the only group", "whose nodes"),
        or(
            "copies",
            "a whole number, 1 to 200,000, or \"all\"",
            "1",
            "how many nodes of it hold each blob, drawn; as many as it has at most",
        ),
        says(
            "advertised",
            "a boolean",
            "whether the plan has a `[dht]`",
            "whether they advertise it in the DHT",
        ),
    ]],
};

/// Is what blobs refer to.
pub(super) struct Around<'a> {
    pub(super) groups: &'a [Group],
    pub(super) names: &'a Names,
    pub(super) blob_bytes_max: u64,
    pub(super) has_edge: bool,
    pub(super) has_dht: bool,
}

pub(super) fn blobs(
    field: Option<&Field<'_>>,
    around: &Around<'_>,
) -> Result<(Vec<BlobSet>, Names), PlanError> {
    let mut names = Names::new("blob sets");
    let mut sets = Vec::new();
    let mut total = 0_usize;
    let mut holdings = 0_u128;
    for section in super::entries(field, &BLOBS)? {
        names.add(&section.field("name")?)?;
        let set = blob_set(&section, around)?;
        total = total.saturating_add(set.count);
        if total > BLOBS_MAX {
            let problem =
                Problem::TooMany { what: "blobs", count: total as u128, most: BLOBS_MAX as u128 };
            return Err(section.field("count")?.fail(problem));
        }
        holdings += held(&set);
        if holdings > HOLDINGS_MAX {
            let what = "copies of blobs on nodes";
            let problem = Problem::TooMany { what, count: holdings, most: HOLDINGS_MAX };
            return Err(section.field("held_by")?.fail(problem));
        }
        sets.push(set);
    }
    Ok((sets, names))
}

/// Counts the copies that a set has at the start.
fn held(set: &BlobSet) -> u128 {
    let copies: u128 = set.held_by.iter().map(|held| held.copies as u128).sum();
    copies * set.count as u128
}

fn blob_set(section: &Section<'_>, around: &Around<'_>) -> Result<BlobSet, PlanError> {
    let on_edge = match section.optional("on_edge")? {
        Some(field) => {
            let on_edge = field.flag()?;
            if on_edge && !around.has_edge {
                let problem = "is true, but the plan has no `[edge]`";
                return Err(field.fail(Problem::Other(problem.to_owned())));
            }
            on_edge
        }
        None => around.has_edge,
    };
    let field = section.field("held_by")?;
    let held_by = if matches!(field.node.value, Value::Table(_)) {
        vec![held_by(&field, around)?]
    } else {
        let entries = field.list()?;
        entries.iter().map(|field| held_by(field, around)).collect::<Result<Vec<_>, _>>()?
    };
    Ok(BlobSet {
        name: section.field("name")?.text()?.to_owned(),
        count: section.field("count")?.count(1..=BLOBS_MAX)?,
        size: section.field("size")?.sizes(around.blob_bytes_max)?,
        on_edge,
        held_by,
    })
}

fn held_by(field: &Field<'_>, around: &Around<'_>) -> Result<HeldBy, PlanError> {
    let section = field.section(&HELD_BY)?;
    let copies = section.field("copies")?;
    let group = around.names.of(&section, "group")?;
    let nodes = around.groups.get(group).map_or(0, |group| group.count);
    Ok(HeldBy {
        group: GroupId(group),
        copies: if copies.is("all") { nodes } else { copies.count(1..=NODES_MAX)?.min(nodes) },
        advertised: match section.optional("advertised")? {
            Some(field) => field.flag()?,
            None => around.has_dht,
        },
    })
}
