//! Runs blobmesh and its rivals in turn on the same work, and tells the ratios.
//!
//! Answers go to stdout, talk to stderr. Ends with 0 when all bounds hold, 1 when one does not or was not
//! measured, 2 when a work came to no result.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use blobmesh_benches::machine::file_system;
use blobmesh_benches::results::{Origin, write_lines, write_table};
use blobmesh_benches::rivals::{Rival, Rivals};
use blobmesh_benches::works::{Figures, Setting, WORKS, Work, find};
use clap::Parser;
use clap::builder::PossibleValuesParser;

/// The code of a bound that does not hold.
const UNHELD: u8 = 1;
/// The code of a work without a result.
const FAILED: u8 = 2;

/// The place of those who go before others.
const NICENESS: i32 = -19;

/// Where a tmpfs is on most systems.
const TMPFS: &str = "/dev/shm";

/// Runs blobmesh and its rivals in turn on the same work, and prints the ratios
///
/// A ratio is the rival's seconds over blobmesh's: above 1 blobmesh is faster. Rivals that are missing are
/// told and left out; their bounds then do not hold.
#[derive(Parser)]
struct Args {
    /// What to do; all where none is named
    #[arg(value_parser = PossibleValuesParser::new(WORKS.iter().map(|work| work.name)))]
    works: Vec<String>,
    /// Those who take part beside blobmesh, by the names in the tables [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How many rounds are counted
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// File for the metrics, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory in which everything is put, on the file system to be measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Directory on a tmpfs, for what is measured without a disk [default: /dev/shm]
    #[arg(long, value_name = "DIR")]
    tmpfs: Option<PathBuf>,
    /// Length of the large blob in MiB
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Length of the huge blob in GiB
    #[arg(long, default_value_t = 4)]
    gib: u64,
    /// How many small blobs there are
    #[arg(long, default_value_t = 10_000)]
    blobs: u64,
    /// Go before whatever else the machine does, blobmesh and rivals alike: for root, where others are busy
    #[arg(long)]
    hurry: bool,
    /// Install the rivals that are missing: by apt-get, and by cargo under the target directory
    #[arg(long)]
    install: bool,
    /// Directory for all that was measured, one file a work and commit
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// The built `blobmesh`, with `ceiling` beside it; where none is named both are built first
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &Args) -> io::Result<ExitCode> {
    let works: Vec<&'static Work> = match args.works[..] {
        [] => WORKS.iter().collect(),
        _ => args.works.iter().filter_map(|name| find(name)).collect(),
    };
    let beside = std::env::current_exe()?;
    let built = beside.parent().unwrap_or(Path::new("."));
    if built.file_name().is_some_and(|name| name == "debug") {
        tell("warning: this is a debug build, whose figures mean nothing");
    }
    let program = match &args.program {
        Some(program) => std::path::absolute(program)?,
        None => build(built)?,
    };
    let setting = Setting {
        ceiling: program.with_file_name("ceiling"),
        program,
        rivals: Rivals::new(built.parent().unwrap_or(built)),
        dir: std::path::absolute(&args.dir)?,
        tmpfs: tmpfs(args.tmpfs.as_deref())?,
        only: args.only.clone(),
        runs: args.runs,
        mib: args.mib,
        gib: args.gib,
        blobs: args.blobs,
        stop: stop_on_signals()?,
    };
    look_for(&works, &setting.rivals, args.install)?;
    if args.hurry {
        // Whatever is started from here on has it too.
        rustix::process::setpriority_process(None, NICENESS)?;
    }
    let mut json = args.json.as_deref().map(File::create).transpose()?;
    let mut code = 0;
    for work in works {
        setting.go_on()?;
        code = code.max(measure(work, &setting, args, json.as_mut())?);
    }
    Ok(ExitCode::from(code))
}

/// Does one work and tells what came of it; returns the exit code it asks for.
fn measure(
    work: &'static Work,
    setting: &Setting,
    args: &Args,
    json: Option<&mut File>,
) -> io::Result<u8> {
    let origin = Origin::this();
    tell(&format!("{}: {}", work.name, work.about));
    let (figures, mut code) = match (work.run)(setting) {
        Ok(figures) => (figures, 0),
        Err(error) => {
            tell(&format!("error: {}: {error}", work.name));
            (Figures::default(), FAILED)
        }
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n{}\n", origin.line(), figures.text)?;
    let holds = write_table(work, &figures, &mut out)?;
    writeln!(out)?;
    if let Some(json) = json {
        write_lines(work, &figures, json)?;
    }
    if code == 0 {
        let kept = origin.keep(&args.results, work, args.runs, &setting.rivals, &figures)?;
        tell(&format!("all that was measured: {}", kept.display()));
    }
    if !holds {
        tell(&format!("{}: a bound does not hold", work.name));
        code = code.max(UNHELD);
    }
    Ok(code)
}

/// Says what is missing and how it is had, and installs it where that is wanted.
fn look_for(works: &[&Work], rivals: &Rivals, install: bool) -> io::Result<()> {
    let mut wanted: Vec<Rival> = Vec::new();
    for rival in works.iter().flat_map(|work| work.rivals) {
        if !wanted.contains(rival) && rivals.find(*rival).is_none() {
            wanted.push(*rival);
        }
    }
    for rival in wanted {
        if install {
            tell(&format!("installs {rival}"));
            rivals.install(rival)?;
        } else {
            tell(&format!("{rival} is missing and left out: {}", rival.how()));
        }
    }
    Ok(())
}

/// Builds what is measured as this program was built, so that nothing older is.
fn build(built: &Path) -> io::Result<PathBuf> {
    // One after the other: together they would be built with each other's features, and all anew.
    for (package, program) in [("blobmesh-cli", "blobmesh"), ("blobmesh-benches", "ceiling")] {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--locked", "--quiet", "--manifest-path"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml"));
        command.args(["--package", package, "--bin", program]);
        command.arg("--target-dir").arg(built.parent().unwrap_or(built));
        if built.file_name().is_some_and(|name| name == "release") {
            command.arg("--release");
        }
        if !command.stdin(Stdio::null()).stdout(Stdio::null()).status()?.success() {
            let text = format!("{program} could not be built; --program names a built blobmesh");
            return Err(io::Error::other(text));
        }
    }
    Ok(built.join("blobmesh"))
}

fn tmpfs(named: Option<&Path>) -> io::Result<Option<PathBuf>> {
    let path = named.unwrap_or(Path::new(TMPFS));
    let is_tmpfs = path.is_dir() && file_system(path) == "tmpfs";
    match (is_tmpfs, named) {
        (true, _) => Ok(Some(path.to_owned())),
        (false, None) => {
            tell("no tmpfs: what is measured on one is left out");
            Ok(None)
        }
        (false, Some(path)) => {
            Err(io::Error::other(format!("{} is not on a tmpfs", path.display())))
        }
    }
}

/// Has the first signal end the run between two contenders, so that everything is cleared away.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn tell(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
