//! What `run` and `sweep` have in common: the worlds run on threads, one thread writes, and the place of
//! the results changes in one step at the end. Ctrl-C before that leaves nothing.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use blobmesh_simulations::batch::{Batch, Finished, Next, Shares};
use blobmesh_simulations::output::progress::{LINE_EVERY, Progress, Step};
use blobmesh_simulations::output::{
    self, Head, Keep, Kind, Record, Run, Settings, Writer, commit, file, memory_peak_bytes,
};
use blobmesh_simulations::plan::{Cell, Plan, PlanError, Source};
use blobmesh_simulations::world::{RunError, RunOptions};
use blobmesh_simulations::{report, verdict};

use super::interrupt::Interrupt;
use super::{complain, complain_of};
use crate::{BAD_PLAN, FAILED};

/// Says what is to be run and where it goes.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) kind: Kind,
    /// The plan's text, whole.
    pub(super) text: String,
    /// The plan as it stands.
    pub(super) plan: Plan,
    pub(super) cells: Vec<Cell>,
    /// How many seeds each cell runs with.
    pub(super) seeds: u32,
    /// How many of the runs go on at once, and how many threads work at all of them.
    pub(super) jobs: usize,
    pub(super) threads: usize,
    pub(super) options: RunOptions,
    pub(super) keep: Keep,
    /// Where the results go.
    pub(super) place: PathBuf,
    /// Whether the verdict is told in JSON lines.
    pub(super) json: bool,
}

/// Says why there are no results.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Output(#[from] output::Error),
    #[error("cannot run it")]
    Run(#[from] RunError),
    #[error("signal {0} ended it; no results were written")]
    Interrupted(u8),
    #[error("a run was lost, and all results with it; this is a fault of blobmesh-sim")]
    Lost,
}

/// Reads a plan with settings laid over it.
pub(super) fn source(plan: &str, settings: &[String]) -> Result<Source, PlanError> {
    let mut source = Source::open(plan)?;
    for setting in settings {
        source.set(setting)?;
    }
    Ok(source)
}

/// Says what is wrong with a plan.
pub(super) fn refuse(error: &PlanError) -> ExitCode {
    complain(&error.to_string());
    ExitCode::from(BAD_PLAN)
}

/// Runs everything, writes the results, tells what came of the asserts and where the page is; fails when
/// an assert or an invariant does not hold.
pub(super) fn conduct(order: Order) -> ExitCode {
    let (kept, json) = (order.options.event_log.clone(), order.json);
    let done = carry_out(order).and_then(|place| Ok((Record::open(&place)?, place)));
    match done {
        Ok((record, place)) => match tell(&record, &place, json) {
            Ok(()) if record.manifest.holds => ExitCode::SUCCESS,
            Ok(()) | Err(_) => ExitCode::from(FAILED),
        },
        Err(Error::Interrupted(signal)) => {
            complain_of(&Error::Interrupted(signal));
            if let Some(log) = kept {
                complain(&format!("{} is not whole", log.display()));
            }
            ExitCode::from(128 + signal)
        }
        Err(error @ (Error::Output(_) | Error::Run(_) | Error::Lost)) => {
            complain_of(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn carry_out(order: Order) -> Result<PathBuf, Error> {
    let interrupt = Interrupt::on_signals();
    let started = Instant::now();
    let Order { kind, text, plan, cells, seeds, jobs, threads, options, keep, place, .. } = order;
    let mut writer = Writer::create(&place, kind)?;
    let settings: Vec<Settings> =
        cells.iter().map(|cell| cell.settings.iter().cloned().collect()).collect();
    let mut batch = Batch::start(cells, seeds, options, Shares { jobs, threads });
    let mut progress = Progress::on_terminal(started);
    loop {
        if let Some(signal) = interrupt.signal() {
            return Err(Error::Interrupted(signal));
        }
        match batch.next(LINE_EVERY) {
            Next::Ended(finished) => write(&mut writer, *finished, &settings, keep)?,
            Next::Waiting => {}
            Next::Done => break,
            Next::Lost => return Err(Error::Lost),
        }
        let now = Instant::now();
        if progress.due(now) {
            progress.update(&step(&batch, &plan.name), now);
        }
    }
    drop(progress);
    let staged = writer.finish(&Head {
        plan: &plan,
        plan_text: &text,
        commit: commit(),
        wall: started.elapsed(),
        threads: Some(batch.threads()),
        memory_peak_bytes: memory_peak_bytes(),
    })?;
    report::write(staged.path(), None)?;
    Ok(staged.publish()?)
}

fn write(
    writer: &mut Writer,
    finished: Finished,
    settings: &[Settings],
    keep: Keep,
) -> Result<(), Error> {
    let Finished { cell, plan, wall, outcome } = finished;
    let (plan, outcome, seed) = (&plan, &outcome?, plan.seed);
    let none = Settings::default();
    let settings = settings.get(cell).unwrap_or(&none);
    writer.add(&Run { cell, settings, seed, plan, wall, outcome }, keep)?;
    Ok(())
}

fn step(batch: &Batch, name: &str) -> Step {
    let (state, total) = (batch.state(), batch.total());
    let phase =
        if total == 1 { name.to_owned() } else { format!("{name} {} of {total} runs", state.done) };
    Step { phase, at: state.at, share: state.share, events: state.events }
}

fn tell(record: &Record, place: &Path, json: bool) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    if json {
        verdict::write_json(record, &mut output)?;
    } else {
        verdict::write_text(record, &mut output)?;
        writeln!(output, "{}", shown(&place.join(file::REPORT)).display())?;
    }
    output.flush()
}

/// Returns a path relative to the working directory where it lies below it.
fn shown(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(std::fs::canonicalize).ok();
    let below = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf));
    below.unwrap_or_else(|| path.to_path_buf())
}
