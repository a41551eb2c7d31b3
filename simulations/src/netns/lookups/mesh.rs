//! Real nodes that know each other by the DHT alone, and their searches.

use std::{io::Write, time::Duration};

use serde::Deserialize;

use super::{LookupCell, MeasuredCell, Options, Searches};
use crate::netns::{
    blob,
    error::Error,
    lab::Lab,
    process::{Home, Node, Setting},
    relay::{Layout, Link},
    replay::Busy,
    stop::Stop,
};

/// How long nodes may take until they list the first one.
const MEET_LIMIT: Duration = Duration::from_secs(60);
const MEET_PAUSE: Duration = Duration::from_millis(100);

/// How long the routing tables are given to fill: each node looks for itself when it first hears of another.
const FILL_PAUSE: Duration = Duration::from_secs(12);

/// How long adverts are given to reach those who keep them.
const ADVERT_PAUSE: Duration = Duration::from_secs(5);

/// How long nobody says anything, so that all connections but those of neighbours are closed: nodes close
/// them after 90 seconds.
const IDLE_PAUSE: Duration = Duration::from_secs(96);

/// Searches of each node over the connections it has; one more before them sees to it that it has them.
const WARM_SEARCHES: usize = 3;

/// One node in so many searches in vain after the silence, the others get a blob.
const VAIN_OF: usize = 2;

const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The length of a blob: what a new connection sends without waiting for a word.
const BLOB_BYTES: u64 = 8 << 10;

pub(super) fn measure(
    options: &Options,
    stop: &Stop,
    talk: &mut dyn Write,
) -> Result<Vec<MeasuredCell>, Error> {
    if !options.binary.is_file() {
        return Err(Error::NoBinary { path: options.binary.clone() });
    }
    let layout = Layout::lan(options.nodes, Link::default());
    let lab = Lab::shaped(&layout, stop)?;
    let mut mesh = Mesh {
        setting: Setting { lab: &lab, binary: &options.binary, stop },
        nodes: Vec::new(),
        ticket: String::new(),
        first: true,
        blobs: 0,
    };
    let mut measured = Vec::new();
    for cell in LookupCell::all(options.nodes) {
        let (nodes, micros) = (cell.nodes, cell.latency_us);
        let _unheard = writeln!(talk, "lookups: {nodes} nodes, {micros} us from node to node");
        measured.push(mesh.measure(cell)?);
    }
    Ok(measured)
}

/// Is the nodes that run, the first of which all others were told of.
struct Mesh<'a> {
    setting: Setting<'a>,
    nodes: Vec<Node<'a>>,
    ticket: String,
    /// Whether the nodes go before whatever else the machine does.
    first: bool,
    /// How many blobs were made, so that no two are the same.
    blobs: u64,
}

impl Mesh<'_> {
    fn measure(&mut self, cell: LookupCell) -> Result<MeasuredCell, Error> {
        let stop = self.setting.stop;
        for host in self.setting.lab.hosts() {
            let link = Link { delay: cell.latency() / 2, ..Link::default() };
            self.setting.lab.network()?.set_link(host, link, stop)?;
        }
        self.start(cell)?;
        stop.pause(FILL_PAUSE)?;
        let busy = Busy::begin(&self.pids());
        let mut searches = Searches::default();
        for node in &self.nodes {
            self.search_in_vain(node)?;
            for _ in 0..WARM_SEARCHES {
                searches.warm.extend(self.search_in_vain(node)?);
            }
        }
        let shares = busy.shares(&self.pids());
        let processor_share = if self.first { shares.own } else { shares.machine };
        let hashes = self.add_blobs()?;
        stop.pause(ADVERT_PAUSE + IDLE_PAUSE)?;
        for (number, node) in self.nodes.iter().enumerate() {
            if number % VAIN_OF == 0 {
                searches.cold.extend(self.search_in_vain(node)?);
            } else if let Some(hash) = hashes.get((number + hashes.len() / 2) % hashes.len().max(1))
            {
                self.get(node, hash, &mut searches)?;
            }
        }
        // The next cell has nodes of its own: adverts that these renew would keep connections open.
        self.nodes.drain(..).rev().try_for_each(Node::discard)?;
        Ok(MeasuredCell { cell, processor_share, searches })
    }

    /// Starts the nodes of a cell; each knows the first when this returns.
    fn start(&mut self, cell: LookupCell) -> Result<(), Error> {
        let setting = self.setting;
        for number in 1..=cell.nodes {
            let name = format!("n{number}-{}-{}", cell.nodes, cell.latency_us);
            let home = Home::new(setting, setting.lab.host(number)?, &name)?;
            let known = self.nodes.first().map(|first| first.home.multiaddress());
            let mut flags = vec!["--no-mdns"];
            match &known {
                None => self.ticket = home.invite()?,
                Some(known) => {
                    home.join(&self.ticket)?;
                    flags.extend(["--peer", known]);
                }
            }
            let mut node = home.start(&flags)?;
            self.first &= node.hurry();
            node.ready()?;
            self.nodes.push(node);
        }
        let Some((first, others)) = self.nodes.split_first() else { return Ok(()) };
        setting.stop.until("nodes to list the first", MEET_LIMIT, MEET_PAUSE, || {
            for node in others {
                if !node.home.peers()?.iter().any(|row| row.peer == first.peer) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Has every node but the first add and advertise a blob of its own; returns their hashes. What the first
    /// has its neighbours know without the DHT, and all are.
    fn add_blobs(&mut self) -> Result<Vec<String>, Error> {
        let mut hashes = Vec::new();
        for node in self.nodes.iter().skip(1) {
            let path = self.setting.lab.path().join("blob");
            self.blobs += 1;
            hashes.push(blob::write(&path, BLOB_BYTES, self.blobs)?);
            node.home.add(&path)?;
            std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
        Ok(hashes)
    }

    /// Searches a blob that nobody has; returns how long the search took, if it came to its end.
    fn search_in_vain(&self, node: &Node<'_>) -> Result<Option<f64>, Error> {
        let hash = nobodys_hash(&node.home.name, self.blobs);
        node.home.get(&hash, None)?;
        let why = why(node, &hash)?;
        Ok(why.dht.filter(|search| search.ended).map(|search| search.ms / 1e3))
    }

    /// Gets a blob that another node advertised.
    fn get(&self, node: &Node<'_>, hash: &str, searches: &mut Searches) -> Result<(), Error> {
        let receipt = node.home.get(hash, None)?;
        // Its own, or one that the first node passes on.
        if receipt.as_ref().is_some_and(|receipt| matches!(receipt.found.as_str(), "local" | "lan"))
        {
            return Ok(());
        }
        searches.gets += 1;
        if receipt.is_some_and(|receipt| receipt.found == "dht") {
            let phases = why(node, hash)?.phases;
            searches.found += 1;
            searches.named.push(phases.find_s);
            searches.first_group.push(phases.first_group_s);
        }
        Ok(())
    }

    fn pids(&self) -> Vec<rustix::process::Pid> {
        self.nodes.iter().filter_map(|node| node.pid().ok()).collect()
    }
}

/// Returns the hash of what nobody has; each search looks for the same as the last of its node.
fn nobodys_hash(node: &str, round: u64) -> String {
    blake3::hash(format!("nobody has it: {node}, {round}").as_bytes()).to_hex().to_string()
}

fn why(node: &Node<'_>, hash: &str) -> Result<Why, Error> {
    let finished = node.home.run(&["why", hash], b"", COMMAND_LIMIT)?.success()?;
    let mut lines = finished.stdout.lines().rev();
    lines.find_map(|line| serde_json::from_str(line).ok()).ok_or_else(|| Error::Answer {
        command: finished.command.clone(),
        problem: "no line is a receipt".to_owned(),
    })
}

/// Is what is read of a `why`.
#[derive(Debug, Deserialize)]
struct Why {
    phases: Phases,
    dht: Option<Dht>,
}

#[derive(Debug, Deserialize)]
struct Phases {
    find_s: f64,
    first_group_s: f64,
}

#[derive(Debug, Deserialize)]
struct Dht {
    ms: f64,
    ended: bool,
}
