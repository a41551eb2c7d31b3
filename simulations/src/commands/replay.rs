//! `blobmesh-sim replay`: the run of a plan with real nodes.

use std::path::PathBuf;

use clap::Args;

/// What is replayed.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A directory of results of one run, whose plan and seed are taken; or a plan's file or name
    what: String,
    /// Play it with `blobmesh` processes in network namespaces of this machine (Linux, root)
    #[arg(long, required = true)]
    netns: bool,
    /// Set what a path of the plan leads to, as group.runner.count=8
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// The seed; by default the run's or the plan's own
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the results go; by default blobmesh-sim-out/NAME-seedN-real
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The most bytes that nodes may take on disk, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 12)]
    disk: u64,
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::execute;

/// Says that this system has no network namespaces.
#[cfg(not(target_os = "linux"))]
pub(crate) fn execute(_replay: &Replay) -> std::process::ExitCode {
    super::complain("network namespaces need Linux");
    std::process::ExitCode::from(crate::SKIPPED)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::BTreeMap,
        io::{self, Write as _},
        path::Path,
        process::ExitCode,
    };

    use blobmesh_simulations::{
        netns::{
            replay::{Options, PROCESSOR_SHARE_MAX, Replayed, replay},
            stop::Stop,
        },
        output::{self, Head, Keep, Kind, Record, Run, Writer, default_directory, file},
        plan::{Canned, Plan, Source},
    };

    use super::Replay;
    use crate::{
        BAD_PLAN, FAILED,
        commands::{complain, complain_of, netns},
    };

    /// Replays, and writes what came of it.
    pub(crate) fn execute(arguments: &Replay) -> ExitCode {
        let (plan, text) = match plan_of(arguments) {
            Ok(plan) => plan,
            Err(problem) => {
                complain(&problem);
                return ExitCode::from(BAD_PLAN);
            }
        };
        let place = arguments.out.clone().unwrap_or_else(|| {
            let simulated = default_directory(Kind::Run, &plan.name, plan.seed);
            simulated.with_file_name(format!("{}-seed{}-real", plan.name, plan.seed))
        });
        // Before the run, so that a place that cannot be written costs no time.
        let writer = match Writer::create(&place, Kind::Run) {
            Ok(writer) => writer,
            Err(error) => {
                complain_of(&error);
                return ExitCode::from(FAILED);
            }
        };
        let replayed = match played(arguments, &plan) {
            Ok(replayed) => replayed,
            Err(code) => return code,
        };
        match written(writer, &plan, &text, &replayed) {
            Ok(holds) => tell(&place, &replayed, holds),
            Err(error) => {
                complain_of(&error);
                ExitCode::from(FAILED)
            }
        }
    }

    fn played(arguments: &Replay, plan: &Plan) -> Result<Replayed, ExitCode> {
        let binary = netns::binary().map_err(|error| {
            complain(&format!("no blobmesh binary: {error}"));
            ExitCode::from(FAILED)
        })?;
        let disk_bytes_max = arguments.disk.saturating_mul(1 << 30);
        let options = Options { plan, binary: &binary, disk_bytes_max };
        let replayed =
            Stop::on_signals().and_then(|stop| replay(&options, &stop, &mut io::stderr()));
        replayed.map_err(|error| {
            complain(&netns::chain(&error));
            ExitCode::from(netns::code_of(&error))
        })
    }

    /// Reads the plan: of a run, where a directory is named, else as `run` does.
    fn plan_of(arguments: &Replay) -> Result<(Plan, String), String> {
        let directory = Path::new(&arguments.what);
        let (mut source, text, seed) = if directory.join(file::MANIFEST).is_file() {
            let record = Record::open(directory).map_err(|error| super::super::told(&error))?;
            let manifest = record.manifest;
            if manifest.kind != Kind::Run {
                return Err("it is of a sweep; replay one run of it".to_owned());
            }
            let source = Source::parse(&manifest.name, &manifest.plan);
            (source.map_err(|error| error.to_string())?, manifest.plan, Some(manifest.seed))
        } else {
            let source = Source::open(&arguments.what).map_err(|error| error.to_string())?;
            let text = std::fs::read_to_string(directory);
            let canned = || Canned::find(&arguments.what).map(|canned| canned.text.to_owned());
            (source, text.ok().or_else(canned).unwrap_or_default(), None)
        };
        let seed = arguments.seed.or(seed).map(|seed| format!("seed={seed}"));
        for setting in arguments.set.iter().chain(&seed) {
            source.set(setting).map_err(|error| error.to_string())?;
        }
        Ok((source.plan().map_err(|error| error.to_string())?, text))
    }

    fn written(
        mut writer: Writer,
        plan: &Plan,
        text: &str,
        replayed: &Replayed,
    ) -> Result<bool, output::Error> {
        let settings = BTreeMap::new();
        let (outcome, wall) = (&replayed.outcome, replayed.wall);
        let run = Run { cell: 0, settings: &settings, seed: plan.seed, plan, wall, outcome };
        writer.add(&run, Keep::Rows)?;
        let head = Head {
            plan,
            plan_text: text,
            commit: output::commit(),
            wall,
            threads: None,
            memory_peak_bytes: output::memory_peak_bytes(),
        };
        let place = writer.finish(&head)?.publish()?;
        Ok(Record::open(&place)?.manifest.holds)
    }

    fn tell(place: &Path, replayed: &Replayed, holds: bool) -> ExitCode {
        let mut talk = io::stderr().lock();
        let share = replayed.processor_share * 100.0;
        let _unheard = writeln!(talk, "wrote {}; processors {share:.0} % busy", place.display());
        if !replayed.is_sound() {
            let most = PROCESSOR_SHARE_MAX * 100.0;
            let text = "the machine was saturated, its times tell of it and not of the plan";
            let _unheard = writeln!(talk, "warning: {most:.0} % is the most: {text}");
        }
        if holds { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
    }
}
