//! `blobmesh-sim calibrate` and `validate`: the simulator held to this machine and its real nodes.

use std::path::PathBuf;

use clap::Args;

/// Where the numbers of this machine go.
#[derive(Debug, Args)]
pub(crate) struct Calibrate {
    /// The file; `-` is stdout
    #[arg(long, value_name = "FILE", default_value = "calibration.toml")]
    out: PathBuf,
}

/// What is validated.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// With how many seeds each cell is replayed; a seed takes about five minutes
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: u64,
    /// What `calibrate` wrote; without it, it is measured first, or with --stored taken from beside it
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Compare with the replays that an envelope keeps: no real node runs, nothing is fitted, and no
    /// envelope is written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["repeats", "envelope"])]
    stored: Option<PathBuf>,
    /// With --stored: the model that is compared; half-goodput and double-latency are wrong on purpose, and
    /// fail
    #[arg(long, value_name = "NAME", default_value = "right", requires = "stored")]
    #[arg(value_parser = ["right", "half-goodput", "double-latency"])]
    model: String,
    /// Where results go; replays that lie there from before are taken and not made again
    #[arg(long, value_name = "DIR", default_value = "blobmesh-sim-out/validation")]
    out: PathBuf,
    /// Where the envelope goes that reports print
    #[arg(long, value_name = "FILE", default_value = "validation.json")]
    envelope: PathBuf,
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{calibrate, validate};

/// Says that this system has no network namespaces.
#[cfg(not(target_os = "linux"))]
pub(crate) fn calibrate(_arguments: &Calibrate) -> std::process::ExitCode {
    super::complain("network namespaces need Linux");
    std::process::ExitCode::from(crate::SKIPPED)
}

/// Says that this system has no network namespaces.
#[cfg(not(target_os = "linux"))]
pub(crate) fn validate(_arguments: &Validate) -> std::process::ExitCode {
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
            calibrate::{self, Calibrated},
            error::Error as LabError,
            stop::Stop,
            validate::{self, Error, Model, Options, Rechecked, Row, Validated},
        },
        output,
        report::Envelope,
        world::Calibration,
    };

    use super::{Calibrate, Validate};
    use crate::{
        BAD_PLAN, FAILED,
        commands::{complain, complain_of, netns},
    };

    /// From this share of processor time on that others take, times may tell of them.
    const OTHERS_SHARE_MAX: f64 = 0.3;

    /// Measures this machine.
    pub(crate) fn calibrate(arguments: &Calibrate) -> ExitCode {
        let measured = match Stop::on_signals().and_then(|stop| measure(&stop)) {
            Ok(measured) => measured,
            Err(error) => return failed_lab(&error),
        };
        let text = measured.calibration.to_toml();
        let written = if arguments.out == Path::new("-") {
            io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
        } else {
            let written = output::write_file(&arguments.out, text.as_bytes());
            written.map_err(|error| error.to_string())
        };
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                complain(&problem);
                ExitCode::from(FAILED)
            }
        }
    }

    fn measure(stop: &Stop) -> Result<Calibrated, LabError> {
        let binary = netns::binary()
            .map_err(|source| LabError::System { action: "find blobmesh".to_owned(), source })?;
        let measured = calibrate::calibrate(&binary, stop, &mut io::stderr())?;
        let mut talk = io::stderr().lock();
        for (name, value, unit) in &measured.measured {
            let _unheard = writeln!(talk, "{name:20} {value:>12.3} {unit}");
        }
        let busy = measured.processor_share * 100.0;
        let _unheard = writeln!(talk, "{:20} {busy:>12.0} %", "processors busy");
        Ok(measured)
    }

    /// Validates, prints the table and writes the envelope; fails when a bound does not hold, or a wrong
    /// model is not found out.
    pub(crate) fn validate(arguments: &Validate) -> ExitCode {
        if let Some(stored) = &arguments.stored {
            return recheck(arguments, stored);
        }
        let validated = match validated(arguments) {
            Ok(validated) => validated,
            Err(code) => return code,
        };
        let text = serde_json::to_string_pretty(&validated.envelope).unwrap_or_default() + "\n";
        let fitted = arguments.out.join("calibration.toml");
        for (path, text) in
            [(&arguments.envelope, text), (&fitted, validated.calibration.to_toml())]
        {
            if let Err(error) = output::write_file(path, text.as_bytes()) {
                complain_of(&error);
                return ExitCode::from(FAILED);
            }
        }
        let sound = validated.holds && validated.found_out.iter().all(|(_, found_out)| *found_out);
        match tell(&validated, &mut io::stdout().lock()) {
            Ok(()) if sound => ExitCode::SUCCESS,
            Ok(()) | Err(_) => ExitCode::from(FAILED),
        }
    }

    /// Holds a model to kept replays and prints the table; fails when a bound does not hold.
    fn recheck(arguments: &Validate, stored: &Path) -> ExitCode {
        let beside = stored.with_file_name("calibration.toml");
        let calibration = match read(arguments.calibration.as_deref().unwrap_or(&beside)) {
            Ok(calibration) => calibration,
            Err(code) => return code,
        };
        let envelope = match Envelope::read(stored) {
            Ok(envelope) => envelope,
            Err(error) => {
                complain_of(&error);
                return ExitCode::from(FAILED);
            }
        };
        let named = Model::ALL.into_iter().find(|model| model.name() == arguments.model);
        let model = named.unwrap_or(Model::Right);
        match validate::recheck(&envelope, &calibration, model, &arguments.out) {
            Ok(Rechecked { rows, holds }) => {
                let told = tell_rechecked(model, &rows, holds, &mut io::stdout().lock());
                if told.is_ok() && holds { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
            }
            Err(error) => {
                complain_of(&error);
                ExitCode::from(FAILED)
            }
        }
    }

    fn read(path: &Path) -> Result<Calibration, ExitCode> {
        Calibration::read(path).map_err(|error| {
            complain_of(&error);
            ExitCode::from(BAD_PLAN)
        })
    }

    fn validated(arguments: &Validate) -> Result<Validated, ExitCode> {
        let stop = Stop::on_signals().map_err(|error| failed_lab(&error))?;
        let calibration = match &arguments.calibration {
            Some(path) => read(path)?,
            None => measure(&stop).map_err(|error| failed_lab(&error))?.calibration,
        };
        let binary = netns::binary().map_err(|error| {
            complain(&format!("no blobmesh binary: {error}"));
            ExitCode::from(FAILED)
        })?;
        let options = Options {
            binary,
            repeats: arguments.repeats,
            out: arguments.out.clone(),
            calibration,
            command: format!("blobmesh-sim validate --repeats {}", arguments.repeats),
        };
        validate::validate(&options, &stop, &mut io::stderr()).map_err(|error| match &error {
            Error::Lab(error) => failed_lab(error),
            Error::Output(_) | Error::Run(_) | Error::Plan(_) | Error::NoCell => {
                complain_of(&error);
                ExitCode::from(FAILED)
            }
        })
    }

    fn failed_lab(error: &LabError) -> ExitCode {
        complain(&netns::chain(error));
        ExitCode::from(netns::code_of(error))
    }

    fn tell(validated: &Validated, output: &mut impl Write) -> io::Result<()> {
        table(&validated.rows, output)?;
        writeln!(output, "goodput after the fit: {:.4}", validated.calibration.goodput)?;
        for (model, found_out) in &validated.found_out {
            writeln!(output, "{model} fails: {}", word(*found_out))?;
        }
        writeln!(output, "held-out cells that count hold: {}", word(validated.holds))?;
        output.flush()
    }

    fn tell_rechecked(
        model: Model,
        rows: &[Row],
        holds: bool,
        output: &mut impl Write,
    ) -> io::Result<()> {
        table(rows, output)?;
        writeln!(output, "{model}: held-out cells that count hold: {}", word(holds))?;
        output.flush()
    }

    fn word(holds: bool) -> &'static str {
        if holds { "yes" } else { "NO" }
    }

    /// Writes the cells as a table of Markdown, those that calibrate first.
    fn table(rows: &[Row], output: &mut impl Write) -> io::Result<()> {
        writeln!(
            output,
            "| half | cell | p50 simulated | real | error | p95 | local bytes | lan bytes | processors | |\n\
             |---|---|---|---|---|---|---|---|---|---|"
        )?;
        for held_out in [false, true] {
            for row in rows.iter().filter(|row| row.cell.held_out == held_out) {
                line(row, output)?;
            }
        }
        let others = rows.iter().map(|row| row.others_share).fold(0.0, f64::max);
        if others >= OTHERS_SHARE_MAX {
            let share = others * 100.0;
            writeln!(
                output,
                "others took up to {share:.0} % of the processors meanwhile: not a quiet machine"
            )?;
        }
        Ok(())
    }

    fn line(row: &Row, output: &mut impl Write) -> io::Result<()> {
        let [median, slow, ..] = row.cell.metrics();
        let p50 = row.difference(median);
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{s:.3} s"));
        let error = |metric: &str| {
            row.error(metric).map_or("-".to_owned(), |error| format!("{:+.1} %", error * 100.0))
        };
        let verdict = match (row.is_sound(), row.compared.holds) {
            (false, _) => "saturated",
            (true, true) => "holds",
            (true, false) => "does not hold",
        };
        writeln!(
            output,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} % | {verdict} |",
            if row.cell.held_out { "held out" } else { "calibrating" },
            row.cell.name(),
            seconds(p50.and_then(|metric| metric.a)),
            seconds(p50.and_then(|metric| metric.b)),
            error(median),
            error(slow),
            error("local.bytes"),
            error("lan.bytes"),
            row.processor_share * 100.0,
        )
    }
}
