//! What experiments with an edge share: one office behind one uplink, an edge in the internet, and blobs in
//! its bucket.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Trial, lan};
use crate::{
    netns::{
        blob,
        client::Receipt,
        command,
        edge::{self, Door, EdgeServer, Filler, Served},
        error::Error,
        lab::Host,
        machine::Processors,
        metric::share,
        process::Node,
        relay::{Counters, Layout, Link, Site},
        tools,
    },
    plan::{self, Distribution},
};

/// The flags of a node that knows the edge by its plain door.
pub(super) const EDGE_FLAGS: [&str; 2] = ["--edge", Door::Plain.url()];

/// Makes an office of equal hosts, and behind its uplink an edge whose own wire is no limit.
pub(super) fn layout(nodes: u8, link: Link, uplink: Link) -> Layout {
    let site = Site { hosts: vec![link; nodes.into()], uplink };
    Layout { sites: vec![site], internet: vec![Link::default()], ..Layout::default() }
}

/// Is the edge, which runs until this is dropped, and the way to fill its bucket.
pub(super) struct Edge<'a> {
    filler: Filler<'a>,
    server: EdgeServer,
}

/// Is a blob of the bucket, and a file with its bytes.
pub(super) struct Original {
    pub(super) path: PathBuf,
    pub(super) hash: String,
    pub(super) bytes: u64,
}

impl<'a> Edge<'a> {
    /// Starts the edge on the host behind the nodes', and leads all nodes to it.
    pub(super) fn start(trial: &Trial<'a, '_>) -> Result<Self, Error> {
        let (setting, nodes) = (trial.setting, trial.nodes);
        let host = setting.lab.host(nodes.saturating_add(1))?;
        for number in 1..=nodes {
            edge::lead_to(setting, setting.lab.host(number)?, host)?;
        }
        let spec = plan::Edge::after(Distribution::constant(0));
        let server = EdgeServer::start(setting, host, &spec, 0)?;
        Ok(Self { filler: Filler::new(setting, host)?, server })
    }

    /// Makes a blob and puts it into the bucket as `push` does, with its group list.
    pub(super) fn push(
        &self,
        trial: &Trial<'_, '_>,
        bytes: u64,
        seed: u64,
    ) -> Result<Original, Error> {
        let original = Original::new(trial, bytes, seed)?;
        self.filler.push(&original.path, &original.hash)?;
        Ok(original)
    }

    /// Makes a blob and puts it into the bucket as another tool would, without a group list.
    pub(super) fn put(
        &self,
        trial: &Trial<'_, '_>,
        bytes: u64,
        seed: u64,
    ) -> Result<Original, Error> {
        let original = Original::new(trial, bytes, seed)?;
        self.filler.put(&original.path, &original.hash)?;
        Ok(original)
    }

    pub(super) fn served(&self) -> Served {
        self.server.served()
    }

    pub(super) fn served_to(&self, client: &Host) -> Served {
        self.server.served_to(client)
    }
}

impl Original {
    pub(super) fn new(trial: &Trial<'_, '_>, bytes: u64, seed: u64) -> Result<Self, Error> {
        let path = trial.setting.lab.path().join(format!("original-{seed}"));
        let hash = blob::write(&path, bytes, seed)?;
        Ok(Self { path, hash, bytes })
    }

    /// Returns where the edge has it, for whoever is no node.
    pub(super) fn url(&self, door: Door) -> String {
        format!("{}/{}", door.url(), edge::path_of(&self.hash))
    }

    /// Adds it at a node, which must give it the hash that it has.
    pub(super) fn add_to(&self, node: &Node<'_>) -> Result<(), Error> {
        let answer = node.home.add(&self.path)?;
        if answer == self.hash {
            return Ok(());
        }
        let problem = format!("hash {answer} for a blob of hash {}", self.hash);
        Err(Error::Answer { command: "blobmesh add".to_owned(), problem })
    }

    /// Gets it into a file from a node's own store, and counts the bytes that are not the original's.
    pub(super) fn wrong_bytes_at(&self, node: &Node<'_>) -> Result<u64, Error> {
        let output = node.home.file(".output");
        if node.home.try_get(&self.hash, Some(&output), lan::TRANSFER_LIMIT)?.is_none() {
            return Ok(self.bytes);
        }
        self.wrong_bytes_in(&output)
    }

    /// Counts the bytes of a file that are not the original's, and removes it.
    pub(super) fn wrong_bytes_in(&self, output: &Path) -> Result<u64, Error> {
        let differing = blob::differing(output, &self.path)?;
        fs::remove_file(output).map_err(Error::file("remove", output))?;
        Ok(differing)
    }
}

/// Is what both sides of a comparison need.
pub(super) struct Rivals {
    curl: PathBuf,
    /// The certificate by which they know the edge.
    certificate: PathBuf,
}

impl Rivals {
    pub(super) fn new(trial: &Trial<'_, '_>) -> Result<Self, Error> {
        Ok(Self { curl: tools::curl()?, certificate: edge::certificate(trial.setting)? })
    }

    /// Has curl get the blob into a file; returns how long its command took.
    pub(super) fn get_by_curl(
        &self,
        trial: &Trial<'_, '_>,
        door: Door,
        original: &Original,
        limit: Duration,
    ) -> Result<Duration, Error> {
        let output = trial.setting.lab.path().join("curl.output");
        let mut words = trial.setting.lab.command(trial.setting.lab.host(1)?, &self.curl);
        words.args(["--silent", "--show-error", "--fail", "--write-out", "%{http_version}"]);
        words.arg("--cacert").arg(&self.certificate).arg("--output").arg(&output);
        words.arg(original.url(door));
        let started = Instant::now();
        let finished = command::run(words, b"", limit, trial.setting.stop)?.success()?;
        let took = started.elapsed();
        let version = finished.stdout.trim();
        // A baseline that is not the whole blob is none, nor is one by another protocol.
        match original.wrong_bytes_in(&output)? {
            0 if version == version_of(door) => Ok(took),
            wrong => {
                let problem = format!("{wrong} wrong bytes, by HTTP/{version}");
                Err(Error::Answer { command: "curl".to_owned(), problem })
            }
        }
    }

    /// Returns the flags of a node that goes through a door.
    pub(super) fn flags(&self, door: Door) -> Vec<String> {
        match door {
            Door::Plain => EDGE_FLAGS.map(str::to_owned).to_vec(),
            Door::Tls => tls_flags(&self.certificate),
        }
    }
}

/// Returns the flags of a node that knows the edge by its door of TLS and HTTP/2.
pub(super) fn tls_flags(certificate: &Path) -> Vec<String> {
    let certificate = certificate.display().to_string();
    ["--edge", Door::Tls.url(), "--edge-ca", &certificate].map(str::to_owned).to_vec()
}

/// Returns the version of HTTP that curl is to say it spoke.
const fn version_of(door: Door) -> &'static str {
    match door {
        Door::Plain => "1.1",
        Door::Tls => "2",
    }
}

/// Is how a get at an office ended, and when.
pub(super) struct Ended {
    /// None where it failed, however.
    pub(super) receipt: Option<Receipt>,
    pub(super) at: Instant,
}

/// Is a stretch of an experiment of which the cost is told.
pub(super) struct Stretch {
    counters: Counters,
    processors: Processors,
    nodes_s: f64,
}

/// Is what a stretch cost this machine.
pub(super) struct Cost {
    /// The time of the processors that was used, by whomever.
    pub(super) load: f64,
    /// What the nodes took of it, in seconds.
    pub(super) nodes_s: f64,
    /// What the relay took of it, in seconds.
    pub(super) relay_s: f64,
    /// The frames that the relay handed over more than 1 ms late.
    pub(super) late_share: f64,
    /// The bytes that came into the office through its uplink, headers included.
    pub(super) uplink_bytes: u64,
}

impl Stretch {
    pub(super) fn begin(trial: &Trial<'_, '_>, nodes: &[Node<'_>]) -> Result<Self, Error> {
        Ok(Self {
            counters: trial.setting.lab.network()?.counters()?,
            processors: Processors::now(),
            nodes_s: lan::processor_s(nodes)?,
        })
    }

    pub(super) fn end(&self, trial: &Trial<'_, '_>, nodes: &[Node<'_>]) -> Result<Cost, Error> {
        let (before, after) = (&self.counters, trial.setting.lab.network()?.counters()?);
        let came = |counters: &Counters| counters.uplinks.first().map_or(0, |up| up.down.bytes);
        let relay = after.pace.processor_time.saturating_sub(before.pace.processor_time);
        let late = after.pace.late_frames.saturating_sub(before.pace.late_frames);
        Ok(Cost {
            load: Processors::now().load_since(self.processors),
            nodes_s: lan::processor_s(nodes)? - self.nodes_s,
            relay_s: relay.as_secs_f64(),
            late_share: share(late, after.pace.frames.saturating_sub(before.pace.frames)),
            uplink_bytes: came(&after).saturating_sub(came(before)),
        })
    }
}

/// Returns the middle one of some figures, the larger of two; NaN of none, and where one is no number.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    if figures.iter().any(|figure| figure.is_nan()) {
        return f64::NAN;
    }
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the last but one of some figures in their order; NaN of fewer, and with one that is no number.
pub(super) fn slowest_but_one(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let index = figures.len().checked_sub(2);
    index.and_then(|index| figures.get(index)).copied().unwrap_or(f64::NAN)
}

/// Returns a time in milliseconds.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_a_figure_that_was_measured_and_none_with_a_failure_among_them() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(median(vec![1.0, f64::NAN, 2.0]).is_nan());
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn slowest_but_one_of_a_hundred_is_the_99th() {
        let figures = (1..=100).rev().map(f64::from).collect();
        assert!((slowest_but_one(figures) - 99.0).abs() < 1e-9);
        assert!(slowest_but_one(vec![1.0]).is_nan());
    }
}
