//! Many small blobs by one get of a list, on a tmpfs.
//!
//! Everything lies on the tmpfs, the node's store as well as what curl and rsync write: making thousands of files
//! costs an ext4 that has just lost as many up to fifteen times as much, whoever makes them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use blobmesh_protocol::Hash;
use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use serde_json::json;

use super::{Figures, Setting, Work, check, check_held, settle};
use crate::content::{self, Made};
use crate::nginx::Nginx;
use crate::nodes::BenchNode;
use crate::process::{Taken, measure};
use crate::rivals::Rival;
use crate::rounds::{Contender, Round, Rows};
use crate::rsync::Daemon;

/// The work.
pub const WORK: Work = Work {
    name: "small",
    about: "10,000 blobs of 4 to 16 KiB by one get of a list, on a tmpfs",
    metrics: METRICS,
    rivals: &[Rival::Rsync, Rival::Nginx, Rival::Curl, Rival::Openssl],
    run,
};

/// The lengths of the blobs in bytes, from the least to the most.
const LENGTHS: (u64, u64) = (4 << 10, 16 << 10);
/// What a file takes at most, however short it is, with its entries in a store's index.
const FILE_BYTES_MAX: u64 = 32 << 10;

const RATIO_CURL: MetricSpec = MetricSpec {
    name: "ratio_curl",
    unit: "ratio",
    bound: Some(Bound::AtLeast(1.2)),
    about: "curl -Z from nginx over plain HTTP",
};
const RATIO_RSYNC: MetricSpec = MetricSpec {
    name: "ratio_rsync",
    unit: "ratio",
    bound: Some(Bound::AtLeast(1.0)),
    about: "rsync -a from its daemon, without encryption",
};
const RATIO_CURL_TLS: MetricSpec = MetricSpec {
    name: "ratio_curl_tls",
    unit: "ratio",
    bound: None,
    about: "curl -Z from nginx over TLS and HTTP/2",
};
const BLOBS_PER_S: MetricSpec = MetricSpec {
    name: "blobs_per_s",
    unit: "1/s",
    bound: None,
    about: "blobs over the median seconds of the get",
};

const METRICS: &[MetricSpec] = &[RATIO_CURL, RATIO_RSYNC, RATIO_CURL_TLS, BLOBS_PER_S];

const OURS: &str = "blobmesh";
const CURL: &str = "curl -Z";
const CURL_TLS: &str = "curl -Z h2";
const RSYNC: &str = "rsync -a";

fn run(setting: &Setting) -> io::Result<Figures> {
    // The source, the holder's store, and what a getter writes.
    let room = setting.tmpfs_room(4 * setting.blobs * FILE_BYTES_MAX);
    let room = room.ok_or_else(|| io::Error::other("no tmpfs with enough room"))?;
    let source = room.path().join("source");
    let files = content::make_many(&source, setting.blobs, LENGTHS)?;
    let bench = Bench::start(setting, room.path(), &source, &files)?;
    let rows = setting.take_turns(bench.contenders(), OURS)?;
    Ok(figures(setting, &rows, bench.bytes))
}

fn figures(setting: &Setting, rows: &Rows, bytes: u64) -> Figures {
    let head = format!(
        "small: {} blobs, {} MiB, {} rounds, tmpfs; a ratio is seconds over blobmesh's, 1 and above is ours",
        setting.blobs,
        bytes >> 20,
        setting.runs
    );
    let mut figures = Figures {
        text: format!("{head}\n{}", rows.table(OURS, bytes)),
        raw: json!({ "blobs": setting.blobs, "bytes": bytes, "contenders": rows }),
        ..Figures::default()
    };
    let ratio = |rival| rows.ratio(rival, OURS).map(|ratio| ratio.median);
    figures.put(&RATIO_CURL, ratio(CURL));
    figures.put(&RATIO_RSYNC, ratio(RSYNC));
    figures.put(&RATIO_CURL_TLS, ratio(CURL_TLS));
    let blobs = u32::try_from(setting.blobs).map_or(f64::NAN, f64::from);
    figures.put(&BLOBS_PER_S, rows.median(OURS, |taken| Some(blobs / taken.seconds)));
    figures
}

struct Bench<'a> {
    setting: &'a Setting,
    room: &'a Path,
    files: &'a [Made],
    hashes: Vec<Hash>,
    bytes: u64,
    holder: BenchNode,
    address: String,
    rsync: Option<Daemon>,
    nginx: Option<Nginx>,
}

impl<'a> Bench<'a> {
    fn start(
        setting: &'a Setting,
        room: &'a Path,
        source: &Path,
        files: &'a [Made],
    ) -> io::Result<Self> {
        let holder = BenchNode::start(&setting.program, &room.join("holder"), &[], "any")?;
        holder.add(files)?;
        let rsync = setting.rivals.find(Rival::Rsync);
        let web = setting.rivals.find_all([Rival::Nginx, Rival::Openssl, Rival::Curl]);
        Ok(Self {
            setting,
            room,
            files,
            hashes: files.iter().map(|made| made.hash).collect(),
            bytes: files.iter().map(|made| made.len).sum(),
            address: holder.address()?,
            holder,
            rsync: rsync.map(|rsync| Daemon::start(&rsync, source, room)).transpose()?,
            nginx: web
                .map(|[nginx, openssl, _]| Nginx::start(&nginx, &openssl, source, room))
                .transpose()?,
        })
    }

    fn contenders(&self) -> Vec<Contender<'_>> {
        let mut contenders =
            vec![Contender { name: OURS, run: Box::new(|round| self.blobmesh(round)) }];
        if let Some(nginx) = &self.nginx {
            let plain = Box::new(|round| self.curl(round, nginx, |name| nginx.http_url(name)));
            contenders.push(Contender { name: CURL, run: plain });
            let tls = Box::new(|round| self.curl(round, nginx, |name| nginx.tls_url(name)));
            contenders.push(Contender { name: CURL_TLS, run: tls });
        }
        if let Some(daemon) = &self.rsync {
            let run = Box::new(|round| self.rsync(round, daemon));
            contenders.push(Contender { name: RSYNC, run });
        }
        contenders
    }

    /// Gets all blobs with a fresh node, whose start is not timed.
    fn blobmesh(&self, round: Round) -> io::Result<Taken> {
        let home = self.room.join("getter");
        let peers = std::slice::from_ref(&self.address);
        let getter = BenchNode::start(&self.setting.program, &home, peers, "any")?;
        settle(self.room, self.bytes)?;
        let taken = measure(&[self.holder.process.tree()], &[getter.process.tree()], |sides| {
            getter.get(sides, &self.hashes)
        })?;
        for made in self.files {
            check_held(round, &getter, made)?;
        }
        getter.process.end()?;
        fs::remove_dir_all(home)?;
        Ok(taken)
    }

    /// Fetches all files with as many transfers at once as curl does by default.
    fn curl(&self, round: Round, nginx: &Nginx, url: impl Fn(&str) -> String) -> io::Result<Taken> {
        let (list, got) = (self.room.join("curl-list"), self.fresh()?);
        let mut lines = String::new();
        for made in self.files {
            let to = got.join(&made.name);
            let (url, to) = (url(&made.name), to.display());
            writeln!(lines, "url = \"{url}\"\noutput = \"{to}\"").map_err(io::Error::other)?;
        }
        fs::write(&list, lines)?;
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--insecure", "--parallel", "--create-dirs"]);
        command.arg("--config").arg(&list);
        settle(self.room, self.bytes)?;
        let taken = measure(&[nginx.process.tree()], &[], |sides| {
            sides.run(&mut command).map(|(_, took)| took)
        })?;
        self.check_files(round, &got)?;
        Ok(taken)
    }

    fn rsync(&self, round: Round, daemon: &Daemon) -> io::Result<Taken> {
        let got = self.fresh()?;
        settle(self.room, self.bytes)?;
        let taken = measure(&[daemon.process.tree()], &[], |sides| daemon.fetch_all(sides, &got))?;
        self.check_files(round, &got)?;
        Ok(taken)
    }

    fn fresh(&self) -> io::Result<std::path::PathBuf> {
        let got = self.room.join("got");
        fs::create_dir(&got)?;
        Ok(got)
    }

    fn check_files(&self, round: Round, got: &Path) -> io::Result<()> {
        for made in self.files {
            check(round, &got.join(&made.name), made)?;
        }
        fs::remove_dir_all(got)
    }
}
