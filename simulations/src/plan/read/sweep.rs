//! Reading what must hold and what is varied: the tables whose keys are paths.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::error::{PlanError, Problem};
use super::super::section::{Field, Keys, Section, join};
use super::super::tree::{Node, Table, Value};
use super::super::{Assert, CELLS_MAX, Sweep};
use super::or;

/// The one key of `[sweep]` that is no path.
pub(in super::super) static SWEEP: Keys = Keys {
    header: "[sweep]",
    about: "What `sweep` varies. Every other key is a path into the plan, as `\"group.runner.count\"`, with \
        the list of values to take; every combination is a cell, 1,000 at most.",
    parts: &[&[or(
        "repeat",
        "a whole number, 1 to 10,000",
        "5",
        "how many seeds each cell runs with",
    )]],
};

pub(super) fn asserts(top: &Section<'_>) -> Result<Vec<Assert>, PlanError> {
    let mut asserts = Vec::new();
    let Some(field) = top.optional("assert")? else { return Ok(asserts) };
    for (measure, node) in leaves(&field)? {
        let path = join("assert", &measure);
        let several = if let Value::List(bounds) = &node.value { Some(bounds) } else { None };
        let bounds = several.map_or(std::slice::from_ref(&node), Vec::as_slice);
        for bound in bounds {
            let takes = "a string, as \"<= 20s\"";
            let field = Field { node: Cow::Borrowed(bound), path: path.clone(), takes };
            let assert = Assert::parse(&measure, field.text()?);
            asserts.push(assert.map_err(|problem| field.fail(problem))?);
        }
    }
    Ok(asserts)
}

/// Returns the leaves of a table whose keys are paths; `a.b = 1` and `"a.b" = 1` are the same.
fn leaves(field: &Field<'_>) -> Result<Vec<(String, Node)>, PlanError> {
    let Value::Table(table) = &field.node.value else {
        let found = field.node.value.kind();
        return Err(field.fail(Problem::WrongType { takes: "a table", found }));
    };
    let mut leaves = Vec::new();
    descend(table, "", &mut leaves);
    Ok(leaves)
}

fn descend(table: &Table, path: &str, leaves: &mut Vec<(String, Node)>) {
    for (key, entry) in table {
        let path = join(path, key);
        if let Value::Table(table) = &entry.node.value {
            descend(table, &path, leaves);
        } else {
            leaves.push((path, entry.node.clone()));
        }
    }
}

pub(super) fn sweep(top: &Section<'_>) -> Result<Sweep, PlanError> {
    let Some(field) = top.optional("sweep")? else {
        return Ok(Sweep { repeat: REPEAT, axes: BTreeMap::new() });
    };
    let Axes { repeat, axes } = axes(&field)?;
    let texts = |axis: Axis| (axis.path, axis.values.iter().map(Node::text).collect());
    Ok(Sweep { repeat, axes: axes.into_iter().map(texts).collect() })
}

/// How many seeds a cell runs with where the plan does not say.
const REPEAT: u32 = 5;

/// Is what a sweep varies.
pub(in super::super) struct Axes {
    repeat: u32,
    pub(in super::super) axes: Vec<Axis>,
}

/// Is one path and the values that it takes.
pub(in super::super) struct Axis {
    pub(in super::super) path: String,
    pub(in super::super) values: Vec<Node>,
}

/// Reads `[sweep]`; the axes come in the order of their paths.
pub(in super::super) fn axes(field: &Field<'_>) -> Result<Axes, PlanError> {
    let mut read = Axes { repeat: REPEAT, axes: Vec::new() };
    let mut cells = 1_u128;
    for (path, node) in leaves(field)? {
        let takes = "a list of values";
        let field = Field { node: Cow::Borrowed(&node), path: join("sweep", &path), takes };
        if path == "repeat" {
            let field = Field { takes: "a whole number", ..field };
            read.repeat = u32::try_from(field.whole(1..=10_000)?).unwrap_or(REPEAT);
            continue;
        }
        let head = path.split('.').next().unwrap_or("");
        if ["schema", "include", "sweep", "assert"].contains(&head) {
            let problem = format!("`{head}` cannot be varied");
            return Err(field.fail(Problem::BadPath(problem)));
        }
        let count = field.list()?.len();
        if count == 0 {
            return Err(field.fail(Problem::Other("has no values".to_owned())));
        }
        cells = cells.saturating_mul(count as u128);
        if cells > CELLS_MAX {
            let problem = Problem::TooMany { what: "cells", count: cells, most: CELLS_MAX };
            return Err(field.fail(problem));
        }
        let Value::List(values) = node.value else { continue };
        read.axes.push(Axis { path, values });
    }
    read.axes.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some([twice, _]) = read.axes.windows(2).find_map(same_path) {
        let problem = format!("`{}` is named twice", twice.path);
        return Err(field.fail(Problem::BadPath(problem)));
    }
    Ok(read)
}

/// Returns two neighbours of one path, which a quoted and a dotted key can make.
fn same_path(pair: &[Axis]) -> Option<[&Axis; 2]> {
    let [a, b] = pair else { return None };
    (a.path == b.path).then_some([a, b])
}
