//! The memory of two nodes while one serves a huge blob to the other, while one gets a hundred at once, and while trees
//! go from one to the other: of very many files, and of a huge one.
//!
//! Peaks are those of the nodes' processes from the moment the step begins, as the kernel counts resident memory;
//! the commands that ask are not in them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use std::{fs, io};

use blobmesh_protocol::Hash;
use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use blobmesh_simulations::netns::noise::Noise;
use serde::Serialize;
use serde_json::json;

use super::{Figures, Setting, Work};
use crate::content::{make, make_many, write_noise};
use crate::nodes::BenchNode;
use crate::process::{self, Background};

/// The work.
pub const WORK: Work = Work {
    name: "memory",
    about: "the memory of two nodes: one huge blob, one of 1 GiB, a hundred gets of 64 MiB at once, and trees",
    metrics: METRICS,
    rivals: &[],
    run,
};

/// How many blobs are got at once, and how long each is.
const AT_ONCE: u64 = 100;
const AT_ONCE_LEN: u64 = 64 << 20;

/// How many files the tree of many has, and how long each is.
const FILES: u64 = 100_000;
const FILE_LEN: (u64, u64) = (512, 4 << 10);

/// What a node may take, whatever it serves and gets.
const PEAK_MIB_MAX: f64 = 128.0;
/// What a huge blob may take above one of 1 GiB: its list of groups is 10 MiB for 20 GiB.
const GROWTH_MIB_MAX: f64 = 16.0;

const GETTER: MetricSpec = peak("rss_mib_getter", "of the node that gets the huge blob");
const HOLDER: MetricSpec = peak("rss_mib_holder", "of the node that serves the huge blob");
const GETTER_1: MetricSpec = peak("rss_mib_getter_1gib", "of the node that gets a blob of 1 GiB");
const HOLDER_1: MetricSpec = peak("rss_mib_holder_1gib", "of the node that serves a blob of 1 GiB");
const GETTER_GROWTH: MetricSpec = growth("rss_growth_mib_getter", "from 1 GiB to the huge blob");
const HOLDER_GROWTH: MetricSpec = growth("rss_growth_mib_holder", "from 1 GiB to the huge blob");
const GETTER_100: MetricSpec =
    peak("rss_mib_getter_100", "of the node that gets 100 blobs at once");
const HOLDER_100: MetricSpec = peak("rss_mib_holder_100", "of the node that serves them");

const ADD_FILES: MetricSpec = peak("rss_mib_add_files", "of the node that adds 100,000 files");
const SERVE_FILES: MetricSpec = peak("rss_mib_serve_files", "of the node that serves them");
const PULL_FILES: MetricSpec = peak("rss_mib_pull_files", "of the node that pulls them");
const CHECKOUT_FILES: MetricSpec =
    peak("rss_mib_checkout_files", "of that node while it checks them out once more");
const ADD_HUGE: MetricSpec =
    peak("rss_mib_add_huge", "of the node that adds a tree of a huge file");
const SERVE_HUGE: MetricSpec = peak("rss_mib_serve_huge", "of the node that serves it");
const PULL_HUGE: MetricSpec = peak("rss_mib_pull_huge", "of the node that pulls it");
const CHECKOUT_HUGE: MetricSpec =
    peak("rss_mib_checkout_huge", "of that node while it checks it out once more");

const FAILED: MetricSpec = MetricSpec {
    name: "failed_gets",
    unit: "count",
    bound: Some(Bound::Exactly(0.0)),
    about: "of all gets of this work, those that ended without their blob",
};

const METRICS: &[MetricSpec] = &[
    GETTER,
    HOLDER,
    GETTER_1,
    HOLDER_1,
    GETTER_GROWTH,
    HOLDER_GROWTH,
    GETTER_100,
    HOLDER_100,
    ADD_FILES,
    SERVE_FILES,
    PULL_FILES,
    CHECKOUT_FILES,
    ADD_HUGE,
    SERVE_HUGE,
    PULL_HUGE,
    CHECKOUT_HUGE,
    FAILED,
];

const fn peak(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "MiB", bound: Some(Bound::AtMost(PEAK_MIB_MAX)), about }
}

const fn growth(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "MiB", bound: Some(Bound::AtMost(GROWTH_MIB_MAX)), about }
}

/// Is what one case took.
#[derive(Clone, Copy, Debug, Serialize)]
struct Peaks {
    blobs: u64,
    bytes: u64,
    seconds: f64,
    holder_mib: f64,
    getter_mib: f64,
    failed: u32,
}

/// Is what one tree took, step by step.
#[derive(Clone, Copy, Debug, Serialize)]
struct TreePeaks {
    files: u64,
    bytes: u64,
    add_mib: f64,
    serve_mib: f64,
    pull_mib: f64,
    checkout_mib: f64,
    pull_s: f64,
}

fn run(setting: &Setting) -> io::Result<Figures> {
    let huge = case(setting, 1, setting.gib << 30)?;
    setting.go_on()?;
    let one = case(setting, 1, 1 << 30)?;
    setting.go_on()?;
    let hundred = case(setting, AT_ONCE, AT_ONCE_LEN)?;
    setting.go_on()?;
    let files = tree_case(setting, FILES * FILE_LEN.1, |source| {
        make_many(source, FILES, FILE_LEN).map(drop)
    })?;
    setting.go_on()?;
    let huge_bytes = setting.gib << 30;
    let huge_file =
        tree_case(setting, huge_bytes, |to| make(&to.join("huge"), 1, huge_bytes).map(drop))?;
    let mut figures = Figures {
        text: format!("{}\n\n{}", table(&[huge, one, hundred]), tree_table(&[files, huge_file])),
        raw: json!({
            "huge": huge, "one_gib": one, "at_once": hundred, "files": files, "huge_file": huge_file
        }),
        ..Figures::default()
    };
    for (metric, peak) in [
        (&ADD_FILES, files.add_mib),
        (&SERVE_FILES, files.serve_mib),
        (&PULL_FILES, files.pull_mib),
        (&CHECKOUT_FILES, files.checkout_mib),
        (&ADD_HUGE, huge_file.add_mib),
        (&SERVE_HUGE, huge_file.serve_mib),
        (&PULL_HUGE, huge_file.pull_mib),
        (&CHECKOUT_HUGE, huge_file.checkout_mib),
    ] {
        figures.put(metric, Some(peak));
    }
    figures.put(&GETTER, Some(huge.getter_mib));
    figures.put(&HOLDER, Some(huge.holder_mib));
    figures.put(&GETTER_1, Some(one.getter_mib));
    figures.put(&HOLDER_1, Some(one.holder_mib));
    figures.put(&GETTER_GROWTH, Some(huge.getter_mib - one.getter_mib));
    figures.put(&HOLDER_GROWTH, Some(huge.holder_mib - one.holder_mib));
    figures.put(&GETTER_100, Some(hundred.getter_mib));
    figures.put(&HOLDER_100, Some(hundred.holder_mib));
    figures.put(&FAILED, Some(f64::from(huge.failed + one.failed + hundred.failed)));
    Ok(figures)
}

/// Has a fresh node get some blobs at once from a fresh holder.
fn case(setting: &Setting, blobs: u64, len: u64) -> io::Result<Peaks> {
    let bytes = blobs * len;
    setting.tell(&format!("memory: {blobs} of {} MiB", len >> 20));
    let room = setting.room(&setting.dir, 2 * bytes + (1 << 30))?;
    let start = |name, peers: &[String]| start(setting, room.path(), name, peers);
    let holder = start("holder", &[])?;
    let hashes: Result<Vec<Hash>, _> = (0..blobs)
        .map(|number| {
            setting.go_on()?;
            holder.add_written(|mut to| write_noise(Noise::new(number), len, &mut to))
        })
        .collect();
    let getter = start("getter", &[holder.address()?])?;
    let (serving, fetching) = (holder.process.tree(), getter.process.tree());
    [serving, fetching].iter().for_each(|tree| tree.forget_peak());
    let started = Instant::now();
    let failed = get_at_once(setting, &getter, &hashes?, room.path())?;
    let seconds = started.elapsed().as_secs_f64();
    let (holder_mib, getter_mib) = (serving.peak_mib(), fetching.peak_mib());
    Ok(Peaks { blobs, bytes, seconds, holder_mib, getter_mib, failed })
}

fn start(setting: &Setting, room: &Path, name: &str, peers: &[String]) -> io::Result<BenchNode> {
    BenchNode::start(&setting.program, &room.join(name), peers, "any")
}

/// Has a fresh node add a tree, and another pull it and check it out once more.
fn tree_case(
    setting: &Setting,
    bytes_max: u64,
    make: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<TreePeaks> {
    setting.tell(&format!("memory: a tree of up to {} MiB", bytes_max >> 20));
    let room = setting.room(&setting.dir, 4 * bytes_max + (1 << 30))?;
    let source = room.path().join("source");
    fs::create_dir(&source)?;
    make(&source)?;
    let holder = start(setting, room.path(), "holder", &[])?;
    let serving = holder.process.tree();
    serving.forget_peak();
    let added = holder.add_tree(&source)?;
    let add_mib = serving.peak_mib();
    fs::remove_dir_all(&source)?;
    let getter = start(setting, room.path(), "getter", &[holder.address()?])?;
    let fetching = getter.process.tree();
    [serving, fetching].iter().for_each(|tree| tree.forget_peak());
    let out = room.path().join("out");
    let (_, pulled) = process::run(&mut getter.pulling(added.hash, &out))?;
    let (serve_mib, pull_mib) = (serving.peak_mib(), fetching.peak_mib());
    fs::remove_dir_all(&out)?;
    fetching.forget_peak();
    getter.check_out(added.hash, &room.path().join("again"))?;
    let checkout_mib = fetching.peak_mib();
    let (files, bytes, pull_s) = (added.files, added.bytes, pulled.as_secs_f64());
    Ok(TreePeaks { files, bytes, add_mib, serve_mib, pull_mib, checkout_mib, pull_s })
}

/// Gets each blob by a command of its own, all at once; returns how many failed.
fn get_at_once(
    setting: &Setting,
    getter: &BenchNode,
    hashes: &[Hash],
    room: &Path,
) -> io::Result<u32> {
    let said = room.join("said");
    let spawn = |hash: &Hash| -> io::Result<Child> {
        let mut command: Command = getter.getting();
        command.arg(hash.to_hex()).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::OpenOptions::new().create(true).append(true).open(&said)?).spawn()
    };
    let commands: Result<Vec<_>, _> =
        hashes.iter().map(|hash| spawn(hash).map(Background::of)).collect();
    let mut failed = 0;
    for mut command in commands? {
        failed += u32::from(command.ended().is_err());
    }
    if failed > 0 {
        setting.tell(&fs::read_to_string(said)?);
    }
    Ok(failed)
}

fn table(cases: &[Peaks]) -> String {
    let mut lines = vec![format!(
        "{:<16} {:>12}  {:>12}  {:>8}  {:>6}  {:>6}",
        "", "holder MiB", "getter MiB", "seconds", "MiB/s", "failed"
    )];
    for Peaks { blobs, bytes, seconds, holder_mib, getter_mib, failed } in cases {
        let name = format!("{blobs} of {} MiB", (bytes / blobs) >> 20);
        let rate = crate::rounds::gib(*bytes) * 1024.0 / seconds;
        lines.push(format!(
            "{name:<16} {holder_mib:>12.1}  {getter_mib:>12.1}  {seconds:>8.2}  {rate:>6.0}  {failed:>6}"
        ));
    }
    lines.join("\n")
}

fn tree_table(cases: &[TreePeaks]) -> String {
    let mut lines = vec![format!(
        "{:<28} {:>8}  {:>9}  {:>8}  {:>12}  {:>8}",
        "", "add MiB", "serve MiB", "pull MiB", "checkout MiB", "pull s"
    )];
    for TreePeaks { files, bytes, add_mib, serve_mib, pull_mib, checkout_mib, pull_s } in cases {
        let name = format!("a tree of {files} files, {} MiB", bytes >> 20);
        lines.push(format!(
            "{name:<28} {add_mib:>8.1}  {serve_mib:>9.1}  {pull_mib:>8.1}  {checkout_mib:>12.1}  {pull_s:>8.2}"
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_the_length_of_one_blob_and_the_rate_of_all() {
        let (holder_mib, getter_mib) = (20.0, 30.0);
        let bytes = AT_ONCE * AT_ONCE_LEN;
        let peaks =
            Peaks { blobs: AT_ONCE, bytes, seconds: 64.0, holder_mib, getter_mib, failed: 2 };
        let table = table(&[peaks]);
        let line = table.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["100", "of", "64", "MiB", "20.0", "30.0", "64.00", "100", "2"]);
    }
}
