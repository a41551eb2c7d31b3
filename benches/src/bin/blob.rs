//! Times one large blob between two real nodes on loopback, beside the ceiling, rsync and the blob
//! streams of a node without lanes: seconds, and processor seconds of both sides.
//!
//! The contenders take turns, so that what else the machine does meets them alike; what one leaves behind
//! is removed before the next. The first round is not counted.

#![expect(clippy::print_stdout, reason = "the program's answer")]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blobmesh_benches::nodes::BenchNode;
use blobmesh_benches::process::{Background, children_s, run};
use blobmesh_benches::rsync::Daemon;
use blobmesh_protocol::blob::BlobHasher;
use clap::Parser;

/// Times one large blob from one holder to a cold getter.
#[derive(Parser)]
struct Args {
    /// How many rounds are counted.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The blob's length in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// The directory in which everything is put, on the file system to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The built `blobmesh`; the one beside this program where none is named.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// What one run took.
#[derive(Clone, Copy)]
struct Taken {
    seconds: f64,
    /// Of the side that serves.
    serving_s: f64,
    /// Of the side that fetches.
    fetching_s: f64,
}

type Contender<'a> = (&'static str, Box<dyn FnMut() -> io::Result<Taken> + 'a>);

fn main() -> io::Result<()> {
    let args = Args::parse();
    let beside = std::env::current_exe()?;
    let program = args.program.unwrap_or_else(|| beside.with_file_name("blobmesh"));
    let room = tempfile::tempdir_in(&args.dir)?;
    let source = room.path().join("source").join("blob");
    let (size, hash) = make(&source, args.mib)?;
    let holder_home = room.path().join("holder");
    let with_lanes = BenchNode::start(&program, &holder_home, &[], "any")?;
    add(&with_lanes, &source)?;
    let without_home = room.path().join("without");
    let without_lanes = BenchNode::start(&program, &without_home, &[], "off")?;
    add(&without_lanes, &source)?;
    let daemon = Daemon::start(&source, room.path())?;
    let (ceiling, port) = start_ceiling(&beside, &source, room.path())?;
    let to = room.path().join("got");
    let warm = || settle(room.path(), size);
    let getter = room.path().join("getter");
    let get = |holder: &BenchNode| get((&program, &getter), holder, &hash, warm);
    let mut contenders: [Contender<'_>; 4] = [
        ("lanes", Box::new(|| get(&with_lanes))),
        (
            "ceiling",
            Box::new(|| {
                let mut command = Command::new(beside.with_file_name("ceiling"));
                command.args(["fetch", &port, &size.to_string()]).arg(&to);
                outside(&ceiling, &to, warm, || run(&mut command).map(|(_, took)| took))
            }),
        ),
        ("rsync", Box::new(|| outside(&daemon.process, &to, warm, || daemon.fetch(&to)))),
        ("streams", Box::new(|| get(&without_lanes))),
    ];
    let mut taken = [const { Vec::new() }; 4];
    for round in 0..=args.runs {
        for ((name, contender), taken) in contenders.iter_mut().zip(&mut taken) {
            let run = contender()?;
            if round > 0 {
                println!(
                    "{round} {name:<8} {:.3} s, {:.2} + {:.2} processor s",
                    run.seconds, run.serving_s, run.fetching_s
                );
                taken.push(run);
            }
        }
    }
    summarize(&contenders.map(|(name, _)| name), &taken, size);
    Ok(())
}

/// Makes a file that does not compress, and returns its length and hash.
fn make(path: &Path, mib: u64) -> io::Result<(u64, String)> {
    path.parent().map_or(Ok(()), std::fs::create_dir)?;
    let mut file = File::create(path)?;
    let mut hasher = BlobHasher::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0; 1 << 20];
    for _ in 0..mib {
        for word in piece.chunks_exact_mut(8) {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece)?;
        hasher.update(&piece);
    }
    file.sync_all()?;
    Ok((mib << 20, hasher.finish().hash().to_hex()))
}

fn add(node: &BenchNode, source: &Path) -> io::Result<()> {
    node.ask(&["add", &source.to_string_lossy()]).map(drop)
}

fn start_ceiling(beside: &Path, source: &Path, room: &Path) -> io::Result<(Background, String)> {
    let ready = room.join("port");
    let mut command = Command::new(beside.with_file_name("ceiling"));
    command.arg("serve").arg(source).arg("--ready-file").arg(&ready);
    let process = Background::start(&mut command)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !ready.exists() {
        if Instant::now() >= deadline {
            return Err(io::Error::other("the ceiling does not serve"));
        }
        std::thread::yield_now();
    }
    let port = std::fs::read_to_string(ready)?;
    Ok((process, port))
}

/// Gets the blob with a fresh node, whose start is not timed.
fn get(
    (program, home): (&Path, &Path),
    holder: &BenchNode,
    hash: &str,
    warm: impl FnOnce() -> io::Result<()>,
) -> io::Result<Taken> {
    let getter = BenchNode::start(program, home, &[holder.address()?], "any")?;
    warm()?;
    let before = (holder.process.processor_s()?, getter.process.processor_s()?);
    let (_, took) = getter.ask(&["get", hash])?;
    let after = (holder.process.processor_s()?, getter.process.processor_s()?);
    getter.process.end()?;
    std::fs::remove_dir_all(home)?;
    Ok(Taken {
        seconds: took.as_secs_f64(),
        serving_s: after.0 - before.0,
        fetching_s: after.1 - before.1,
    })
}

/// Times a program that fetches to a file.
fn outside(
    serving: &Background,
    to: &Path,
    warm: impl FnOnce() -> io::Result<()>,
    fetch: impl FnOnce() -> io::Result<Duration>,
) -> io::Result<Taken> {
    warm()?;
    let before = (serving.processor_s()?, children_s()?);
    let took = fetch()?;
    let after = (serving.processor_s()?, children_s()?);
    std::fs::remove_file(to)?;
    Ok(Taken {
        seconds: took.as_secs_f64(),
        serving_s: after.0 - before.0,
        fetching_s: after.1 - before.1,
    })
}

/// Has the disk finish what was written before, and the kernel hold as much memory as will be written: a
/// virtual machine pays dearly for memory that it has not touched for a while, and whoever writes next would
/// pay for all.
fn settle(room: &Path, size: u64) -> io::Result<()> {
    run(&mut Command::new("sync"))?;
    let path = room.join("warm");
    let mut file = File::create(&path)?;
    let piece = vec![1; 1 << 20];
    for _ in 0..(size >> 20) + 256 {
        file.write_all(&piece)?;
    }
    std::fs::remove_file(path)
}

fn summarize(names: &[&str; 4], taken: &[Vec<Taken>; 4], size: u64) {
    let gib = Duration::from_secs(size).as_secs_f64() / f64::from(1 << 30);
    let median = |runs: &[Taken], of: fn(&Taken) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let seconds: Vec<f64> = taken.iter().map(|runs| median(runs, |run| run.seconds)).collect();
    let lanes = seconds.first().copied().unwrap_or(f64::NAN);
    for ((name, runs), seconds) in names.iter().zip(taken).zip(&seconds) {
        println!(
            "{name:<8} {seconds:.3} s, serving {:.2} + fetching {:.2} processor s a GiB, ratio {:.2}",
            median(runs, |run| run.serving_s) / gib,
            median(runs, |run| run.fetching_s) / gib,
            seconds / lanes,
        );
    }
}
