//! `blobmesh-sim calibrate-dht`: provider searches of real nodes, and the model of the DHT held to them.

use std::path::PathBuf;

use clap::Args;

/// What is measured, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct Lookups {
    /// How many nodes there are at most; three quarters of them are measured, too
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u8).range(28..=32))]
    nodes: u8,
    /// What `calibrate` wrote
    #[arg(long, value_name = "FILE", default_value = "calibration.toml")]
    calibration: PathBuf,
    /// Where the calibration goes, with what was fitted; by default into the file it came from
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the searches of real nodes go
    #[arg(long, value_name = "FILE", default_value = "lookups.json")]
    results: PathBuf,
    /// Compare with the searches that a file keeps: no real node runs, and nothing is written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "out", "results"])]
    stored: Option<PathBuf>,
    /// With --stored: fit to the calibrating cells of the file again, and write the calibration
    #[arg(long, requires = "stored", conflicts_with = "model")]
    fit: bool,
    /// With --stored: the model that is compared; double-latency and free-dials are wrong on purpose, and fail
    #[arg(long, value_name = "NAME", default_value = "right", requires = "stored")]
    #[arg(value_parser = ["right", "double-latency", "free-dials"])]
    model: String,
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::execute;

/// Says that this system has no network namespaces.
#[cfg(not(target_os = "linux"))]
pub(crate) fn execute(_arguments: &Lookups) -> std::process::ExitCode {
    super::complain("network namespaces need Linux");
    std::process::ExitCode::from(crate::SKIPPED)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io::{self, Write},
        path::Path,
        process::ExitCode,
    };

    use blobmesh_simulations::{
        netns::{
            lookups::{self, LookupModel, LookupRow, Lookups as Measured, Options},
            stop::Stop,
        },
        output,
        world::Calibration,
    };

    use super::Lookups;
    use crate::{
        BAD_PLAN, FAILED,
        commands::{complain, complain_of, netns},
    };

    /// Measures, fits and compares; fails when a held-out cell does not hold or a wrong model is not found
    /// out.
    pub(crate) fn execute(arguments: &Lookups) -> ExitCode {
        match executed(arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
            Err(code) => code,
        }
    }

    fn executed(arguments: &Lookups) -> Result<bool, ExitCode> {
        let calibration = Calibration::read(&arguments.calibration).map_err(|error| {
            complain_of(&error);
            ExitCode::from(BAD_PLAN)
        })?;
        let measured = match &arguments.stored {
            Some(path) => Measured::read(path).map_err(|error| {
                complain_of(&error);
                ExitCode::from(FAILED)
            })?,
            None => measured(arguments)?,
        };
        if arguments.stored.is_some() && !arguments.fit {
            let named = LookupModel::ALL.into_iter().find(|model| model.name() == arguments.model);
            let model = named.unwrap_or(LookupModel::Right);
            let rows = lookups::compare(&measured, &calibration, model);
            let told = table(&rows, &mut io::stdout().lock());
            return Ok(told.is_ok() && lookups::holds(&rows));
        }
        let calibration = lookups::fitted(&measured, &calibration);
        let out = arguments.out.as_ref().unwrap_or(&arguments.calibration);
        written(out, calibration.to_toml().as_bytes())?;
        let compare = |model| lookups::compare(&measured, &calibration, model);
        let rows = compare(LookupModel::Right);
        let found_out: Vec<(LookupModel, bool)> = LookupModel::ALL
            .into_iter()
            .skip(1)
            .map(|wrong| (wrong, lookups::is_found_out(&compare(wrong), &rows)))
            .collect();
        let told = tell(&rows, &calibration, &found_out, &mut io::stdout().lock());
        Ok(told.is_ok() && lookups::holds(&rows) && found_out.iter().all(|(_, found)| *found))
    }

    fn measured(arguments: &Lookups) -> Result<Measured, ExitCode> {
        let binary = netns::binary().map_err(|error| {
            complain(&format!("no blobmesh binary: {error}"));
            ExitCode::from(FAILED)
        })?;
        let command = format!("blobmesh-sim calibrate-dht --nodes {}", arguments.nodes);
        let options = Options { binary, nodes: arguments.nodes, command };
        let measured = Stop::on_signals()
            .and_then(|stop| lookups::measure(&options, &stop, &mut io::stderr()));
        let measured = measured.map_err(|error| {
            complain(&netns::chain(&error));
            ExitCode::from(netns::code_of(&error))
        })?;
        written(&arguments.results, measured.to_json().as_bytes())?;
        Ok(measured)
    }

    fn written(path: &Path, bytes: &[u8]) -> Result<(), ExitCode> {
        output::write_file(path, bytes).map_err(|error| {
            complain_of(&error);
            ExitCode::from(FAILED)
        })
    }

    fn tell(
        rows: &[LookupRow],
        calibration: &Calibration,
        found_out: &[(LookupModel, bool)],
        output: &mut impl Write,
    ) -> io::Result<()> {
        table(rows, output)?;
        let Calibration { question, dial, dial_round_trips, .. } = calibration;
        writeln!(
            output,
            "a question takes {question:?} of the processor, a dial {dial:?} and {dial_round_trips} round trips"
        )?;
        for (model, found_out) in found_out {
            let word = if *found_out { "yes" } else { "NO" };
            writeln!(output, "the model {} fails: {word}", model.name())?;
        }
        output.flush()
    }

    /// Writes the cells as a table of Markdown, those that calibrate first.
    fn table(rows: &[LookupRow], output: &mut impl Write) -> io::Result<()> {
        writeln!(
            output,
            "| half | cell | time | p50 simulated | real | error | p95 | processors | |\n\
             |---|---|---|---|---|---|---|---|---|"
        )?;
        for held_out in [false, true] {
            for row in rows.iter().filter(|row| row.cell.held_out == held_out) {
                lines(row, output)?;
            }
        }
        let word = if lookups::holds(rows) { "yes" } else { "NO" };
        writeln!(output, "held-out cells hold: {word}")
    }

    fn lines(row: &LookupRow, output: &mut impl Write) -> io::Result<()> {
        let half = if row.cell.held_out { "held out" } else { "calibrating" };
        let name = format!("{} nodes, {} ms", row.cell.nodes, row.cell.latency_us as f64 / 1e3);
        for quantity in &row.quantities {
            let [simulated, real] = quantity.median.map(|seconds| seconds * 1e3);
            writeln!(
                output,
                "| {half} | {name} | {} | {simulated:.1} ms | {real:.1} ms | {} | {} | {:.0} % | {} |",
                quantity.name,
                per_cent(quantity.error()),
                per_cent(quantity.slow_error()),
                row.processor_share * 100.0,
                if quantity.holds() { "holds" } else { "does not hold" },
            )?;
        }
        let [simulated, real] = row.found.map(|share| share * 100.0);
        writeln!(output, "| {half} | {name} | found | {simulated:.1} % | {real:.1} % | | | | |")
    }

    /// Writes an error; one that is no number, or as large, says nothing.
    fn per_cent(error: f64) -> String {
        if error.abs() < 10.0 { format!("{:+.1} %", error * 100.0) } else { "-".to_owned() }
    }
}
