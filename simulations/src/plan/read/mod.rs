//! Reading a plan from the tree of its files: every name resolved, every bound looked at.
//!
//! One file here for each part of a plan. What keys a table may have, and their defaults, stand in its
//! [`Keys`] beside the function that reads it.

pub(super) mod blobs;
pub(super) mod distribution;
pub(super) mod engine;
pub(super) mod event;
mod names;
pub(super) mod places;
pub(super) mod sweep;
mod trace;
pub(super) mod workload;

use std::borrow::Cow;

use blobmesh_protocol::Config;

use super::error::{PlanError, Problem, shorten};
use super::section::{Default, Field, Key, Keys, Section, join};
use super::tree::{Place, Table};
use super::{Metrics, Plan, SCHEMA, SERIES_ROWS_MAX};
use names::Names;

pub(super) static PLAN: Keys = Keys {
    header: "the plan",
    about: "The keys before the first table.",
    parts: &[&[
        or("schema", "a whole number", "1", "the form of the file; this program reads 1"),
        optional(
            "include",
            "a list of paths",
            "plans that this one is laid over, relative to its file; later ones win",
        ),
        required("name", "a name", "names the plan's results"),
        or("about", "a string", "\"\"", "the question that it answers"),
        or(
            "seed",
            "a whole number",
            "1",
            "seeds all chance; `sweep` takes this and the ones after it",
        ),
        or(
            "duration",
            "a time above zero",
            "\"15m\"",
            "when the run is ended, whatever is under way",
        ),
        tables("site"),
        tables("group"),
        table("engine"),
        table("edge"),
        table("dht"),
        tables("blobs"),
        tables("workload"),
        tables("event"),
        table("metrics"),
        table("assert"),
        table("sweep"),
    ]],
};

pub(super) static METRICS_KEYS: Keys = Keys {
    header: "[metrics]",
    about: "What is written down.",
    parts: &[&[
        or(
            "every",
            "a time above zero",
            "\"1s\"",
            "between two rows of the time series; a million rows at most",
        ),
        or(
            "filter_looks",
            "a whole number, 0 to 1,000",
            "0",
            "absent blobs looked up in each neighbour's filter at each get, for `filter.wrong`",
        ),
    ]],
};

/// Makes a key that a plan must have.
const fn required(name: &'static str, takes: &'static str, about: &'static str) -> Key {
    Key { name, takes, default: Default::Required, about }
}

/// Makes a key with a default, given as TOML text.
const fn or(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { name, takes, default: Default::Toml(default), about }
}

/// Makes a key with a default that words say.
const fn says(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { name, takes, default: Default::Says(default), about }
}

/// Makes a key that may be absent.
const fn optional(name: &'static str, takes: &'static str, about: &'static str) -> Key {
    says(name, takes, "none", about)
}

const fn table(name: &'static str) -> Key {
    says(name, "a table", "see below", "")
}

const fn tables(name: &'static str) -> Key {
    says(name, "a list of tables, each under `[[…]]`", "see below", "")
}

/// Reads a plan from its tree.
pub(super) fn plan(tree: &Table, place: &Place) -> Result<Plan, PlanError> {
    let top = Section::open(Cow::Borrowed(tree), "", place, &PLAN)?;
    top.field("schema")?.whole(1..=u64::from(SCHEMA))?;
    let mut names = Names::new("plans");
    names.add(&top.field("name")?)?;
    let about = top.field("about")?.text()?.to_owned();
    let seed = top.field("seed")?.whole(0..=u64::MAX)?;
    let duration = top.field("duration")?.time_above_zero()?;
    let part = |key| top.optional(key);

    let edge = places::edge(part("edge")?.as_ref())?;
    let dht = places::dht(part("dht")?.as_ref())?;
    let (has_edge, has_dht) = (edge.is_some(), dht.is_some());
    let engine = engine_of_plan(&top, has_edge, has_dht)?;
    let blob_bytes_max = engine.blob_bytes_max;

    let (sites, site_names) = sites(&top)?;
    let around = places::Around { sites: &site_names, engine: &engine, has_edge, has_dht };
    let (groups, group_names) = places::groups(Some(&list_of(&top, "group")?), &around)?;
    let around =
        blobs::Around { groups: &groups, names: &group_names, blob_bytes_max, has_edge, has_dht };
    let (blobs, blob_names) = blobs::blobs(part("blobs")?.as_ref(), &around)?;
    let around = workload::Around {
        groups: &groups,
        group_names: &group_names,
        blobs: &blobs,
        blob_names: &blob_names,
        blob_bytes_max,
        has_dht,
    };
    let workloads = workload::workloads(part("workload")?.as_ref(), &around)?;
    let around = event::Around {
        duration,
        groups: &groups,
        group_names: &group_names,
        site_names: &site_names,
        has_edge,
        has_dht,
    };
    let faults = event::events(part("event")?.as_ref(), &around)?;
    Ok(Plan {
        name: top.field("name")?.text()?.to_owned(),
        about,
        seed,
        duration,
        metrics: metrics(&top, duration)?,
        asserts: sweep::asserts(&top)?,
        sweep: sweep::sweep(&top)?,
        sites,
        groups,
        engine,
        edge,
        dht,
        blobs,
        workloads,
        faults,
    })
}

/// Reads `[engine]`. What a plan lacks its nodes do not look for.
fn engine_of_plan(top: &Section<'_>, has_edge: bool, has_dht: bool) -> Result<Config, PlanError> {
    let config =
        Config { edge: has_edge, provider_search: has_dht, adverts: has_dht, ..Config::default() };
    let Some(field) = top.optional("engine")? else { return Ok(config) };
    let section = field.section(&engine::ENGINE)?;
    let config = engine::read(&section, config)?;
    places::check_engine(&section, &config, has_edge, has_dht)?;
    Ok(config)
}

/// Reads the sites; a plan without any has an office.
fn sites(top: &Section<'_>) -> Result<(Vec<super::Site>, Names), PlanError> {
    let Some(field) = top.optional("site")? else {
        let text = "[{ name = \"office\" }]";
        let node = super::tree::parse_value(text, &top.place);
        let node = node.ok_or_else(|| top.fail(Problem::Syntax(text.to_owned())))?;
        let field = Field { node: Cow::Owned(node), path: "site".to_owned(), takes: "a list" };
        return places::sites(Some(&field));
    };
    let field = Field { path: "site".to_owned(), ..field };
    if field.list()?.is_empty() {
        return Err(field.fail(Problem::Other("is empty; leave it out for one office".to_owned())));
    }
    places::sites(Some(&field))
}

/// Returns a list that must have an entry.
fn list_of<'a>(top: &'a Section<'_>, key: &'static str) -> Result<Field<'a>, PlanError> {
    let missing =
        || Problem::Missing { key, takes: "one `[[group]]` with `name` and `count` at least" };
    let field = top.optional(key)?.ok_or_else(|| top.fail(missing()))?;
    if field.list()?.is_empty() {
        return Err(field.fail(missing()));
    }
    Ok(field)
}

fn metrics(top: &Section<'_>, duration: std::time::Duration) -> Result<Metrics, PlanError> {
    let empty = Table::new();
    let field = top.optional("metrics")?;
    let section = match &field {
        Some(field) => field.section(&METRICS_KEYS)?,
        None => Section::open(Cow::Owned(empty), "metrics", &top.place, &METRICS_KEYS)?,
    };
    let every = section.field("every")?.time_above_zero()?;
    let count = duration.as_nanos() / every.as_nanos().max(1);
    if count > SERIES_ROWS_MAX {
        let problem =
            Problem::TooMany { what: "rows of the time series", count, most: SERIES_ROWS_MAX };
        // Without the key it is the duration that asks for so many.
        let field =
            if section.has("every") { section.field("every")? } else { top.field("duration")? };
        return Err(field.fail(problem));
    }
    let filter_looks = section.field("filter_looks")?.count(0..=1_000)?;
    Ok(Metrics { every, filter_looks })
}

/// Returns the entries of a list of tables, each under its name or its number.
fn fields<'a>(field: Option<&'a Field<'_>>) -> Result<Vec<Field<'a>>, PlanError> {
    let Some(list) = field else { return Ok(Vec::new()) };
    let fields = list.list()?.into_iter().map(|entry| {
        let path = match entry.node.name() {
            Some(name) => join(&list.path, &shorten(name)),
            None => entry.path,
        };
        Field { path, ..entry }
    });
    Ok(fields.collect())
}

/// Opens the entries of a list under the same keys.
fn entries<'a>(
    field: Option<&'a Field<'_>>,
    keys: &'static Keys,
) -> Result<Vec<Section<'a>>, PlanError> {
    fields(field)?.into_iter().map(|field| field.into_section(keys)).collect()
}
