//! `blobmesh-sim run`: runs the engine in virtual time.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use blobmesh_simulations::runs::{TwoNodes, two_nodes};
use serde_json::{Value, json};

use crate::FAILED;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Run {
    /// Two neighbours: a get from the LAN, one from the store, one from the edge, one of nothing
    TwoNodes {
        /// Seeds the jitter; the same seed gives the same run, to the byte
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
        /// Print one JSON object per metric
        #[arg(long)]
        json: bool,
    },
}

/// Runs and reports; fails when a get did not end as it must.
pub(crate) fn execute(run: &Run) -> ExitCode {
    let Run::TwoNodes { seed, json } = run;
    let result = two_nodes(*seed);
    match report(&result, *json, &mut io::stdout().lock()) {
        Ok(()) if result.holds => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::from(FAILED),
    }
}

/// Is a row of the report: name, value, unit, and what it must be, where it must be something.
type Row = (&'static str, Value, &'static str, Option<(&'static str, bool)>);

fn rows(run: &TwoNodes) -> Vec<Row> {
    let seconds = |time: Duration| json!(time.as_secs_f64());
    let traffic = &run.traffic;
    vec![
        ("found_as_expected", json!(u8::from(run.holds)), "bool", Some(("= 1", run.holds))),
        ("lan_get_s", seconds(run.lan), "s", None),
        ("local_get_s", seconds(run.local), "s", None),
        ("edge_get_s", seconds(run.edge), "s", None),
        ("absent_get_s", seconds(run.absent), "s", None),
        ("lan_bytes", json!(traffic.blob_bytes), "bytes", None),
        ("edge_bytes", json!(traffic.edge_bytes), "bytes", None),
        ("gossip_messages", json!(traffic.gossip.count), "count", None),
        ("gossip_bytes", json!(traffic.gossip.bytes), "bytes", None),
        ("asks", json!(traffic.asks.count), "count", None),
        ("events", json!(run.steps), "count", None),
        ("event_log_hash", json!(run.log_hash.to_hex()), "blake3", None),
    ]
}

fn report(run: &TwoNodes, json: bool, output: &mut impl Write) -> io::Result<()> {
    for (metric, value, unit, bound) in rows(run) {
        let (bound, holds) = bound.map_or((None, true), |(bound, holds)| (Some(bound), holds));
        if json {
            let row = json!({
                "experiment": "two-nodes", "metric": metric, "value": value, "unit": unit,
                "bound": bound, "holds": holds,
            });
            writeln!(output, "{row}")?;
        } else {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(output, "{metric:18} {value} {unit}  {}", bound.unwrap_or_default())?;
        }
    }
    output.flush()
}
