//! `blobmesh-sim check`: reads a plan in every cell of its sweep, and says what it found.

use std::io::{self, Write};
use std::process::ExitCode;

use blobmesh_simulations::plan::{Plan, PlanError, Source, cells};
use serde_json::json;

use super::complain;
use crate::{BAD_PLAN, FAILED};

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// A plan's file, or the name of one that `list` shows
    plan: String,
    /// Put a value into the plan first, as group.runner.count=30; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(check: &Check) -> ExitCode {
    let (plan, cells) = match read(check) {
        Ok(read) => read,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(BAD_PLAN);
        }
    };
    match print(&plan, cells, check.json, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_reader_gone) => ExitCode::from(FAILED),
    }
}

fn read(check: &Check) -> Result<(Plan, usize), PlanError> {
    let mut source = Source::open(&check.plan)?;
    for setting in &check.set {
        source.set(setting)?;
    }
    Ok((source.plan()?, cells(&source)?.len()))
}

fn print(plan: &Plan, cells: usize, json: bool, output: &mut impl Write) -> io::Result<()> {
    if json {
        let row = json!({
            "plan": plan.name, "about": plan.about, "seed": plan.seed,
            "duration_s": plan.duration.as_secs_f64(), "nodes": plan.nodes(),
            "blobs": plan.blobs.iter().map(|set| set.count).sum::<usize>(),
            "workloads": plan.workloads.len(), "events": plan.faults.len(),
            "edge": plan.edge.is_some(), "dht": plan.dht.is_some(),
            "asserts": plan.asserts.iter().map(|assert| &assert.text).collect::<Vec<_>>(),
            "cells": cells, "repeat": plan.sweep.repeat,
        });
        writeln!(output, "{row}")?;
        return output.flush();
    }
    writeln!(output, "{}", plan.name)?;
    for (what, found) in findings(plan, cells) {
        writeln!(output, "  {what:9} {found}")?;
    }
    output.flush()
}

/// Says what is in a plan, a line for each part.
fn findings(plan: &Plan, cells: usize) -> Vec<(&'static str, String)> {
    let each = |names: Vec<String>| {
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let there = |there: bool| if there { "yes" } else { "no" }.to_owned();
    let groups = plan.groups.iter().map(|group| format!("{} {}", group.count, group.name));
    let blobs = plan.blobs.iter().map(|set| format!("{} {}", set.count, set.name));
    let axes = plan.sweep.axes.iter().map(|(path, values)| format!("{path} by {}", values.len()));
    let mut findings = vec![
        ("about", plan.about.clone()),
        (
            "ends",
            format!("after {} s at the latest, seed {}", plan.duration.as_secs_f64(), plan.seed),
        ),
        ("sites", each(plan.sites.iter().map(|site| site.name.clone()).collect())),
        ("nodes", format!("{}: {}", plan.nodes(), each(groups.collect()))),
        ("edge", there(plan.edge.is_some())),
        ("dht", there(plan.dht.is_some())),
        ("blobs", each(blobs.collect())),
        ("workloads", plan.workloads.len().to_string()),
        ("events", plan.faults.len().to_string()),
        (
            "sweep",
            format!("{cells} cells of {} seeds: {}", plan.sweep.repeat, each(axes.collect())),
        ),
    ];
    findings.extend(plan.asserts.iter().map(|assert| ("assert", assert.text.clone())));
    findings
}
