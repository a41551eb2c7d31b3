//! Blobs of 4 KiB over a connection that is warm: how long one takes, and how many a second, at 1, 10, 50 and 100
//! in flight.
//!
//! Each side that asks is one program with one node, or so many connections to nginx; each request is for another
//! blob. Everything lies on a tmpfs. `stored` is one get of a list by the command, into the store of a fresh
//! node.

use std::fs;
use std::io;
use std::path::Path;

use blobmesh_protocol::Hash;
use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{Figures, Setting, Work, settle};
use crate::content::{self, Made};
use crate::local::{LocalNode, fetch};
use crate::nginx::Nginx;
use crate::nodes::BenchNode;
use crate::process::measure;
use crate::rivals::Rival;
use crate::rivals::iroh::Provider;
use crate::rounds::{Contender, Rows, Told};
use crate::stats::median;
use crate::waits::{Level, ask_all};
use crate::web::Web;

/// The work.
pub const WORK: Work = Work {
    name: "latency",
    about: "blobs of 4 KiB over a warm connection, at 1, 10, 50 and 100 in flight",
    metrics: METRICS,
    rivals: &[Rival::Nginx, Rival::Openssl, Rival::Iroh],
    run,
};

/// The length of the blobs in bytes.
const LEN: u64 = 4 << 10;
/// How many are asked for before those that are counted.
const WARM_LEN: usize = 50;
/// What one blob takes at most in a store or a directory.
const FILE_BYTES_MAX: u64 = 16 << 10;

const IN_FLIGHT: [usize; 4] = [1, 10, 50, 100];

const P50: [MetricSpec; 4] = [
    most("p50_over_nginx", 1.3, "1 in flight: the median wait over that of nginx"),
    tells("p50_over_nginx_10", "10 in flight: the same"),
    tells("p50_over_nginx_50", "50 in flight: the same"),
    tells("p50_over_nginx_100", "100 in flight: the same"),
];
const P99: [MetricSpec; 4] = [
    most("p99_over_nginx", 1.0, "1 in flight: what 99 of 100 wait at most, over that of nginx"),
    most("p99_over_nginx_10", 1.0, "10 in flight: the same"),
    most("p99_over_nginx_50", 1.0, "50 in flight: the same"),
    most("p99_over_nginx_100", 1.0, "100 in flight: the same"),
];
const RATE: [MetricSpec; 4] = [
    tells("rate_1", "1 in flight: requests a second over those of nginx"),
    least("rate_10", 0.8, "10 in flight: the same"),
    least("rate_50", 1.0, "50 in flight: the same"),
    least("rate_100", 1.0, "100 in flight: the same"),
];
const RATIO_IROH: [MetricSpec; 4] = [
    least("ratio_iroh", 2.5, "1 in flight: requests a second over those of iroh-blobs"),
    least("ratio_iroh_10", 2.5, "10 in flight: the same"),
    least("ratio_iroh_50", 2.5, "50 in flight: the same"),
    least("ratio_iroh_100", 2.5, "100 in flight: the same"),
];
const STORED_PER_S: MetricSpec = MetricSpec {
    name: "stored_per_s",
    unit: "1/s",
    bound: Some(Bound::AtLeast(20_000.0)),
    about: "blobs a second by one get of a list, into the store",
};

const METRICS: &[MetricSpec] = &[
    P50[0],
    P50[1],
    P50[2],
    P50[3],
    P99[0],
    P99[1],
    P99[2],
    P99[3],
    RATE[0],
    RATE[1],
    RATE[2],
    RATE[3],
    RATIO_IROH[0],
    RATIO_IROH[1],
    RATIO_IROH[2],
    RATIO_IROH[3],
    STORED_PER_S,
];

const OURS: &str = "blobmesh";
const STORED: &str = "stored";
const NGINX: &str = "nginx";
const IROH: &str = "iroh-blobs";

const fn tells(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: None, about }
}

const fn most(name: &'static str, most: f64, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtMost(most)), about }
}

const fn least(name: &'static str, least: f64, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(least)), about }
}

/// Is what one round of a contender came to: one level for each number in flight, or that of a list alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Levels(Vec<Level>);

impl Told for Levels {
    fn told(&self) -> String {
        let level = |level: &Level| format!("{}: {:.0}/s", level.at_once, level.rate());
        self.0.iter().map(level).collect::<Vec<_>>().join(", ")
    }
}

impl Levels {
    fn at(&self, at_once: usize) -> Option<&Level> {
        self.0.iter().find(|level| level.at_once == at_once)
    }
}

fn run(setting: &Setting) -> io::Result<Figures> {
    let shares = shares(setting.blobs)?;
    let count = shares.iter().map(|(_, count)| count).sum::<usize>() + WARM_LEN;
    let count = u64::try_from(count).map_err(io::Error::other)?;
    // The source, the stores of two holders, and that of a getter.
    let room = setting.tmpfs_room(4 * count * FILE_BYTES_MAX);
    let room = room.ok_or_else(|| io::Error::other("no tmpfs with enough room"))?;
    let source = room.path().join("source");
    let files = content::make_many(&source, count, (LEN, LEN))?;
    let runtime = Runtime::new()?;
    let bench = Bench::start(setting, &runtime, room.path(), &source, &files, &shares)?;
    let rows = setting.take_turns(bench.contenders(), OURS)?;
    Ok(figures(setting.runs, &rows))
}

/// Returns how many requests are made at each number in flight.
fn shares(blobs: u64) -> io::Result<[(usize, usize); 4]> {
    let blobs = usize::try_from(blobs).map_err(io::Error::other)?;
    let counts = [blobs / 5, blobs / 2, blobs, blobs];
    let mut shares = [(0, 0); 4];
    for ((share, at_once), count) in shares.iter_mut().zip(IN_FLIGHT).zip(counts) {
        // Everybody who asks has something to ask for.
        *share = (at_once, count.max(at_once));
    }
    Ok(shares)
}

fn figures(runs: usize, rows: &Rows<Levels>) -> Figures {
    let head =
        format!("latency: 4 KiB, {runs} rounds, tmpfs; medians over the rounds, waits in ms");
    let mut figures = Figures {
        text: format!("{head}\n{}", table(rows)),
        raw: json!({ "blob_bytes": LEN, "contenders": rows }),
        ..Figures::default()
    };
    for (index, at_once) in IN_FLIGHT.into_iter().enumerate() {
        let ratio = |over, under, of: fn(&Level) -> Option<f64>| {
            let ratio = rows.ratio_of(over, under, |levels: &Levels| of(levels.at(at_once)?));
            ratio.map(|ratio| ratio.median)
        };
        figures.put(&P50[index], ratio(OURS, NGINX, |level| Some(level.waits_ms?.p50)));
        figures.put(&P99[index], ratio(OURS, NGINX, |level| Some(level.waits_ms?.p99)));
        figures.put(&RATE[index], ratio(OURS, NGINX, |level| Some(level.rate())));
        figures.put(&RATIO_IROH[index], ratio(OURS, IROH, |level| Some(level.rate())));
    }
    let stored = rows.median(STORED, |levels| levels.0.first().map(Level::rate));
    figures.put(&STORED_PER_S, stored);
    figures
}

fn table(rows: &Rows<Levels>) -> String {
    let mut lines = vec![format!(
        "{:<12} {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        "", "in flight", "p50", "p95", "p99", "max", "per s"
    )];
    for row in &rows.0 {
        let Some(first) = row.rounds.first() else {
            lines.push(format!("{:<12} {:>9}", row.name, "not measured"));
            continue;
        };
        for level in &first.0 {
            let of = |of: fn(&Level) -> Option<f64>| {
                let values = row.rounds.iter().filter_map(|levels| of(levels.at(level.at_once)?));
                median(values)
            };
            let waits = [
                of(|level| Some(level.waits_ms?.p50)),
                of(|level| Some(level.waits_ms?.p95)),
                of(|level| Some(level.waits_ms?.p99)),
                of(|level| Some(level.waits_ms?.max)),
            ];
            let waits = waits.map(|wait| wait.map_or_else(String::new, |ms| format!("{ms:.3}")));
            let in_flight = match level.at_once {
                0 => "a list".to_owned(),
                at_once => at_once.to_string(),
            };
            let rate = of(|level| Some(level.rate())).unwrap_or(f64::NAN);
            let [p50, p95, p99, max] = waits;
            lines.push(format!(
                "{:<12} {in_flight:>9}  {p50:>9}  {p95:>9}  {p99:>9}  {max:>9}  {rate:>9.0}",
                row.name
            ));
        }
    }
    lines.join("\n")
}

struct Bench<'a> {
    setting: &'a Setting,
    runtime: &'a Runtime,
    room: &'a Path,
    files: &'a [Made],
    hashes: Vec<Hash>,
    shares: &'a [(usize, usize)],
    holder: BenchNode,
    address: String,
    nginx: Option<(Nginx, Web)>,
    iroh: Option<Provider>,
}

impl<'a> Bench<'a> {
    fn start(
        setting: &'a Setting,
        runtime: &'a Runtime,
        room: &'a Path,
        source: &Path,
        files: &'a [Made],
        shares: &'a [(usize, usize)],
    ) -> io::Result<Self> {
        let holder = BenchNode::start(&setting.program, &room.join("holder"), &[], "any")?;
        holder.add(files)?;
        let start_web = |[nginx, openssl]: [std::path::PathBuf; 2]| {
            let nginx = Nginx::start(&nginx, &openssl, source, room)?;
            let web = Web::new(nginx.tls_port, &nginx.certificate)?;
            io::Result::Ok((nginx, web))
        };
        let web = setting.rivals.find_all([Rival::Nginx, Rival::Openssl]);
        let iroh = setting.rivals.find(Rival::Iroh);
        let paths = files.iter().map(|made| made.path.as_path());
        Ok(Self {
            setting,
            runtime,
            room,
            files,
            hashes: files.iter().map(|made| made.hash).collect(),
            shares,
            address: holder.address()?,
            holder,
            nginx: web.map(start_web).transpose()?,
            iroh: iroh.map(|iroh| Provider::start(&iroh, paths, room)).transpose()?,
        })
    }

    fn contenders(&self) -> Vec<Contender<'_, Levels>> {
        let mut contenders = vec![
            Contender { name: OURS, run: Box::new(|_| self.runtime.block_on(self.blobmesh())) },
            Contender { name: STORED, run: Box::new(|_| self.stored()) },
        ];
        if let Some((_, web)) = &self.nginx {
            let run = Box::new(|_| self.runtime.block_on(self.nginx(web)));
            contenders.push(Contender { name: NGINX, run });
        }
        if let Some(provider) = &self.iroh {
            contenders.push(Contender { name: IROH, run: Box::new(|_| self.iroh(provider)) });
        }
        contenders
    }

    /// Asks by a fresh node in this process.
    async fn blobmesh(&self) -> io::Result<Levels> {
        let home = self.room.join("getter");
        let node = LocalNode::start(&home, &self.address).await?;
        for hash in self.hashes.iter().take(WARM_LEN) {
            fetch(node.service(), *hash).await?;
        }
        let mut levels = Vec::new();
        for (from, at_once, count) in self.steps() {
            let clients = vec![node.service(); at_once];
            levels.push(ask_all(clients, &self.hashes[from..from + count], fetch).await?);
        }
        node.end().await;
        fs::remove_dir_all(home)?;
        Ok(Levels(levels))
    }

    async fn nginx(&self, web: &Web) -> io::Result<Levels> {
        let names: Vec<String> = self.files.iter().map(|made| made.name.clone()).collect();
        let mut levels = Vec::new();
        for (from, at_once, count) in self.steps() {
            let mut connections = Vec::new();
            for name in names.iter().cycle().take(at_once) {
                let mut connection = web.connect().await?;
                connection.get(name).await?;
                connections.push(connection);
            }
            let get = |mut connection: crate::web::Connection, name: String| async move {
                match u64::try_from(connection.get(&name).await?) {
                    Ok(LEN) => Ok(connection),
                    _ => Err(io::Error::other("a file has another length")),
                }
            };
            levels.push(ask_all(connections, &names[from..from + count], get).await?);
        }
        Ok(Levels(levels))
    }

    fn iroh(&self, provider: &Provider) -> io::Result<Levels> {
        let mut asker = provider.asker(&self.hashes, self.room)?;
        let mut levels = Vec::new();
        for (from, at_once, count) in self.steps() {
            let (seconds, waits) = asker.ask(from, count, at_once)?;
            levels.push(Level::of(at_once, seconds, &waits));
        }
        Ok(Levels(levels))
    }

    /// Gets as many as at the highest level by one command, into the store of a fresh node.
    fn stored(&self) -> io::Result<Levels> {
        let home = self.room.join("getter");
        let peers = std::slice::from_ref(&self.address);
        let getter = BenchNode::start(&self.setting.program, &home, peers, "any")?;
        let count = self.shares.last().map_or(0, |(_, count)| *count);
        let hashes = &self.hashes[WARM_LEN..WARM_LEN + count];
        settle(self.room, self.setting.blobs * FILE_BYTES_MAX)?;
        let taken = measure(&[self.holder.process.tree()], &[getter.process.tree()], |sides| {
            getter.get(sides, hashes)
        })?;
        getter.process.end()?;
        fs::remove_dir_all(home)?;
        let requests = hashes.len();
        let (seconds, waits_ms) = (taken.seconds, None);
        Ok(Levels(vec![Level { at_once: 0, requests, seconds, waits_ms }]))
    }

    /// Returns the first blob, the number in flight, and the number of requests of each level.
    fn steps(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut from = WARM_LEN;
        self.shares.iter().map(move |(at_once, count)| {
            let first = from;
            from += count;
            (first, *at_once, *count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Row;

    #[test]
    fn everybody_has_something_to_ask_for() {
        assert_eq!(shares(10_000).unwrap(), [(1, 2_000), (10, 5_000), (50, 10_000), (100, 10_000)]);
        assert_eq!(shares(1).unwrap(), [(1, 1), (10, 10), (50, 50), (100, 100)]);
    }

    #[test]
    fn rates_and_waits_are_compared_level_by_level() {
        let levels = |seconds: f64, wait_s: f64| {
            Levels(vec![Level::of(1, seconds, &[wait_s; 4]), Level::of(10, seconds, &[wait_s; 8])])
        };
        let row = |name, levels| Row { name, rounds: vec![levels] };
        let list = Level { at_once: 0, requests: 100, seconds: 0.5, waits_ms: None };
        let rows = Rows(vec![
            row(OURS, levels(1.0, 0.003)),
            row(NGINX, levels(2.0, 0.002)),
            row(STORED, Levels(vec![list])),
        ]);
        let Figures { values, text, .. } = figures(1, &rows);
        let value = |name| values.get(name).map(|value: &f64| (value * 1e6).round() / 1e6);
        assert_eq!((value("rate_1"), value("rate_10")), (Some(2.0), Some(2.0)));
        assert_eq!((value("p50_over_nginx"), value("p99_over_nginx_10")), (Some(1.5), Some(1.5)));
        assert_eq!((value("rate_50"), value("ratio_iroh")), (None, None));
        assert_eq!(value("stored_per_s"), Some(200.0));
        assert!(text.lines().any(|line| line.starts_with("stored") && line.contains("a list")));
    }
}
