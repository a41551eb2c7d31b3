//! A large file that changed a little, from whom has the new version to whom has the old one.
//!
//! What is counted are the bytes on the sockets, both ways, of blobmesh and of rsync alike: each goes through a port
//! that counts. Lanes are off, so that all of blobmesh's bytes are on the one connection.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::BlobHasher;
use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use blobmesh_simulations::netns::noise::Noise;
use serde::Serialize;
use serde_json::json;

use super::{Figures, Setting, Work, settle};
use crate::content::{Made, hash_of, warm};
use crate::counted::CountedWire;
use crate::nodes::BenchNode;
use crate::process::{Taken, measure};
use crate::rivals::Rival;
use crate::rounds::{Contender, Round, Rows, Told};
use crate::rsync::Daemon;

/// The work.
pub const WORK: Work = Work {
    name: "delta",
    about: "256 MiB of which 41 runs of 64 KiB changed and 1,000 bytes were inserted; 1 MiB inserted into 2 GiB",
    metrics: METRICS,
    rivals: &[Rival::Rsync],
    run,
};

const BYTES: MetricSpec = MetricSpec {
    name: "bytes_over_rsync",
    unit: "ratio",
    bound: Some(Bound::AtMost(1.5)),
    about: "bytes on the wire for the changed 256 MiB over those of rsync",
};
const INSERTED: MetricSpec = MetricSpec {
    name: "insert_mib_moved",
    unit: "MiB",
    bound: Some(Bound::AtMost(4.0)),
    about: "bytes on the wire for 1 MiB inserted into 2 GiB",
};
const SECONDS: MetricSpec = MetricSpec {
    name: "delta_ratio_rsync",
    unit: "ratio",
    bound: None,
    about: "seconds of rsync over those of blobmesh for the changed 256 MiB",
};

const METRICS: &[MetricSpec] = &[BYTES, INSERTED, SECONDS];

const OURS: &str = "blobmesh";
const RSYNC: &str = "rsync";

const PIECE_LEN: usize = 1 << 20;
/// The file that changed: its length, and what was changed in it.
const CHANGED: Edits = Edits { mib: 256, runs: 41, run_len: 64 << 10, inserted: 1_000, at: 0 };
/// The file into which something was inserted.
const GREW: Edits = Edits { mib: 2_048, runs: 0, run_len: 0, inserted: 1 << 20, at: 700 };
/// Where in its piece a run or an insertion begins: at no boundary of anything.
const RUN_AT: usize = 300_001;
const INSERTED_AT: usize = 1_000;

/// Says how the second version of a file differs from the first.
#[derive(Clone, Copy, Debug)]
struct Edits {
    mib: u64,
    /// So many runs are replaced, spread evenly.
    runs: u64,
    run_len: usize,
    /// So many bytes are inserted, near the beginning of a piece of 1 MiB.
    inserted: usize,
    at: u64,
}

impl Edits {
    /// Writes a version, and returns its hash and length.
    fn write(&self, is_second: bool, to: &mut (impl Write + ?Sized)) -> io::Result<(Hash, u64)> {
        let (mut noise, mut new) = (Noise::new(self.mib), Noise::new(self.mib + 1));
        let mut hasher = BlobHasher::new();
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            len += u64::try_from(bytes.len()).unwrap_or(0);
            to.write_all(bytes)
        };
        let mut piece = vec![0; PIECE_LEN];
        for number in 0..self.mib {
            noise.fill(&mut piece);
            if is_second && self.is_changed(number) {
                new.fill(&mut piece[RUN_AT..RUN_AT + self.run_len]);
            }
            let (before, behind) = piece.split_at(INSERTED_AT);
            put(before)?;
            if is_second && number == self.at {
                let mut inserted = vec![0; self.inserted];
                new.fill(&mut inserted);
                put(&inserted)?;
            }
            put(behind)?;
        }
        Ok((hasher.finish().hash(), len))
    }

    /// Says whether a piece has a run that is replaced.
    fn is_changed(&self, piece: u64) -> bool {
        let run_of = |piece: u64| piece * self.runs / self.mib;
        run_of(piece + 1) > run_of(piece)
    }

    fn make(&self, is_second: bool, path: &Path) -> io::Result<Made> {
        let mut file = File::create(path)?;
        let (hash, len) = self.write(is_second, &mut file)?;
        file.sync_all()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Made { path: path.to_owned(), name, hash, len })
    }
}

/// Is what one round took.
#[derive(Clone, Copy, Debug, Serialize)]
struct Moved {
    bytes: u64,
    taken: Taken,
}

impl Told for Moved {
    fn told(&self) -> String {
        format!("{} bytes, {}", self.bytes, self.taken.told())
    }
}

fn run(setting: &Setting) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let rows = changed(setting)?;
    let bytes = |moved: &Moved| Duration::from_secs(moved.bytes).as_secs_f64().into();
    let seconds = |moved: &Moved| moved.taken.seconds.into();
    let over = |of: &dyn Fn(&Moved) -> Option<f64>, over, under| {
        rows.ratio_of(over, under, of).map(|ratio| ratio.median)
    };
    figures.put(&BYTES, over(&bytes, OURS, RSYNC));
    figures.put(&SECONDS, over(&seconds, RSYNC, OURS));
    setting.go_on()?;
    let grew = grew(setting)?;
    let mib = Duration::from_secs(grew.bytes).as_secs_f64() / f64::from(1 << 20);
    figures.put(&INSERTED, Some(mib));
    figures.text = table(&rows, &grew);
    figures.raw = json!({ "changed": rows, "grew": grew });
    Ok(figures)
}

/// Has blobmesh and rsync bring the file that changed to whom has the old one.
fn changed(setting: &Setting) -> io::Result<Rows<Moved>> {
    let room = setting.room(&setting.dir, 12 * (CHANGED.mib << 20))?;
    let served = room.path().join("served");
    fs::create_dir(&served)?;
    let first = CHANGED.make(false, &room.path().join("first"))?;
    let second = CHANGED.make(true, &served.join("second"))?;
    let pair = Pair::start(setting, room.path())?;
    pair.holder.add(std::slice::from_ref(&second))?;
    pair.getter.add(std::slice::from_ref(&first))?;
    let daemon = match setting.rivals.find(Rival::Rsync) {
        Some(rsync) => Some(Daemon::start(&rsync, &served, room.path())?),
        None => None,
    };
    let wire = daemon.as_ref().map(|daemon| CountedWire::to(daemon.port)).transpose()?;
    let output = room.path().join("output");
    let bench = Bench { room: room.path(), first, second, output };
    let mut contenders: Vec<Contender<'_, Moved>> =
        vec![Contender { name: OURS, run: Box::new(|round| bench.ours(&pair, round)) }];
    if let Some((daemon, wire)) = daemon.as_ref().zip(wire.as_ref()) {
        let run = |round| bench.rsync(daemon, wire, round);
        contenders.push(Contender { name: RSYNC, run: Box::new(run) });
    }
    setting.take_turns(contenders, OURS)
}

/// Two nodes, linked by a wire that is counted.
struct Pair {
    holder: BenchNode,
    getter: BenchNode,
    wire: CountedWire,
}

impl Pair {
    fn start(setting: &Setting, room: &Path) -> io::Result<Self> {
        let start = |name: &str, peers: &[String]| {
            BenchNode::start(&setting.program, &room.join(name), peers, "off")
        };
        let holder = start("holder", &[])?;
        let address = holder.address()?;
        let port = address.split('/').nth(4).and_then(|port| port.parse().ok());
        let port: u16 = port.ok_or_else(|| io::Error::other("an address without a port"))?;
        let wire = CountedWire::to(port)?;
        let by_wire =
            address.replacen(&format!("/tcp/{port}/"), &format!("/tcp/{}/", wire.port()), 1);
        let getter = start("getter", &[by_wire])?;
        Ok(Self { holder, getter, wire })
    }

    /// Gets a blob by an older one, and writes it to a file where one is named.
    fn get(&self, hash: Hash, base: Hash, output: Option<&Path>) -> io::Result<Moved> {
        let before = self.wire.bytes();
        let taken =
            measure(&[self.holder.process.tree()], &[self.getter.process.tree()], |sides| {
                let mut command = self.getter.getting();
                command.arg(hash.to_hex()).arg("--base").arg(base.to_hex());
                if let Some(output) = output {
                    command.arg("--force").arg("--output").arg(output);
                }
                sides.run(&mut command).map(|(_, took)| took)
            })?;
        Ok(Moved { bytes: self.wire.bytes() - before, taken })
    }
}

struct Bench<'a> {
    room: &'a Path,
    first: Made,
    second: Made,
    output: PathBuf,
}

impl Bench<'_> {
    fn ours(&self, pair: &Pair, round: Round) -> io::Result<Moved> {
        pair.getter.remove(self.second.hash)?;
        self.prepare()?;
        let moved = pair.get(self.second.hash, self.first.hash, Some(&self.output))?;
        super::check(round, &self.output, &self.second)?;
        Ok(moved)
    }

    fn rsync(&self, daemon: &Daemon, wire: &CountedWire, round: Round) -> io::Result<Moved> {
        self.prepare()?;
        let before = wire.bytes();
        let taken = measure(&[daemon.process.tree()], &[], |sides| {
            daemon.update(sides, wire.port(), &self.second.name, &self.output)
        })?;
        super::check(round, &self.output, &self.second)?;
        Ok(Moved { bytes: wire.bytes() - before, taken })
    }

    /// Puts the old version where the new one is to be.
    fn prepare(&self) -> io::Result<()> {
        fs::copy(&self.first.path, &self.output)?;
        settle(self.room, 2 * self.second.len)?;
        [&self.first, &self.second].into_iter().try_for_each(|made| warm(&made.path))
    }
}

/// Inserts into a long file, once: nobody is beside, and bytes do not differ from round to round.
fn grew(setting: &Setting) -> io::Result<Moved> {
    let room = setting.room(&setting.dir, 4 * (GREW.mib << 20))?;
    let pair = Pair::start(setting, room.path())?;
    let add = |node: &BenchNode, is_second| {
        node.add_written(|to| GREW.write(is_second, to).map(|(hash, _)| hash))
    };
    let base = add(&pair.getter, false)?;
    let hash = add(&pair.holder, true)?;
    let moved = pair.get(hash, base, None)?;
    if hash_of(&pair.getter.blob_file(hash))? != hash {
        return Err(io::Error::other("the long blob has wrong bytes"));
    }
    setting.tell(&format!("1 MiB inserted into 2 GiB: {}", moved.told()));
    Ok(moved)
}

fn table(rows: &Rows<Moved>, grew: &Moved) -> String {
    let mut lines = vec![format!(
        "{:<16} {:>12}  {:>9}  {:>22}  {:>17}",
        "256 MiB changed", "bytes", "seconds", "processor s serve+get", "peak MiB serve+get"
    )];
    for name in [OURS, RSYNC] {
        let of = |of: &dyn Fn(&Moved) -> f64| rows.median(name, |moved| Some(of(moved)));
        let Some(seconds) = of(&|moved| moved.taken.seconds) else { continue };
        let sides = |one: &dyn Fn(&Taken) -> f64, other: &dyn Fn(&Taken) -> f64, places: usize| {
            let [one, other] =
                [one, other].map(|side| of(&|moved| side(&moved.taken)).unwrap_or(f64::NAN));
            format!("{one:.places$} + {other:.places$}")
        };
        lines.push(format!(
            "{name:<16} {:>12.0}  {seconds:>9.3}  {:>22}  {:>17}",
            of(&|moved| Duration::from_secs(moved.bytes).as_secs_f64()).unwrap_or(f64::NAN),
            sides(&|taken| taken.serving.processor_s, &|taken| taken.fetching.processor_s, 2),
            sides(&|taken| taken.serving.peak_mib, &|taken| taken.fetching.peak_mib, 0),
        ));
    }
    lines.push(format!("1 MiB inserted into 2 GiB, {OURS}: {}", grew.told()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_version_differs_by_the_runs_and_the_insertion() {
        let edits = Edits { mib: 5, runs: 3, run_len: 10, inserted: 7, at: 2 };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let (_, len) = edits.write(false, &mut first).unwrap();
        let (hash, longer) = edits.write(true, &mut second).unwrap();
        assert_eq!((len, longer), (5 << 20, (5 << 20) + 7));
        assert_eq!(Hash::of(&second), hash);
        second.drain((2 << 20) + INSERTED_AT..(2 << 20) + INSERTED_AT + 7);
        let differing: Vec<usize> =
            (0..first.len()).filter(|at| first[*at] != second[*at]).collect();
        let mut pieces: Vec<usize> = differing.iter().map(|at| at >> 20).collect();
        pieces.dedup();
        assert_eq!(pieces.len(), 3);
        assert!(differing.iter().all(|at| (RUN_AT..RUN_AT + 10).contains(&(at % (1 << 20)))));
    }
}
