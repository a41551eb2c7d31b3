//! `blobmesh-sim list`: the plans that come with the program, and what each asks.

use std::io::{self, Write};
use std::process::ExitCode;

use blobmesh_simulations::plan::{CANNED, Canned, Plan, PlanError, cells};
use serde_json::json;

use super::complain;
use crate::FAILED;

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Print one JSON object per plan
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(list: &List) -> ExitCode {
    let plans: Result<Vec<_>, PlanError> = CANNED.iter().map(look).collect();
    match plans {
        Ok(plans) => match print(&plans, list.json, &mut io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_reader_gone) => ExitCode::from(FAILED),
        },
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// Reads a plan, and counts its cells.
fn look(canned: &Canned) -> Result<(Plan, usize), PlanError> {
    let source = canned.source()?;
    Ok((source.plan()?, cells(&source)?.len()))
}

fn print(plans: &[(Plan, usize)], json: bool, output: &mut impl Write) -> io::Result<()> {
    for (plan, cells) in plans {
        let (name, about, nodes) = (&plan.name, &plan.about, plan.nodes());
        if json {
            let row = json!({ "plan": name, "about": about, "nodes": nodes, "cells": cells });
            writeln!(output, "{row}")?;
        } else {
            writeln!(output, "{name:16} {about}")?;
        }
    }
    output.flush()
}
