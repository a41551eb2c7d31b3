//! One large blob from one holder to a cold getter, on loopback, into the store.
//!
//! Both nodes are real, encrypted and verified, and know each other before the clock starts; so do both sides
//! of iroh-blobs and of libtorrent. curl and rsync are timed from their start to their end, as is the command
//! that asks the node. Everybody writes to the same file system, into a directory that is empty.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use serde_json::json;

use super::{Figures, Setting, Work, check, check_held, settle};
use crate::content::{self, Made};
use crate::machine;
use crate::nginx::Nginx;
use crate::nodes::BenchNode;
use crate::process::{Background, Sides, Taken, Tree, measure};
use crate::rivals::Rival;
use crate::rivals::iroh::Provider;
use crate::rivals::torrent::Seeder;
use crate::rounds::{Contender, Round, Rows, gib};
use crate::rsync::Daemon;

/// The work.
pub const WORK: Work = Work {
    name: "blob",
    about: "one large blob from one holder to a cold getter, on loopback, into the store",
    metrics: METRICS,
    rivals: &[
        Rival::Rsync,
        Rival::Nginx,
        Rival::Curl,
        Rival::Openssl,
        Rival::Libtorrent,
        Rival::Iroh,
    ],
    run,
};

/// How long the ceiling may take to serve.
const SOON: Duration = Duration::from_secs(10);

/// How often the blob's length is needed on the disk: the source, the stores of two holders, what a getter
/// stores and puts out, and what settles the memory before.
const COPIES_MAX: u64 = 6;

const RATIO_RSYNC: MetricSpec = at_least("ratio_rsync", 1.15, "rsync's daemon, without encryption");
const RATIO_NGINX_H2: MetricSpec =
    at_least("ratio_nginx_h2", 1.5, "curl from nginx over TLS and HTTP/2");
const RATIO_LIBTORRENT: MetricSpec = at_least("ratio_libtorrent", 3.0, "libtorrent");
const RATIO_IROH: MetricSpec = at_least("ratio_iroh", 5.0, "iroh-blobs, into its file store");
const RATIO_CEILING: MetricSpec = at_least(
    "ratio_ceiling",
    0.85,
    "two processes that do TLS, hashing and the write, and no more",
);
const RATIO_RSYNC_TMPFS: MetricSpec =
    at_least("ratio_rsync_tmpfs", 0.85, "rsync's daemon, where both write to a tmpfs");
const RATIO_RSYNC_OUTPUT: MetricSpec =
    at_least("ratio_rsync_output", 0.75, "rsync's daemon, where the get also writes a file");
const RATIO_RSYNC_NO_STORE: MetricSpec = MetricSpec {
    name: "ratio_rsync_no_store",
    unit: "ratio",
    bound: None,
    about: "rsync's daemon, where the get writes a file and keeps nothing in the store",
};
const CPU_S_PER_GIB: MetricSpec = MetricSpec {
    name: "cpu_s_per_gib",
    unit: "s",
    bound: Some(Bound::AtMost(1.6)),
    about: "processor seconds of both nodes and of the command, for 1 GiB",
};
const CEILING_OVER_RSYNC: MetricSpec = MetricSpec {
    name: "ceiling_over_rsync",
    unit: "ratio",
    bound: Some(Bound::AtMost(0.75)),
    about: "the ceiling's seconds over those of rsync's daemon",
};
const RATIO_STREAMS: MetricSpec = MetricSpec {
    name: "ratio_streams",
    unit: "ratio",
    bound: None,
    about: "blobmesh from a holder without lanes, in its seconds over those with lanes",
};
const SECONDS: MetricSpec =
    MetricSpec { name: "blobmesh_s", unit: "s", bound: None, about: "the median of the get" };

const METRICS: &[MetricSpec] = &[
    RATIO_RSYNC,
    RATIO_NGINX_H2,
    RATIO_LIBTORRENT,
    RATIO_IROH,
    RATIO_RSYNC_TMPFS,
    CPU_S_PER_GIB,
    RATIO_CEILING,
    CEILING_OVER_RSYNC,
    RATIO_RSYNC_OUTPUT,
    RATIO_RSYNC_NO_STORE,
    RATIO_STREAMS,
    SECONDS,
];

const OURS: &str = "blobmesh";
const OURS_OUTPUT: &str = "blobmesh -o";
const OURS_NO_STORE: &str = "blobmesh --no-store";
const OURS_TMPFS: &str = "blobmesh tmpfs";
const STREAMS: &str = "streams";
const CEILING: &str = "ceiling";
const RSYNC: &str = "rsync";
const RSYNC_TMPFS: &str = "rsync tmpfs";
const NGINX: &str = "nginx h2";
const LIBTORRENT: &str = "libtorrent";
const IROH: &str = "iroh-blobs";

const fn at_least(name: &'static str, least: f64, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(least)), about }
}

fn run(setting: &Setting) -> io::Result<Figures> {
    let len = setting.mib << 20;
    let room = setting.room(&setting.dir, COPIES_MAX * len + (1 << 30))?;
    let tmpfs = setting.tmpfs_room(2 * len + (1 << 30));
    let source = content::make(&room.path().join("source").join("blob"), 1, len)?;
    let ours = Ours::start(setting, room.path(), &source)?;
    let rivals = Servers::start(setting, room.path(), &source)?;
    let mut contenders = ours.contenders(room.path(), tmpfs.as_ref().map(tempfile::TempDir::path));
    contenders.extend(rivals.contenders(room.path(), tmpfs.as_ref().map(tempfile::TempDir::path)));
    let rows = setting.take_turns(contenders, OURS)?;
    Ok(figures(setting, &rows, len, tmpfs.is_some()))
}

fn figures(setting: &Setting, rows: &Rows, len: u64, has_tmpfs: bool) -> Figures {
    let file_system = machine::file_system(&setting.dir);
    let head = format!(
        "blob: {} MiB, {} rounds, {file_system}{}; a ratio is seconds over blobmesh's, 1 and above is ours",
        setting.mib,
        setting.runs,
        if has_tmpfs { " and tmpfs" } else { "" }
    );
    let mut figures = Figures {
        text: format!("{head}\n{}", rows.table(OURS, len)),
        raw: json!({ "bytes": len, "file_system": file_system, "contenders": rows }),
        ..Figures::default()
    };
    let ratio = |over, under| rows.ratio(over, under).map(|ratio| ratio.median);
    figures.put(&RATIO_RSYNC, ratio(RSYNC, OURS));
    figures.put(&RATIO_NGINX_H2, ratio(NGINX, OURS));
    figures.put(&RATIO_LIBTORRENT, ratio(LIBTORRENT, OURS));
    figures.put(&RATIO_IROH, ratio(IROH, OURS));
    figures.put(&RATIO_RSYNC_TMPFS, ratio(RSYNC_TMPFS, OURS_TMPFS));
    figures.put(&RATIO_CEILING, ratio(CEILING, OURS));
    figures.put(&CEILING_OVER_RSYNC, ratio(CEILING, RSYNC));
    figures.put(&RATIO_RSYNC_OUTPUT, ratio(RSYNC, OURS_OUTPUT));
    figures.put(&RATIO_RSYNC_NO_STORE, ratio(RSYNC, OURS_NO_STORE));
    figures.put(&RATIO_STREAMS, ratio(STREAMS, OURS));
    let both = |taken: &Taken| Some(taken.serving.processor_s + taken.fetching.processor_s);
    figures.put(&CPU_S_PER_GIB, rows.median(OURS, both).map(|both| both / gib(len)));
    figures.put(&SECONDS, rows.median(OURS, |taken| Some(taken.seconds)));
    figures
}

/// Says where a get leaves the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Store,
    StoreAndFile,
    File,
}

/// Our own holders.
struct Ours<'a> {
    setting: &'a Setting,
    source: &'a Made,
    with_lanes: (BenchNode, String),
    without_lanes: (BenchNode, String),
}

impl<'a> Ours<'a> {
    fn start(setting: &'a Setting, room: &Path, source: &'a Made) -> io::Result<Self> {
        let holder = |name: &str, lane_port: &str| {
            let node = BenchNode::start(&setting.program, &room.join(name), &[], lane_port)?;
            node.add(std::slice::from_ref(source))?;
            let address = node.address()?;
            io::Result::Ok((node, address))
        };
        let (with_lanes, without_lanes) = (holder("holder", "any")?, holder("without", "off")?);
        Ok(Self { setting, source, with_lanes, without_lanes })
    }

    fn contenders<'b>(&'b self, room: &'b Path, tmpfs: Option<&'b Path>) -> Vec<Contender<'b>> {
        let contender = |name, holder: &'b (BenchNode, String), room: &'b Path, to| Contender {
            name,
            run: Box::new(move |round| self.get(round, holder, room, to)),
        };
        let mut contenders = vec![
            contender(OURS, &self.with_lanes, room, To::Store),
            contender(OURS_OUTPUT, &self.with_lanes, room, To::StoreAndFile),
            contender(OURS_NO_STORE, &self.with_lanes, room, To::File),
            contender(STREAMS, &self.without_lanes, room, To::Store),
        ];
        contenders
            .extend(tmpfs.map(|tmpfs| contender(OURS_TMPFS, &self.with_lanes, tmpfs, To::Store)));
        contenders
    }

    /// Gets the blob with a fresh node, whose start is not timed.
    fn get(
        &self,
        round: Round,
        (holder, address): &(BenchNode, String),
        room: &Path,
        to: To,
    ) -> io::Result<Taken> {
        let (home, got) = (room.join("getter"), room.join("got"));
        let peers = std::slice::from_ref(address);
        let getter = BenchNode::start(&self.setting.program, &home, peers, "any")?;
        content::warm(&holder.blob_file(self.source.hash))?;
        settle(room, self.source.len)?;
        let taken =
            measure(&[holder.process.tree()], &[getter.process.tree()], |sides| match to {
                To::Store => getter.get(sides, &[self.source.hash]),
                To::StoreAndFile => getter.get_to(sides, self.source.hash, &got, &[]),
                To::File => getter.get_to(sides, self.source.hash, &got, &["--no-store"]),
            })?;
        if to != To::File {
            check_held(round, &getter, self.source)?;
        }
        if to != To::Store {
            check(round, &got, self.source)?;
            fs::remove_file(got)?;
        }
        getter.process.end()?;
        fs::remove_dir_all(home)?;
        Ok(taken)
    }
}

/// What rivals serve from; none for one that is missing.
struct Servers<'a> {
    setting: &'a Setting,
    source: &'a Made,
    ceiling: (Background, String),
    rsync: Option<Daemon>,
    nginx: Option<Nginx>,
    libtorrent: Option<Seeder>,
    iroh: Option<Provider>,
}

impl<'a> Servers<'a> {
    fn start(setting: &'a Setting, room: &Path, source: &'a Made) -> io::Result<Self> {
        let served = source.path.parent().unwrap_or(room);
        let rivals = &setting.rivals;
        let rsync = rivals.find(Rival::Rsync);
        let web = rivals.find_all([Rival::Nginx, Rival::Openssl, Rival::Curl]);
        let python = rivals.find(Rival::Libtorrent);
        let iroh = rivals.find(Rival::Iroh);
        let files = std::iter::once(source.path.as_path());
        Ok(Self {
            setting,
            source,
            ceiling: start_ceiling(&setting.ceiling, &source.path, room)?,
            rsync: rsync.map(|rsync| Daemon::start(&rsync, served, room)).transpose()?,
            nginx: web
                .map(|[nginx, openssl, _]| Nginx::start(&nginx, &openssl, served, room))
                .transpose()?,
            libtorrent: python
                .map(|python| Seeder::start(&python, &source.path, room))
                .transpose()?,
            iroh: iroh.map(|iroh| Provider::start(&iroh, files, room)).transpose()?,
        })
    }

    fn contenders<'b>(&'b self, room: &'b Path, tmpfs: Option<&'b Path>) -> Vec<Contender<'b>> {
        let mut contenders =
            vec![Contender { name: CEILING, run: Box::new(|round| self.ceiling(round, room)) }];
        if let Some(daemon) = &self.rsync {
            let mut rsync = |name, room| {
                let run = Box::new(move |round| self.rsync(round, daemon, room));
                contenders.push(Contender { name, run });
            };
            rsync(RSYNC, room);
            tmpfs.into_iter().for_each(|tmpfs| rsync(RSYNC_TMPFS, tmpfs));
        }
        if let Some(nginx) = &self.nginx {
            let run = Box::new(|round| self.nginx(round, nginx, room));
            contenders.push(Contender { name: NGINX, run });
        }
        if let Some(seeder) = &self.libtorrent {
            let run = Box::new(|round| self.libtorrent(round, seeder, room));
            contenders.push(Contender { name: LIBTORRENT, run });
        }
        if let Some(provider) = &self.iroh {
            let run = Box::new(|_| self.iroh(provider, room));
            contenders.push(Contender { name: IROH, run });
        }
        contenders
    }

    fn ceiling(&self, round: Round, room: &Path) -> io::Result<Taken> {
        let (serving, port) = &self.ceiling;
        self.to_file(round, serving.tree(), room, |sides, got| {
            let mut command = Command::new(&self.setting.ceiling);
            command.args(["fetch", port, &self.source.len.to_string()]).arg(got);
            sides.run(&mut command).map(|(_, took)| took)
        })
    }

    fn rsync(&self, round: Round, daemon: &Daemon, room: &Path) -> io::Result<Taken> {
        self.to_file(round, daemon.process.tree(), room, |sides, got| {
            daemon.fetch(sides, &self.source.name, got)
        })
    }

    fn nginx(&self, round: Round, nginx: &Nginx, room: &Path) -> io::Result<Taken> {
        self.to_file(round, nginx.process.tree(), room, |sides, got| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--fail", "--insecure", "--http2", "--max-time", "600"]);
            command.arg("--output").arg(got).arg(nginx.tls_url(&self.source.name));
            sides.run(&mut command).map(|(_, took)| took)
        })
    }

    fn libtorrent(&self, round: Round, seeder: &Seeder, room: &Path) -> io::Result<Taken> {
        let to = room.join("torrent");
        fs::create_dir(&to)?;
        let mut leecher = seeder.leecher(&to)?;
        self.settle(room)?;
        let (serving, fetching) = (seeder.dialogue.tree(), leecher.dialogue.tree());
        let taken = measure(&[serving], &[fetching], |_| leecher.fetch())?;
        check(round, &to.join(&self.source.name), self.source)?;
        drop(leecher);
        fs::remove_dir_all(to)?;
        Ok(taken)
    }

    fn iroh(&self, provider: &Provider, room: &Path) -> io::Result<Taken> {
        let store = room.join("iroh-getter");
        let mut getter = provider.getter(&store)?;
        self.settle(room)?;
        let (serving, fetching) = (provider.dialogue.tree(), getter.dialogue.tree());
        let taken = measure(&[serving], &[fetching], |_| getter.fetch(self.source.hash))?;
        drop(getter);
        fs::remove_dir_all(store)?;
        Ok(taken)
    }

    /// Times a command that fetches to a file.
    fn to_file(
        &self,
        round: Round,
        serving: Tree,
        room: &Path,
        fetch: impl FnOnce(&Sides, &Path) -> io::Result<Duration>,
    ) -> io::Result<Taken> {
        let got = room.join("got");
        self.settle(room)?;
        let taken = measure(&[serving], &[], |sides| fetch(sides, &got))?;
        check(round, &got, self.source)?;
        fs::remove_file(got)?;
        Ok(taken)
    }

    fn settle(&self, room: &Path) -> io::Result<()> {
        content::warm(&self.source.path)?;
        settle(room, self.source.len)
    }
}

fn start_ceiling(ceiling: &Path, source: &Path, room: &Path) -> io::Result<(Background, String)> {
    let ready = room.join("port");
    let mut command = Command::new(ceiling);
    command.arg("serve").arg(source).arg("--ready-file").arg(&ready);
    let mut process = Background::start(&mut command)?;
    process.until("the ceiling", SOON, || ready.exists())?;
    let port = fs::read_to_string(ready)?;
    Ok((process, port))
}
